"""``kpctl run --cleanup`` on a node that iptables and IPVS mode were in, and others are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpctl.lab.netns import Namespace
from proxy.config.types import IPTABLES, IPVS
from tests.support import golden
from tests.support.golden import PROGRAMS, golden_node
from tests.support.ipvs_programs import read_state, write_state
from tests.support.kpctl_process import KpctlNode
from tests.support.left_behind import CASE, FOREIGN, Host

pytestmark = [pytest.mark.kernel]

_COUNTERS = re.compile(r"\[\d+:\d+\]")
NODE_IP = "192.168.0.2"
# Of keepalived at an address of its own, and of an administrator at the node's.
FOREIGN_SERVERS = ("203.0.113.7:80", f"{NODE_IP}:8443")
COMMANDS = (
    ["iptables-legacy-save"],
    ["ip6tables-legacy-save"],
    ["ipvsadm", "-Sn"],
    ["ipset", "save"],
    ["ip", "-brief", "addr"],
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[KpctlNode]:
    with golden_node(golden.load(CASE, IPVS), tmp_path) as made:
        _add_what_others_have(made.namespace)
        yield made


def _add_what_others_have(namespace: Namespace) -> None:
    for program in PROGRAMS:
        Host(namespace, "legacy").restore(program, FOREIGN)
    for server in FOREIGN_SERVERS:
        namespace.run(["ipvsadm", "-A", "-t", server, "-s", "wlc"])
        namespace.run(["ipvsadm", "-a", "-t", server, "-r", "192.0.2.80:80", "-m"])
    namespace.run(["ipvsadm", "-A", "-f", "7", "-s", "rr"])
    namespace.run(["ipset", "create", "KUBE-SRC-ABC", "hash:ip"])
    namespace.ip(["link add dummy7 type dummy", "addr add 203.0.113.7/32 dev dummy7"])


def _leave_behind(namespace: Namespace) -> None:
    """Put into the kernel what kube-proxy left there in one mode after the other."""
    write_state(namespace, golden.load(CASE, IPVS).steps[0].state)
    for mode in (IPVS, IPTABLES):
        Host(namespace, "legacy").load(mode)


def _content(namespace: Namespace) -> list[str]:
    texts = [namespace.run(command).stdout for command in COMMANDS]
    lines = (line for text in texts for line in text.splitlines() if not line.startswith("#"))
    return [_COUNTERS.sub("", line) for line in lines]


def test_both_modes_go_and_what_others_have_stays_to_the_byte(node: KpctlNode) -> None:
    before = _content(node.namespace)
    _leave_behind(node.namespace)
    assert len(_content(node.namespace)) > len(before) + 200
    assert read_state(node.namespace).addresses
    done = node.run("--cleanup")
    assert done.returncode == 0, done.stderr
    assert _content(node.namespace) == before
    again = node.run("--cleanup")
    assert (again.returncode, _content(node.namespace)) == (0, before)
    assert "There is nothing to clean up" in again.stderr


def test_virtual_servers_in_excluded_networks_stay(node: KpctlNode) -> None:
    before = set(read_state(node.namespace).servers)
    _leave_behind(node.namespace)
    [kept] = {each for each in read_state(node.namespace).servers if "172.30.0.41:80 " in each}
    node.config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        "ipvs: {excludeCIDRs: [172.30.0.41/32]}\n"
    )
    done = node.run("--cleanup", "--config", str(node.config))
    assert done.returncode == 0, done.stderr
    assert set(read_state(node.namespace).servers) == {*before, kept}
