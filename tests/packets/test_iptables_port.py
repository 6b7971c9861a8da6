"""Writing and reading iptables rules through the programs of both backends."""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpctl.lab.netns import Namespace, create_all, delete_all
from proxy.kernel.command import CommandError, Denied
from proxy.kernel.iptables import ProgramIptables, RestoreRejected
from proxy.kernel.legacy_tables import LegacyTables
from proxy.kernel.xtables_backend import (
    Backend,
    KernelTables,
    Kind,
    double_rule_sets,
    wanted_backend,
)
from proxy.model.addresses import IPFamily
from tests.packets.flows.site import PREFIX

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
KINDS: tuple[Kind, ...] = ("nft", "legacy")
_serial = itertools.count(1)


def backend_of(kind: Kind) -> Backend:
    return Backend(kind, "", variant=f"-{kind}", version=(1, 8, 9))


def nat(*lines: str) -> str:
    return "\n".join(("*nat", *lines, "COMMIT", ""))


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of our own, so that neither the host's nor other tests' iptables wait for us."""
    path = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    return path


@pytest.fixture
def node() -> Iterator[Namespace]:
    """A namespace, with the test inside it."""
    namespace = Namespace(f"{PREFIX}{os.getpid()}-ipt{next(_serial)}")
    create_all([namespace])
    with namespace.enter():
        yield namespace
    delete_all([namespace])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(params=IPFamily, ids=lambda family: family.value)
def family(request: pytest.FixtureRequest) -> IPFamily:
    return request.param


@pytest.fixture
def port(node: Namespace, kind: Kind, family: IPFamily) -> ProgramIptables:
    return ProgramIptables(family, backend_of(kind), lock_wait_s=1)


# -- writing and reading ---------------------------------------------------------------------


def test_what_is_written_is_read_back_and_what_is_not_named_stays(port: ProgramIptables) -> None:
    seconds = port.restore(
        nat(
            ":KUBE-SERVICES - [0:0]",
            ":KUBE-SVC-A - [0:0]",
            "-A PREROUTING -j KUBE-SERVICES",
            '-A KUBE-SERVICES -m comment --comment "ns/a \\"x\\"" -j KUBE-SVC-A',
            "-A KUBE-SERVICES -j RETURN",
        )
    )
    assert 0 < seconds < 60
    port.restore(nat(":KUBE-SVC-B - [0:0]", "-A KUBE-SVC-B -j RETURN"))
    assert {"PREROUTING", "KUBE-SERVICES", "KUBE-SVC-A", "KUBE-SVC-B"} <= port.chains("nat")
    assert port.rules("nat", "KUBE-SERVICES") == [
        '-m comment --comment "ns/a \\"x\\"" -j KUBE-SVC-A',
        "-j RETURN",
    ]
    assert port.rules("nat", "KUBE-SVC-A") == []
    assert port.has_rule("nat", "PREROUTING", ["-j", "KUBE-SERVICES"])
    assert not port.has_rule("nat", "PREROUTING", ["-j", "KUBE-SVC-A"])


def test_what_does_not_exist_is_nothing_and_is_not_created(
    port: ProgramIptables, family: IPFamily
) -> None:
    assert port.chains("nat") == frozenset()
    assert port.rules("nat", "KUBE-SERVICES") == []
    assert not port.has_rule("nat", "KUBE-SERVICES", ["-j", "RETURN"])
    for kind in KINDS:
        assert KernelTables().chains(kind, family, "nat") == frozenset()
        assert KernelTables().rule_count(kind, family, 99) == 0
    with LegacyTables(family) as tables:
        assert tables.names() == frozenset()
    port.restore(nat(":KUBE-A - [0:0]"))
    assert port.rules("nat", "KUBE-NONE") == []
    assert not port.has_rule("nat", "KUBE-A", ["-j", "KUBE-NONE"])


def test_a_rule_that_iptables_does_not_understand_is_an_error(port: ProgramIptables) -> None:
    port.restore(nat(":KUBE-A - [0:0]"))
    with pytest.raises(CommandError, match=r'unknown option "--bogus"'):
        port.has_rule("nat", "KUBE-A", ["--bogus"])
    with pytest.raises(CommandError, match="nonesuch"):
        port.has_rule("nat", "KUBE-A", ["-m", "nonesuch"])


def test_a_large_legacy_table_is_read_whole(node: Namespace, family: IPFamily) -> None:
    port = ProgramIptables(family, backend_of("legacy"))
    names = [f"KUBE-SEP-{number:016}" for number in range(3000)]
    rules = [f'-A {name} -m comment --comment "ERROR ERROR" -j RETURN' for name in names]
    port.restore(nat(*(f":{name} - [0:0]" for name in names), *rules, *rules))
    assert port.chains("nat") == {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", *names}
    with LegacyTables(family) as tables:
        assert tables.rule_count("nat") == 6000


def test_reading_stays_in_the_namespace_it_began_in(node: Namespace) -> None:
    ProgramIptables(V4, backend_of("legacy")).restore(nat(":KUBE-A - [0:0]"))
    tables = LegacyTables(V4)
    found: list[frozenset[str]] = []
    other = Namespace(f"{PREFIX}{os.getpid()}-ipt{next(_serial)}")
    create_all([other])

    def read() -> None:
        with other.enter():
            found.append(tables.chains("nat"))
            with LegacyTables(V4) as own:
                found.append(own.names())

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    tables.close()
    delete_all([other])
    assert "KUBE-A" in found[0]
    assert found[1] == frozenset()


# -- refusals --------------------------------------------------------------------------------

_GOOD = ":KUBE-A - [0:0]"


@pytest.mark.parametrize(
    ("lines", "line", "word"),
    [
        ([_GOOD, "-A KUBE-A -j RETURN", "-A KUBE-B -j RETURN"], 4, "line 4 failed"),
        ([_GOOD, "-A KUBE-A --bogus"], 3, 'unknown option "--bogus"'),
        ([_GOOD, "-A KUBE-A -m nosuch -j RETURN"], 3, "nosuch"),
        ([_GOOD, "-A KUBE-A -p tcp -m tcp --dport 99999"], 3, "99999"),
        ([_GOOD, "garbage"], 3, "garbage"),
        ([_GOOD, "-X KUBE-NONE"], 3, "line 3 failed"),
        ([":KUBE-" + "X" * 40 + " - [0:0]"], 2, "XXXX"),
        ([_GOOD, "-A KUBE-A -j RETURN", "-A KUBE-A -j KUBE-NOPE"], 4, "KUBE-NOPE"),
        ([_GOOD, ":KUBE-B - [0:0]", "-A KUBE-B -j KUBE-A", "-X KUBE-A"], 5, "line 5"),
    ],
)
def test_a_refusal_names_the_line_and_changes_nothing(
    port: ProgramIptables, lines: list[str], line: int, word: str
) -> None:
    port.restore(nat(":KUBE-A - [0:0]", "-A KUBE-A -j ACCEPT"))
    with pytest.raises(RestoreRejected) as refused:
        port.restore(nat(*lines))
    assert refused.value.line == line
    assert word in refused.value.message
    assert not refused.value.at_commit
    assert not refused.value.transient
    assert port.rules("nat", "KUBE-A") == ["-j ACCEPT"]


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        # REJECT is for the filter table; a loop of jumps; a counter that does not exist.
        ([_GOOD, "-A KUBE-A -j RETURN", "-A KUBE-A -j REJECT", "-A KUBE-A -j RETURN"], 4),
        ([_GOOD, "-A KUBE-A -j KUBE-A", "-A PREROUTING -j KUBE-A"], 4),
        ([_GOOD, "-A KUBE-A -m nfacct --nfacct-name nonesuch -j RETURN"], 3),
    ],
)
def test_what_the_kernel_refuses_names_the_rule_on_nft_and_the_commit_on_legacy(
    port: ProgramIptables, kind: Kind, lines: list[str], line: int
) -> None:
    port.restore(nat(":KUBE-A - [0:0]", "-A KUBE-A -j ACCEPT"))
    with pytest.raises(RestoreRejected) as refused:
        port.restore(nat(*lines))
    assert refused.value.line == (line if kind == "nft" else len(lines) + 2)
    assert refused.value.at_commit is (kind == "legacy")
    assert not refused.value.transient
    assert port.rules("nat", "KUBE-A") == ["-j ACCEPT"]


def test_a_table_before_the_refused_one_is_kept(port: ProgramIptables) -> None:
    filter_table = nat(":KUBE-FORWARD - [0:0]").replace("*nat", "*filter")
    with pytest.raises(RestoreRejected) as refused:
        port.restore(filter_table + nat("-X KUBE-NONE"))
    assert refused.value.line == 5
    assert "KUBE-FORWARD" in port.chains("filter")


def test_an_unknown_table_is_refused(port: ProgramIptables) -> None:
    with pytest.raises(RestoreRejected, match="nosuch") as refused:
        port.restore("*nosuch\nCOMMIT\n")
    assert refused.value.line == 1


@pytest.mark.parametrize("family", [V4], ids=["IPv4"], indirect=True)
def test_a_lock_that_is_held_is_waited_for_and_then_transient(
    port: ProgramIptables, kind: Kind, lock: Path
) -> None:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if kind == "nft":  # which needs no lock
            port.restore(nat(":KUBE-A - [0:0]"))
        else:
            with pytest.raises(RestoreRejected, match="holding the xtables lock") as refused:
                port.restore(nat(":KUBE-A - [0:0]"))
            assert (refused.value.transient, refused.value.line) == (True, None)
            assert port.why_unusable() == ""
    port.restore(nat(":KUBE-A - [0:0]"))
    assert "KUBE-A" in port.chains("nat")


def test_a_lock_that_may_not_be_opened_is_a_matter_of_rights(
    node: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", "/proc/1/environ/none")
    with pytest.raises((Denied, RestoreRejected), match="can't open lock file") as refused:
        ProgramIptables(V4, backend_of("legacy")).restore(nat(":KUBE-A - [0:0]"))
    assert not getattr(refused.value, "transient", False)


def test_a_family_that_can_be_written_is_usable(port: ProgramIptables) -> None:
    assert port.why_unusable() == ""


# -- the choice of backend, from real tables -------------------------------------------------


def test_the_kubelets_mark_is_seen_in_the_kernel(
    node: Namespace, kind: Kind, family: IPFamily
) -> None:
    mangle = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
    ProgramIptables(family, backend_of(kind)).restore(mangle)
    chosen, why = wanted_backend(KernelTables())
    assert chosen == kind
    assert "KUBE-KUBELET-CANARY" in why


def test_rules_are_counted_in_the_kernel(node: Namespace, kind: Kind, family: IPFamily) -> None:
    other: Kind = "legacy" if kind == "nft" else "nft"
    rules = [":A - [0:0]", ":B - [0:0]", *["-A A -j RETURN"] * 4, "-A PREROUTING -j A"]
    ProgramIptables(family, backend_of(kind)).restore(nat(*rules))
    ProgramIptables(family, backend_of(other)).restore(nat(*rules[:4]))
    reader = KernelTables()
    counts = [reader.rule_count(k, family, 99) for k in (kind, other)]
    assert counts == [5, 2]
    assert reader.rule_count("nft", family, 1) == 1
    assert wanted_backend(reader)[0] == kind


def test_two_rule_sets_are_told(node: Namespace, kind: Kind, family: IPFamily) -> None:
    other: Kind = "legacy" if kind == "nft" else "nft"
    services = nat(":KUBE-SERVICES - [0:0]")
    ProgramIptables(family, backend_of(kind)).restore(services)
    assert double_rule_sets(kind) == ()
    ProgramIptables(family, backend_of(other)).restore(services)
    (told,) = double_rule_sets(kind)
    assert f"{other}'s nat table of {family.value}" in told
