"""Probing the real kernel: what it has, what it refuses, and that nothing is touched by it."""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy.kernel import trials as trials_module
from proxy.kernel.capabilities import explain, probe, why_refused
from proxy.model.addresses import IPFamily
from proxy.netfilter.fields import expression
from proxy.netfilter.statements import Statement
from proxy.netfilter.wire import u32

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
ROOT = Path(__file__).parents[2]
FAMILIES = pytest.mark.parametrize("family", list(IPFamily))

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN and CAP_SYS_ADMIN"),
]


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def namespace():
    """Move the test's thread into a network namespace with one table, which vanishes with it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert LIBC.unshare(CLONE_NEWNET) == 0
        output("nft", "add table ip kube-proxy; add chain ip kube-proxy services")
        yield
    finally:
        assert LIBC.setns(home, CLONE_NEWNET) == 0
        os.close(home)


@pytest.fixture
def unknown_masquerade(monkeypatch):
    """Let the masquerading rule use an expression that no kernel has."""
    statement = Statement("masquerade fully-random", expression("nosuch", u32(1, 1)))
    monkeypatch.setattr(trials_module, "MASQUERADE", statement)


@FAMILIES
def test_this_kernel_has_everything(family):
    assert probe(family) == ()
    assert why_refused(family) == ""


@FAMILIES
def test_an_expression_the_kernel_does_not_know_is_named(unknown_masquerade, family):
    (missing,) = probe(family)
    assert missing.feature == "masquerade fully-random"
    assert (missing.kernel_option, missing.module) == ("CONFIG_NFT_MASQ", "nft_masq")
    assert missing.error.startswith("No such file or directory")
    assert explain((missing,)) in why_refused(family)


def test_no_namespace_and_no_table_is_touched(namespace, unknown_masquerade):
    def seen():
        return (
            Path("/proc/self/ns/net").readlink(),
            Path("/proc/thread-self/ns/net").readlink(),
            output("nft", "list", "ruleset"),
        )

    before = seen()
    assert "kube-proxy" in before[2]
    assert len(probe(IPFamily.IPV4)) == 1
    assert seen() == before


@FAMILIES
def test_a_kernel_that_has_everything_answers_within_a_tenth_of_a_second(family):
    def seconds() -> float:
        started = time.perf_counter()
        assert why_refused(family) == ""
        return time.perf_counter() - started

    # The fastest of several, since the machine may be busy with something else.
    assert min(seconds() for _ in range(5)) < 0.1


@pytest.mark.parametrize(
    ("capability", "words"),
    [
        ("sys_admin", "cannot make a network namespace to try it in"),
        ("net_admin", "trying it needs CAP_NET_ADMIN"),
    ],
)
def test_without_rights_it_is_unknown_what_is_missing(capability, words):
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    program = (
        "from proxy.kernel.capabilities import why_refused\n"
        "from proxy.model.addresses import IPFamily\n"
        "print(why_refused(IPFamily.IPV4))"
    )
    text = subprocess.run(
        ["setpriv", f"--bounding-set=-{capability}", sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    assert text.startswith("It is unknown whether the kernel lacks something: ")
    assert words in text
    assert "The kernel refuses" not in text
