"""All nodes through the API: real programs in the namespaces of two nodes, read as on the node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from diagnostics.snapshot.open import open_snapshot
from diagnostics.snapshot.parts import Part
from kpctl.lab.netns import Namespace
from proxy.model.addresses import IPFamily
from tests.support.exec_apiserver import ABSENT, ExecApi, Output, Programs

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

_KPCTL = [sys.executable, "-m", "kpctl", "snapshot"]


def programs(namespace: Namespace, absent: Sequence[str] = ()) -> Programs:
    """Run programs in a namespace, as a container without *absent* does."""

    def run(argv: Sequence[str]) -> Output:
        if argv[0] in absent:
            return ABSENT
        command = ["ip", "netns", "exec", namespace.name, *argv]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        return Output(done.stdout, done.stderr, done.returncode)

    return run


@pytest.fixture
def nodes() -> Iterator[tuple[Namespace, Namespace]]:
    made = tuple(Namespace(f"kpctl-t-all-{name}-{os.getpid()}") for name in "ab")
    try:
        for number, node in enumerate(made):
            node.create()
            node.run(["ip", "link", "set", "lo", "up"])
            node.run(["ip", "address", "add", f"10.77.{number}.1/24", "dev", "lo"])
            node.run(["nft", "add", "table", "ip", "kube-proxy"])
            node.run(["nft", "add", "chain", "ip", "kube-proxy", f"node-{number}"])
            for command in ("-N KUBE-SERVICES", "-A PREROUTING -j KUBE-SERVICES"):
                node.run(["iptables", "-t", "nat", *command.split()])
        yield made[0], made[1]
    finally:
        for node in made:
            node.delete()


def test_each_node_is_what_it_would_say_of_itself(
    nodes: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    with ExecApi() as api:
        for name, node in zip("ab", nodes, strict=True):
            api.add_node(name, programs(node))
        kubeconfig = str(api.kubeconfig(tmp_path / "config"))
        path = tmp_path / "x.tar.gz"
        arguments = ["--all-nodes", "--yes", "--kubeconfig", kubeconfig, "-o", str(path)]
        subprocess.run([*_KPCTL, *arguments], check=True, timeout=120, capture_output=True)
    found = open_snapshot(path)
    assert found.names() == ("a", "b")
    for number, (name, node) in enumerate(zip("ab", nodes, strict=True)):
        own = tmp_path / f"own-{name}"
        node.run([*_KPCTL, "--node-only", "-o", str(own)])
        here, there = open_snapshot(own).node(), found.node(name)
        assert there.links() == here.links()
        assert f"10.77.{number}.1" in {str(one.address) for _, one in there.links().addresses()}
        for family in IPFamily:
            assert there.iptables(family).tables.keys() == here.iptables(family).tables.keys()
        assert there.nft() == here.nft()
        assert f"node-{number}" in str(there.text(Part.NFT_JSON))
        assert there.sysctls() == here.sysctls()


def test_an_image_with_nothing_but_rules_still_gives_the_rules(
    nodes: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    lacking = ("ip", "sysctl", "ls", "cat", "tail", "ipvsadm", "sh")
    with ExecApi() as api:
        api.add_node("a", programs(nodes[0], lacking))
        kubeconfig = str(api.kubeconfig(tmp_path / "config"))
        arguments = ["--all-nodes", "--yes", "--kubeconfig", kubeconfig, "-o", "-"]
        done = subprocess.run([*_KPCTL, *arguments], check=True, timeout=120, capture_output=True)
    (tmp_path / "x.tar.gz").write_bytes(done.stdout)
    node = open_snapshot(tmp_path / "x.tar.gz").node("a")
    assert "KUBE-SERVICES" in str(node.text(Part.IPTABLES))
    assert "the image has no ip" in str(node.contents(Part.ADDRESSES))
    assert b"the image has no ip (package iproute2); use --debug-pods" in done.stderr
    assert not any(argv[0] in ("sh", "bash") for _, argv in api.ran)
