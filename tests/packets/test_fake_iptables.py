"""The tables in memory that unit tests stand on behave like the kernel's: one script, both run."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from kpctl.lab.netns import Namespace
from proxy.engine.iptables.reconciler import RulesPort
from proxy.kernel.iptables import ProgramIptables, RestoreRejected
from proxy.kernel.xtables_backend import Backend
from proxy.model.addresses import IPFamily
from tests.packets.flows.site import PREFIX
from tests.support.fake_iptables import FakeIptables

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

SCRIPT = {
    "chains and rules": (
        "*nat\n:KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-A KUBE-A -s 10.0.0.1/32 -j KUBE-B\n"
        "-A KUBE-B -j ACCEPT\n-I KUBE-A -s 10.0.0.2/32 -j RETURN\nCOMMIT\n"
    ),
    "a declaration empties": "*nat\n:KUBE-B - [0:0]\n-A KUBE-B -s 10.0.0.3/32 -j RETURN\nCOMMIT\n",
    "a rule that is not there": "*nat\n-A KUBE-B -j ACCEPT\n-D KUBE-B -s 10.9.9.9/32\nCOMMIT\n",
    "the first of equal rules": (
        "*nat\n-A KUBE-B -j ACCEPT\n-A KUBE-B -j RETURN\n-A KUBE-B -j ACCEPT\n"
        "-D KUBE-B -j ACCEPT\nCOMMIT\n"
    ),
    "a chain that leads nowhere": "*nat\n-A KUBE-B -j KUBE-NONE\nCOMMIT\n",
    "a chain that is not there": "*nat\n-A KUBE-B -j RETURN\n-A KUBE-NONE -j ACCEPT\nCOMMIT\n",
    "a chain with rules goes": "*nat\n-X KUBE-B\nCOMMIT\n",
    "a chain that is led to goes": "*nat\n:KUBE-B - [0:0]\n-X KUBE-B\nCOMMIT\n",
    "a missing chain goes": "*nat\n-X KUBE-NONE\nCOMMIT\n",
    "a table before the refused one": (
        "*filter\n:KUBE-F - [0:0]\nCOMMIT\n*nat\n:KUBE-C - [0:0]\n-A KUBE-C -j KUBE-NONE\nCOMMIT\n"
    ),
    "the kernel refuses a rule": (
        "*nat\n:KUBE-D - [0:0]\n-A KUBE-D -m nfacct --nfacct-name  none -j ACCEPT\n"
        "-A KUBE-D -j ACCEPT\nCOMMIT\n"
    ),
    "a chain and what leads to it go": (
        "*nat\n:KUBE-B - [0:0]\n-D KUBE-A -s 10.0.0.1/32 -j KUBE-B\n-X KUBE-B\nCOMMIT\n"
    ),
}
_serial = itertools.count(1)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace(f"{PREFIX}{os.getpid()}-fake{next(_serial)}")
    made.create()
    try:
        yield made
    finally:
        made.delete()


def outcome(port: RulesPort, text: str) -> object:
    """What became of a text: accepted, or the line that was refused and whether it is a COMMIT."""
    try:
        port.restore(text)
    except RestoreRejected as refused:
        return refused.line, refused.at_commit, refused.transient
    return "accepted"


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_the_tables_in_memory_answer_as_the_kernel_does(namespace: Namespace, kind: str) -> None:
    backend = Backend(kind, "", variant=f"-{kind}", version=(1, 8, 9))  # type: ignore[arg-type]
    fake = FakeIptables(legacy=kind == "legacy")
    fake.refuse("nfacct")
    with namespace.enter():
        real = ProgramIptables(IPFamily.IPV4, backend)
        accepted = 0
        for what, text in SCRIPT.items():
            answer = outcome(real, text)
            assert outcome(fake, text) == answer, what
            accepted += answer == "accepted"
            for table in ("nat", "filter"):
                ours = {c for c in real.chains(table) if c.startswith("KUBE-")}
                assert {c for c in fake.chains(table) if c.startswith("KUBE-")} == ours, what
                assert all(fake.rules(table, c) == real.rules(table, c) for c in ours), what
        assert accepted == 4
        there = ["-s", "10.0.0.2/32", "-j", "RETURN"]
        for port in (real, fake):
            assert port.has_rule("nat", "KUBE-A", there)
            assert not port.has_rule("nat", "KUBE-A", [*there[:3], "ACCEPT"])
            assert not port.has_rule("nat", "KUBE-NONE", there)
