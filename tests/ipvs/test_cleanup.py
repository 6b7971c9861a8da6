"""What IPVS mode left goes; virtual servers, sets and devices of others stay."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kpctl.lab.netns import Namespace
from proxy.backends.ipvs.names import DEVICE
from proxy.engine.cleanup.node import clean_ipvs, clean_tables
from proxy.engine.cleanup.outcome import Outcome
from proxy.engine.cleanup.running import Running
from proxy.model.addresses import parse_network
from tests.packets.flows.sockets import close_at_once
from tests.support import golden
from tests.support.golden import PROGRAMS, golden_node
from tests.support.iptables_text import Ruleset
from tests.support.ipvs_programs import read_state, write_state
from tests.support.ipvs_text import NodeState
from tests.support.waiting import eventually
from tests.support.xtables_programs import restore, saved

pytestmark = [pytest.mark.kernel]

BACKEND = "legacy"  # the kernel with IPVS has no other
CASE = "every-service-kind.iptables"
PATIENCE_S = 60.0  # an emulated processor
VIP, NODE_IP = "172.30.0.41", "192.168.0.2"
# Of keepalived at an address of its own, and of an administrator at the node's.
FOREIGN_SERVERS = ("203.0.113.7:80", f"{NODE_IP}:8443")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Namespace]:
    """The node of a recording, on which others have servers, a set and a device."""
    with golden_node(golden.load(CASE, "ipvs"), tmp_path) as made:
        namespace = made.namespace
        for server in FOREIGN_SERVERS:
            namespace.run(["ipvsadm", "-A", "-t", server, "-s", "wlc"])
            namespace.run(["ipvsadm", "-a", "-t", server, "-r", "192.0.2.80:80", "-m"])
        namespace.run(["ipvsadm", "-A", "-f", "7", "-s", "rr"])
        namespace.run(["ipset", "create", "KUBE-SRC-ABC", "hash:ip"])
        namespace.ip(["link add dummy7 type dummy", "addr add 203.0.113.7/32 dev dummy7"])
        yield namespace


def _leave_behind(namespace: Namespace) -> None:
    """Put into the kernel what kube-proxy left there."""
    (step,) = golden.load(CASE, "ipvs").steps
    write_state(namespace, step.state)
    for program, rules in step.rulesets.items():
        restore(namespace, program, BACKEND, rules)


def _clean(namespace: Namespace, *exclude: str, busy_stay: bool = False) -> Outcome:
    networks = [network for text in exclude if (network := parse_network(text))]
    with namespace.enter():
        outcome = clean_tables(Running())
        outcome.add(clean_ipvs(networks, busy_stay=busy_stay))
    return outcome


def _devices(namespace: Namespace) -> str:
    return namespace.run(["ip", "-brief", "addr"]).stdout


def _rules(namespace: Namespace) -> dict[str, Ruleset]:
    return {program: saved(namespace, program, BACKEND) for program in PROGRAMS}


def test_clean_up_leaves_exactly_what_others_have(node: Namespace) -> None:
    before, devices = read_state(node), _devices(node)
    marked = node.run(["ipvsadm", "-Sn"]).stdout
    _leave_behind(node)
    assert read_state(node) != before
    outcome = _clean(node)
    assert outcome.errors == []
    assert read_state(node) == before
    assert node.run(["ipvsadm", "-Sn"]).stdout == marked
    assert _devices(node) == devices
    left = {name for rules in _rules(node).values() for chains in rules.values() for name in chains}
    assert not {name for name in left if name.startswith("KUBE-")}


def test_a_second_clean_up_finds_nothing_to_do(node: Namespace) -> None:
    _leave_behind(node)
    _clean(node)
    assert _clean(node) == Outcome()


def test_servers_in_excluded_networks_stay(node: Namespace) -> None:
    before = set(read_state(node).servers)
    _leave_behind(node)
    assert _clean(node, f"{VIP}/32").errors == []
    assert set(read_state(node).servers) == {*before, f"-t {VIP}:80 -s rr"}


# -- draining --------------------------------------------------------------------------------


@contextmanager
def _connection(namespace: Namespace) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from the node through a virtual server to a backend on the node."""
    server, backend = (VIP, 80), (NODE_IP, 18080)
    namespace.run(["ipvsadm", "-d", "-t", f"{VIP}:80", "-r", "10.180.0.1:80"])
    real = f"{backend[0]}:{backend[1]}"
    namespace.run(["ipvsadm", "-a", "-t", f"{VIP}:80", "-r", real, "-m"])
    with namespace.socket() as listener, namespace.socket() as client:
        listener.bind(backend)
        listener.listen()
        client.settimeout(PATIENCE_S)
        client.connect(server)
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(PATIENCE_S)
            yield client, accepted


def _talk(ends: tuple[socket.socket, socket.socket]) -> None:
    for sender, receiver in (ends, ends[::-1]):
        sender.sendall(b"still there?")
        assert receiver.recv(64) == b"still there?"


def test_a_connection_lives_on_while_its_server_drains(node: Namespace) -> None:
    before = read_state(node)
    _leave_behind(node)
    with _connection(node) as ends:
        _talk(ends)
        outcome = _clean(node, busy_stay=True)
        assert outcome.errors == []
        assert outcome.remaining == [f"{VIP}:80/TCP"]
        state = read_state(node)
        assert set(state.servers) == {*before.servers, f"-t {VIP}:80 -s rr"}
        assert state.addresses == {f"{VIP}/32"}
        _talk(ends)
        assert _clean(node, busy_stay=True).remaining == [f"{VIP}:80/TCP"]
        _talk(ends)
        # A reset ends it: IPVS forgets such a connection after 10 s, one that was closed after 120.
        close_at_once(ends[0])
    eventually(lambda: not _clean(node, busy_stay=True).remaining, PATIENCE_S)
    assert read_state(node) == before


def test_at_once_does_not_wait_for_connections(node: Namespace) -> None:
    before = read_state(node)
    _leave_behind(node)
    with _connection(node) as ends:
        _talk(ends)
        assert _clean(node).errors == []
        assert read_state(node) == before


def test_what_is_left_without_a_device_is_found_by_its_sets(node: Namespace) -> None:
    before = read_state(node)
    _leave_behind(node)
    node.ip([f"link del {DEVICE}"])
    assert _clean(node).errors == []
    assert read_state(node) == before
    assert before != NodeState()
