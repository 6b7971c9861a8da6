"""Which virtual servers are a proxy's, when they go, and what stays with those that are busy."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import pytest

from proxy.backends.ipvs import names
from proxy.engine.cleanup.ipvs import IpvsKernel, remove_ipvs
from proxy.engine.cleanup.outcome import Outcome
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipset import SetEntry, SetHeader
from proxy.netfilter.ipvs import (
    Action,
    Operation,
    RealKey,
    RealServer,
    ServerKey,
    VirtualServer,
)

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
TCP, UDP, SCTP = 6, 17, 132
NODE, VIP, VIP2, OTHER = "192.0.2.1", "10.96.0.1", "10.96.0.2", "198.51.100.7"


def _packed(text: str) -> bytes:
    return ip_address(text).packed


def _key(address: str, port: int, protocol: int = TCP) -> ServerKey:
    return ServerKey(_packed(address), port, protocol)


@dataclass
class FakeKernel:
    """Virtual servers, sets, devices and addresses, which forget what is removed."""

    connections: dict[ServerKey, int] = field(default_factory=dict)
    contents: dict[str, list[SetEntry]] = field(default_factory=dict)
    devices: dict[str, set[bytes]] = field(default_factory=dict)
    busy_sets: dict[str, int] = field(default_factory=dict)
    refused: set[ServerKey] = field(default_factory=set)
    quiescent: set[ServerKey] = field(default_factory=set)
    listed: int = 0

    def servers(self, family: IPFamily) -> Mapping[ServerKey, VirtualServer]:
        self.listed += 1
        of_family = [key for key in self.connections if len(key.address) * 8 == family.bits]
        return {key: VirtualServer(key, "rr") for key in of_family}

    def real_servers(self, server: VirtualServer) -> list[RealServer]:
        count = self.connections[server.key]
        real = RealKey(_packed("10.180.0.1"), 80)
        weight = 0 if server.key in self.quiescent else 1
        return [RealServer(real, weight, active=count % 2, inactive=count // 2)]

    def apply(self, operations: Sequence[Operation]) -> list[OSError | None]:
        return [self._change(operation) for operation in operations]

    def _change(self, operation: Operation) -> OSError | None:
        key = operation.server.key
        if key in self.refused:
            return OSError(errno.EPERM, "no")
        if operation.action is Action.SET_REAL:
            assert (operation.real, operation.weight) == (RealKey(_packed("10.180.0.1"), 80), 0)
            assert key not in self.quiescent
            self.quiescent.add(key)
            return None
        assert operation.action is Action.DELETE_SERVER
        del self.connections[key]
        return None

    def headers(self) -> dict[str, SetHeader]:
        return {name: SetHeader(name, "hash:ip,port", 32) for name in self.contents}

    def entries(self, name: str) -> list[SetEntry]:
        return self.contents[name]

    def destroy(self, name: str) -> None:
        if self.busy_sets.get(name):
            self.busy_sets[name] -= 1
            raise OSError(errno.EBUSY, "in use")
        del self.contents[name]

    def link_exists(self, name: str) -> bool:
        return name in self.devices

    def addresses_of(self, name: str, family: IPFamily) -> frozenset[bytes]:
        return frozenset(a for a in self.devices.get(name, ()) if len(a) * 8 == family.bits)

    def addresses_elsewhere(self, name: str, family: IPFamily) -> frozenset[bytes]:
        others = (self.addresses_of(device, family) for device in self.devices if device != name)
        return frozenset().union(*others)

    def delete_addresses(self, name: str, addresses: Iterable[bytes]) -> list[OSError | None]:
        removed = list(addresses)
        assert self.devices[name].issuperset(removed)
        self.devices[name].difference_update(removed)
        return [None] * len(removed)

    def delete_link(self, name: str) -> None:
        del self.devices[name]

    def clean(self, *exclude: str, busy_stay: bool = False) -> Outcome:
        networks = [ip_network(text) for text in exclude]
        kernel = IpvsKernel(self, self, self)
        return remove_ipvs(kernel, networks, busy_stay=busy_stay, pause=lambda _: None)


def node(*keys: ServerKey) -> FakeKernel:
    """A node with the VIPs on kube-ipvs0, all sets of both families, and these servers."""
    made = FakeKernel(dict.fromkeys(keys, 0))
    made.devices = {
        "eth0": {_packed(NODE), _packed("2001:db8::1")},
        "lo": {_packed("127.0.0.1")},
        names.DEVICE: {_packed(VIP), _packed("fd00::1")},
    }
    made.contents = {kind.name(family): [] for kind in names.SETS for family in IPFamily}
    return made


def _put(made: FakeKernel, kind: names.SetKind, *entries: SetEntry, family: IPFamily = V4) -> None:
    made.contents[kind.name(family)] += entries


def test_servers_of_addresses_on_the_device_go_in_both_families() -> None:
    made = node(_key(VIP, 80), _key(VIP, 53, UDP), _key("fd00::1", 80), _key(OTHER, 80))
    outcome = made.clean()
    assert outcome == Outcome(["3 virtual servers", "device kube-ipvs0", "34 ipsets"])
    assert set(made.connections) == {_key(OTHER, 80)}
    assert set(made.devices) == {"eth0", "lo"}
    assert made.contents == {}


def test_servers_named_by_sets_go_without_the_device() -> None:
    made = node(_key(VIP2, 80), _key(OTHER, 80), _key(OTHER, 81), _key("fd00::2", 443))
    del made.devices[names.DEVICE]
    _put(made, names.IPVS_IPS, SetEntry(_packed(VIP2)))
    _put(made, names.LOAD_BALANCER, SetEntry(_packed(OTHER), TCP, 80))
    _put(made, names.CLUSTER_IP, SetEntry(_packed("fd00::2"), TCP, 443), family=V6)
    assert made.clean().errors == []
    assert set(made.connections) == {_key(OTHER, 81)}


@pytest.mark.parametrize(
    ("kind", "entry", "protocol"),
    [
        (names.NODE_PORT_TCP, SetEntry(port=30080), TCP),
        (names.NODE_PORT_LOCAL_TCP, SetEntry(port=30080), TCP),
        (names.NODE_PORT_UDP, SetEntry(port=30080), UDP),
        (names.NODE_PORT_LOCAL_UDP, SetEntry(port=30080), UDP),
        (names.NODE_PORT_SCTP, SetEntry(_packed(NODE), SCTP, 30080), SCTP),
    ],
)
def test_node_port_servers_go_at_the_nodes_addresses_only(
    kind: names.SetKind, entry: SetEntry, protocol: int
) -> None:
    foreign = {_key(OTHER, 30080, protocol), _key(NODE, 30081, protocol)}
    foreign |= {_key(NODE, 30080, p) for p in (TCP, UDP, SCTP) if p != protocol}
    made = node(_key(NODE, 30080, protocol), *foreign)
    _put(made, kind, entry)
    assert made.clean().errors == []
    assert set(made.connections) == foreign


def test_servers_in_excluded_networks_stay() -> None:
    made = node(_key(VIP, 80), _key("fd00::1", 80))
    assert made.clean("10.96.0.0/12", "fd01::/16").errors == []
    assert set(made.connections) == {_key(VIP, 80)}


def test_a_node_without_device_and_sets_is_not_even_listed() -> None:
    made = FakeKernel({_key(OTHER, 80): 0}, {"my-set": []}, {"eth0": {_packed(NODE)}})
    assert made.clean() == Outcome()
    assert made.listed == 0
    assert made.contents == {"my-set": []}


def test_kernel_without_ip_vs_and_ipsets_still_loses_the_device() -> None:
    made = node()
    outcome = remove_ipvs(IpvsKernel(made))
    assert outcome == Outcome(["device kube-ipvs0"])
    assert len(made.contents) == 34


def test_sets_of_others_stay_and_so_does_one_that_a_rule_uses() -> None:
    made = node()
    made.contents |= {"KUBE-CLUSTER-IP-OF-MINE": [], "KUBE-SRC-ABC": []}
    made.busy_sets["KUBE-6-LOOP-BACK"] = 99
    outcome = made.clean()
    assert outcome.errors == ["ipset KUBE-6-LOOP-BACK stays: a rule uses it"]
    assert set(made.contents) == {"KUBE-CLUSTER-IP-OF-MINE", "KUBE-SRC-ABC", "KUBE-6-LOOP-BACK"}
    assert outcome.removed[-1] == "33 ipsets"


def test_a_set_that_the_kernel_lets_go_a_moment_later_is_waited_for() -> None:
    made = node()
    made.busy_sets["KUBE-LOOP-BACK"] = 2
    assert made.clean().errors == []
    assert made.contents == {}


def test_a_refused_server_is_reported_and_the_rest_goes() -> None:
    made = node(_key(VIP, 80), _key(VIP, 81))
    made.refused.add(_key(VIP, 80))
    outcome = made.clean()
    assert outcome.errors == ["virtual server 10.96.0.1:80/TCP: [Errno 1] no"]
    assert outcome.removed[0] == "1 virtual server"
    assert names.DEVICE not in made.devices


# -- draining --------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 2], ids=["active", "inactive"])
def test_busy_servers_stay_with_their_addresses_until_their_connections_end(
    connections: int,
) -> None:
    made = node(_key(VIP, 80), _key(VIP2, 80), _key(OTHER, 80))
    made.devices[names.DEVICE].add(_packed(VIP2))
    made.connections[_key(VIP, 80)] = connections
    made.connections[_key(OTHER, 80)] = 1
    outcome = made.clean(busy_stay=True)
    assert outcome.remaining == ["10.96.0.1:80/TCP"]
    assert outcome.removed == ["1 virtual server", "2 kube-ipvs0 addresses"]
    assert set(made.connections) == {_key(VIP, 80), _key(OTHER, 80)}
    assert made.devices[names.DEVICE] == {_packed(VIP)}
    assert made.clean(busy_stay=True) == Outcome(remaining=["10.96.0.1:80/TCP"])

    made.connections[_key(VIP, 80)] = 0
    outcome = made.clean(busy_stay=True)
    assert outcome == Outcome(["1 virtual server", "device kube-ipvs0", "34 ipsets"])
    assert set(made.connections) == {_key(OTHER, 80)}


def test_a_busy_node_port_server_is_still_known_for_ours_at_the_next_look() -> None:
    made = node(_key(NODE, 30080))
    _put(made, names.NODE_PORT_TCP, SetEntry(port=30080))
    made.connections[_key(NODE, 30080)] = 1
    for _ in range(3):
        assert made.clean(busy_stay=True).remaining == [f"{NODE}:30080/TCP"]
    assert made.clean().remaining == []
    assert made.connections == {}
    assert made.contents == {}


def test_a_busy_server_takes_no_new_connections_and_is_told_so_once() -> None:
    busy, idle = _key(VIP, 80), _key(VIP, 443)
    made = node(busy, idle)
    made.connections[busy] = 1
    for _ in range(2):
        assert made.clean(busy_stay=True).remaining == [f"{VIP}:80/TCP"]
        assert made.quiescent == {busy}


def test_a_busy_server_that_cannot_be_told_is_named() -> None:
    busy = _key(VIP, 80)
    made = node(busy)
    made.connections[busy] = 1
    made.refused.add(busy)
    outcome = made.clean(busy_stay=True)
    assert outcome.remaining == [f"{VIP}:80/TCP"]
    assert outcome.errors == [f"virtual server {VIP}:80/TCP: [Errno 1] no"]


def test_a_server_that_stays_is_named_as_kubernetes_writes_it() -> None:
    made = node(_key("fd00::1", 53, UDP))
    made.connections[_key("fd00::1", 53, UDP)] = 1
    assert made.clean(busy_stay=True).remaining == ["[fd00::1]:53/UDP"]


def test_a_set_of_a_strange_type_under_our_name_is_reported_and_the_rest_goes() -> None:
    class Strange(FakeKernel):
        def entries(self, name: str) -> list[SetEntry]:
            if name == "KUBE-CLUSTER-IP":
                raise ValueError("list:set is not in use here")
            return super().entries(name)

    full = node(_key(VIP, 80))
    made = Strange(full.connections, full.contents, full.devices)
    assert made.clean().errors == [
        "ipset KUBE-CLUSTER-IP cannot be read: list:set is not in use here"
    ]
    assert made.connections == {}


def test_what_cannot_be_read_is_an_error_and_nothing_is_removed() -> None:
    class Unreadable(FakeKernel):
        def servers(self, family: IPFamily) -> Mapping[ServerKey, VirtualServer]:
            raise PermissionError(1, "no")

    full = node()
    made = Unreadable({}, full.contents, full.devices)
    assert made.clean().errors == ["Cannot read what IPVS mode left: [Errno 1] no"]
    assert names.DEVICE in made.devices
