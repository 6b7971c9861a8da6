"""A change between iptables and IPVS mode: nobody notices, and the old mode goes in the end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from kpctl.lab.netns import Namespace
from proxy.config.types import IPTABLES, IPVS
from tests.packets.changing_node import CALLS, FAMILIES, ChangingNode, changing_node
from tests.packets.cluster import NODE_IP, slice_of, vip
from tests.packets.flows.scenario import Change, Stage
from tests.packets.flows.sockets import close_at_once
from tests.packets.traffic import Call, Conversation, connect
from tests.support.ipvs_programs import read_state
from tests.support.ipvs_text import NodeState
from tests.support.others_content import Others
from tests.support.waiting import eventually

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

PATIENCE_S = 60.0  # an emulated processor; IPVS forgets a connection that was reset after 10 s
PACE_S = 0.01
# Of keepalived at an address of its own, and of an administrator at the node's.
FOREIGN_SERVERS = ("203.0.113.7:80", f"{NODE_IP}:8443")
VIPS = {f"{vip(n)}/32" for n in (1, 2)} | {f"{vip(n, 6)}/128" for n in (1, 2)}
FRONTENDS = len(FAMILIES) * 4  # two Services, each with a ClusterIP and a NodePort


class Node:
    """What others have in IPVS, ipsets and rules."""

    def __init__(self) -> None:
        self.rules = Others("legacy")

    def add(self, namespace: Namespace) -> None:
        """Put it there."""
        self.namespace = namespace
        self.rules.add(namespace)
        for server in FOREIGN_SERVERS:
            namespace.run(["ipvsadm", "-A", "-t", server, "-s", "wlc"])
            namespace.run(["ipvsadm", "-a", "-t", server, "-r", "192.0.2.80:80", "-m"])
        namespace.run(["ipset", "create", "KUBE-SRC-ABC", "hash:ip"])
        self.before = self.state()

    def state(self) -> NodeState:
        """Virtual servers, sets and addresses of kube-ipvs0."""
        return read_state(self.namespace)

    def is_all_iptables(self) -> None:
        """Assert that of IPVS mode only virtual servers with connections are there."""
        assert not _chains(self.namespace) & {"KUBE-NODE-PORT", "KUBE-IPVS-FILTER"}
        self.rules.are_untouched()
        eventually(lambda: len(self._servers()) == FRONTENDS, PATIENCE_S)
        state = self.state()
        assert state.addresses >= VIPS
        weights = {real.split()[-1] for each in self._servers() for real in state.servers[each]}
        assert weights == {"0"}
        assert set(self.before.servers) < set(state.servers)

    def is_all_ipvs(self) -> None:
        """Assert that nothing of iptables mode is there."""
        assert not {
            chain
            for chain in _chains(self.namespace)
            if chain.startswith(("KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-PROXY-CANARY"))
        }
        self.rules.are_untouched()
        assert len(self._servers()) >= FRONTENDS
        assert set(self.before.servers) < set(self.state().servers)

    def _servers(self) -> set[str]:
        """Those of TCP; to a UDP one goes what tells a stage's end."""
        added = set(self.state().servers).difference(self.before.servers)
        return {server for server in added if server.startswith("-t ")}


def _chains(namespace: Namespace) -> set[str]:
    saved = [namespace.run([f"{p}-legacy-save"]).stdout for p in ("iptables", "ip6tables")]
    lines = (line for text in saved for line in text.splitlines())
    return {line[1:].split()[0] for line in lines if line.startswith(":")}


def test_nobody_notices_a_change_to_ipvs_and_back(tmp_path: Path) -> None:
    content = Node()
    with changing_node(tmp_path, IPTABLES, prepare=content.add, pace_s=PACE_S) as node:
        node.change_mode(IPVS)
        content.is_all_ipvs()
        _renew(node)
        node.change_mode(IPTABLES)
        content.is_all_iptables()
        assert "Virtual servers stay until their connections end" in node.run.log()
        node.go_on()
        node.nobody_noticed()
        _refuses_new_connections_without_endpoints(node)
        _end_connections(node)
        eventually(lambda: content.state() == content.before, PATIENCE_S)
        content.rules.are_untouched()


def test_nobody_notices_a_change_from_ipvs_that_is_undone_at_once(tmp_path: Path) -> None:
    content = Node()
    with changing_node(tmp_path, IPVS, prepare=content.add, pace_s=PACE_S) as node:
        node.change_mode(IPTABLES, signal.SIGKILL)
        content.is_all_iptables()
        node.change_mode(IPVS, signal.SIGKILL)
        content.is_all_ipvs()
        node.go_on()
        node.nobody_noticed()


def _renew(node: ChangingNode) -> None:
    """Let half of the lasting connections be made by the mode that runs now."""
    node.talkers.pause()
    conversations = node.talkers.conversations
    for place, each in enumerate(conversations[: len(conversations) // 2]):
        close_at_once(each.socket)
        conversations[place] = Conversation(node.site, each.call)
    node.talkers.go_on()


def _refuses_new_connections_without_endpoints(node: ChangingNode) -> None:
    for stream in node.streams:
        stream.pause()
    gone = [slice_of(n, family=family) for n in ("plain", "sticky") for family in FAMILIES]
    changes = tuple(Change("update", each) for each in gone)
    node.run.follow(Stage("no endpoints", changes, tuple(gone), ()))
    calls = CALLS[4] + CALLS[6]
    # Each family has transactions of its own.
    eventually(lambda: not any(_is_served(node, call) for call in calls), PATIENCE_S)
    node.talkers.go_on()
    assert node.talkers.failures == []


def _is_served(node: ChangingNode, call: Call) -> bool:
    try:
        made, _ = connect(node.site, call, patience_s=0.3)
    except OSError:
        return False
    close_at_once(made)
    return True


def _end_connections(node: ChangingNode) -> None:
    node.talkers.pause()
    for each in node.talkers.conversations:
        close_at_once(each.socket)
