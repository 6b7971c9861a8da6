"""What ``kpctl snapshot`` tells of the legacy tables, and that looking at them makes none."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpctl.lab.netns import Namespace
from proxy.kernel.command import find_tool

FILE = "iptables-legacy-counters.txt"
_SEND = "import socket; socket.socket(2, 2).sendto(b'x' * 72, ('127.0.0.1', 9))"

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace with its loopback device up."""
    if find_tool("iptables-legacy") is None:
        pytest.skip("iptables-legacy is not installed")
    made = Namespace(f"kpctl-t-legacy-{abs(hash(request.node.nodeid)) % 100000}")
    made.create()
    try:
        made.run(["ip", "link", "set", "lo", "up"])
        yield made
    finally:
        made.delete()


def snapshot(node: Namespace, directory: Path) -> str:
    """The lines that a snapshot of the node has about legacy tables."""
    target = directory / "snapshot"
    node.run([sys.executable, "-m", "kpctl", "snapshot", "-o", str(target)])
    return (target / FILE).read_text()


def test_a_proxys_chains_and_what_went_into_them_are_told(node: Namespace, tmp_path: Path) -> None:
    for chain in ("KUBE-SERVICES", "CNI-X"):
        for command in (f"-N {chain}", f"-A OUTPUT -j {chain}"):
            node.run(["iptables-legacy", "-t", "filter", *command.split()])
    node.run([sys.executable, "-c", _SEND])
    chain_line, jump_line = snapshot(node, tmp_path).splitlines()
    assert chain_line == "IPv4 filter KUBE-SERVICES"
    found = re.fullmatch(
        r"IPv4 filter OUTPUT -> KUBE-SERVICES (\d+) packets (\d+) bytes", jump_line
    )
    assert found
    assert int(found[1]) >= 1
    assert int(found[2]) >= 100


def test_a_node_without_legacy_tables_still_has_none(node: Namespace, tmp_path: Path) -> None:
    assert snapshot(node, tmp_path) == ""
    assert node.run(["cat", "/proc/net/ip_tables_names"]).stdout == ""
