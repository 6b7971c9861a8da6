"""The order of what is written, restatements, and what is taken over from others."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from proxy.backends.ipvs import names
from proxy.backends.ipvs.names import DEVICE
from proxy.backends.ipvs.settings import IpvsSettings
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipset import SetEntry, SetHeader
from proxy.netfilter.ipvs import (
    FLAG_PERSISTENT,
    RealKey,
    RealServer,
    ServerKey,
    VirtualServer,
)
from tests.support.ipvs_rig import Node, Rounds, by_name
from tests.support.plans import address, endpoint, network, plan, service_port, simple

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
NODE = bytes((192, 0, 2, 1))
SETTINGS = IpvsSettings(V4, node_addresses=frozenset({NODE}), node_port_servers=frozenset({NODE}))
FULL = plan(
    service_port(
        1,
        node_port=30080,
        external_ips=(address("external", 1),),
        load_balancer_vips=(address("balancer", 1),),
    ),
    endpoint(1),
    endpoint(2, local=True),
)


@pytest.fixture
def node() -> Node:
    return Node(SETTINGS)


def key(number: int = 1, port: int = 80) -> ServerKey:
    return ServerKey(address("cluster", number), port, 6)


def real(number: int, port: int = 8080) -> RealKey:
    return RealKey(address("pod", number), port)


def positions(node: Node, *verbs: str) -> list[int]:
    return [n for n, (verb, _) in enumerate(node.kernel.journal) if verb in verbs]


# -- order -----------------------------------------------------------------------------------


class Watcher:
    """Looks at the kernel before each step: does a packet meet anything half done?"""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.problems: list[str] = []
        self.wanted: dict[ServerKey, int] = {}

    def __call__(self, verb: str, subject: Any) -> int:
        ipvs, links = self._node.kernel.ipvs, self._node.kernel.links
        bound = links.devices.get(DEVICE, set())
        if verb == "bind":
            for each, count in self.wanted.items():
                there = ipvs.content.get(each)
                if each.address == subject and (there is None or len(there[1]) < count):
                    self.problems.append(f"{each} is bound before it is complete")
        if verb == "server-" and subject.address in bound:
            others = [k for k in ipvs.content if k.address == subject.address and k != subject]
            if not others:
                self.problems.append(f"{subject} goes while its address is bound")
        if verb == "entry-":
            name, entry = subject
            if name in ("KUBE-CLUSTER-IP", "KUBE-LOAD-BALANCER", "KUBE-EXTERNAL-IP"):
                gone = ServerKey(entry.address, entry.port, entry.protocol)
                if gone in ipvs.content and gone not in self.wanted:
                    self.problems.append(f"the entry of {gone} goes before it")
        return 0


@pytest.mark.parametrize("seed", range(5))
def test_nothing_half_done_is_ever_reachable(node, seed) -> None:
    watcher = node.kernel.refuse = Watcher(node)
    node.state()
    for plans, changes in Rounds(V4, seed):
        fresh = Node(SETTINGS)
        fresh.state(*plans.values())
        watcher.wanted = {k: len(reals) for k, (_, reals) in fresh.kernel.ipvs.content.items()}
        node.change(changes)
        assert watcher.problems == []
        assert node.content() == fresh.content()


def test_a_new_service_is_entries_rules_servers_address(node) -> None:
    node.state()
    node.kernel.journal.clear()
    node.change(by_name(FULL))
    entries, rules = positions(node, "entry+"), positions(node, "rules")
    servers, bound = positions(node, "server+", "real+"), positions(node, "bind")
    assert max(entries) < min(rules) <= max(rules) < min(servers) <= max(servers) < min(bound)
    assert (len(servers), len(bound)) == (4 * 3, 3)


def test_a_service_goes_in_the_opposite_order(node) -> None:
    node.state(FULL, simple(2, 1))
    node.kernel.journal.clear()
    node.change({FULL.name: None})
    rules, unbound = positions(node, "rules"), positions(node, "unbind")
    servers, entries = positions(node, "server-"), positions(node, "entry-")
    assert max(rules) < min(unbound) <= max(unbound) < min(servers) <= max(servers) < min(entries)
    assert "KUBE-NODE-PORT-TCP" not in "".join(node.kernel.rules[V4].rules("nat", "KUBE-NODE-PORT"))


def test_an_endpoint_is_one_step_without_rules(node) -> None:
    node.state(simple(1, 1, 2), simple(2, 1))
    node.kernel.journal.clear()
    texts = len(node.kernel.rules[V4].inputs)
    node.change(by_name(simple(1, 1, 2, 3)))
    assert node.kernel.journal == [("real+", (key(), real(3)))]
    assert len(node.kernel.rules[V4].inputs) == texts


# -- restatements ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("seed", range(3))
def test_a_restatement_of_what_is_there_changes_rules_only(family, seed) -> None:
    own = address("external", 999, family)
    settings = IpvsSettings(
        family, node_addresses=frozenset({own}), node_port_servers=frozenset({own})
    )
    node = Node(settings)
    node.state()
    plans: dict[Any, Any] = {}
    for wanted, changes in Rounds(family, seed, rounds=8):
        node.change(changes)
        plans = wanted
    before = node.content()
    node.restart(settings)
    node.kernel.journal.clear()
    node.state(*plans.values())
    assert set(node.kernel.done()) == {"rules"}
    assert node.content() == before
    assert node.reconciler.found_something


@pytest.mark.parametrize("moment", range(0, 60, 3))
def test_a_process_killed_at_any_moment_leaves_what_the_next_one_completes(moment) -> None:
    class Killed(BaseException):
        pass

    plans = [FULL, simple(2, 1, 2), simple(3)]
    node = Node(SETTINGS)
    left = [moment]

    def kill(_verb: str, _subject: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return 0

    node.kernel.refuse = kill
    try:
        node.reconciler.restate(plans)
    except Killed:
        assert not node.reconciler.in_sync
    node.kernel.refuse = lambda _verb, _subject: 0
    node.restart(SETTINGS)
    later = [simple(2, 2, 3), simple(4, 1)]
    node.state(*later)
    fresh = Node(SETTINGS)
    fresh.state(*later)
    assert node.content() == fresh.content()


def test_the_device_and_addresses_that_nobody_wants_are_put_right(node) -> None:
    node.kernel.links.devices[DEVICE] = {bytes((172, 30, 9, 9)), address("cluster", 1, V6)}
    node.state(simple(1, 1))
    assert node.kernel.links.addresses_of(DEVICE, V4) == {address("cluster", 1)}
    assert node.kernel.links.addresses_of(DEVICE, V6) == {address("cluster", 1, V6)}


def test_a_link_local_address_of_the_device_stays() -> None:
    own = bytes.fromhex("fe800000000000000000000000000001")
    node = Node(IpvsSettings(V6))
    node.kernel.links.devices[DEVICE] = {own}
    node.state()
    assert node.kernel.links.devices[DEVICE] == {own}
    assert not node.reconciler.found_something


def test_a_set_of_another_type_is_told_by_name(node) -> None:
    name = names.CLUSTER_IP.name(V4)
    node.kernel.ipset.sets[name] = SetHeader(name, "hash:net", 32), set()
    result = node.reconciler.restate([simple(1, 1)])
    assert name in result.error
    assert not node.reconciler.in_sync
    node.kernel.ipset.destroy(name)
    node.state(simple(1, 1))


# -- what others left ------------------------------------------------------------------------


def test_rules_of_iptables_mode_translate_until_virtual_servers_are_there(node) -> None:
    node.kernel.rules[V4].tables["nat"]["KUBE-NODEPORTS"] = []
    node.state(FULL)
    done, rules = positions(node, "entry+", "server+", "real+", "bind"), positions(node, "rules")
    assert max(done) < min(rules)


def test_on_an_empty_node_rules_come_before_addresses(node) -> None:
    node.state(FULL)
    rules = positions(node, "rules")
    first = [n for n in rules if n < min(positions(node, "server+"))]
    assert first
    assert rules[-1] > max(positions(node, "bind")), "jumps lead to complete chains"


def test_what_kube_proxy_left_is_taken_over_without_a_gap(node) -> None:
    node.state(FULL, simple(2, 1, 2), simple(3, 1))
    ipvs = node.kernel.ipvs
    ipvs.content[key(2)][1][real(1)] = RealServer(real(1), 0)  # kube-proxy drained it
    ipvs.content[key(2)][1][real(5)] = RealServer(real(5), 0, active=1)
    ipvs.content[key(2)][1][real(6)] = RealServer(real(6), 0)
    ipvs.content[key(2)][1][real(7)] = RealServer(real(7), 1, inactive=2)
    ipvs.content[key(2)][1][real(2)] = RealServer(real(2), 1, forward=3)  # direct routing
    node.restart(SETTINGS)
    node.kernel.journal.clear()
    node.state(FULL, simple(2, 1, 2))
    assert ipvs.weights(key(2)) == {real(1): 1, real(2): 1, real(5): 0, real(7): 0}
    assert {r.forward for r in ipvs.content[key(2)][1].values()} == {0}
    assert key(3) not in ipvs.content
    assert ipvs.cut == 0
    assert not positions(node, "server+", "real+", "bind")


def test_a_virtual_server_of_other_settings_is_changed_in_place(node) -> None:
    node.state(simple(1, 1, 2))
    found = VirtualServer(key(), "wrr", FLAG_PERSISTENT, 99)
    node.kernel.ipvs.content[key()] = found, node.kernel.ipvs.content[key()][1]
    node.restart(SETTINGS)
    node.kernel.journal.clear()
    node.state(simple(1, 1, 2))
    assert [step for step in node.kernel.journal if step[0] != "rules"] == [("server=", key())]
    assert node.kernel.ipvs.content[key()][0] == VirtualServer(key(), "rr")


FOREIGN = (
    VirtualServer(ServerKey(bytes((203, 0, 113, 7)), 80, 6), "wlc"),  # of keepalived
    VirtualServer(ServerKey(NODE, 8443, 6), "wlc"),  # at the node's own address
    VirtualServer(ServerKey(bytes((203, 0, 113, 7)), 30080, 6), "rr"),  # a NodePort's number
)


def test_virtual_servers_of_others_stay(node) -> None:
    for server in FOREIGN:
        node.kernel.ipvs.put(server, RealServer(real(9), 5))
    for plans in ([FULL], [FULL, simple(2, 1)], []):
        node.restart(SETTINGS)
        node.state(*plans)
        for server in FOREIGN:
            assert node.kernel.ipvs.content[server.key][0] == server
            assert node.kernel.ipvs.weights(server.key) == {real(9): 5}
    assert set(node.kernel.ipvs.content) == {server.key for server in FOREIGN}


def test_excluded_virtual_servers_stay_even_at_addresses_of_the_device(node) -> None:
    node.state(simple(1, 1), simple(2, 1))
    excluding = replace(SETTINGS, exclude_cidrs=(network("172.30.0.1/32"),))
    node.restart(excluding)
    node.state()
    assert set(node.kernel.ipvs.content) == {key(1)}


@pytest.mark.parametrize("policy_local", [False, True])
@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_servers_at_the_nodes_own_address_go_with_their_service(protocol, policy_local) -> None:
    """Such an address is on no device of ours: only the sets tell whose the server is."""
    node = Node(SETTINGS)
    node.state(
        *(
            plan(service_port(n, protocol=protocol, **traits), endpoint(1, local=True))
            for n, traits in (
                (1, {"external_ips": (NODE,), "port": 81}),
                (2, {"load_balancer_vips": (NODE,), "port": 82}),
                (3, {"node_port": 30080}),
            )
            for traits in [{**traits, "external_policy_local": policy_local}]
        )
    )
    assert len([k for k in node.kernel.ipvs.content if k.address == NODE]) == 3
    node.restart(SETTINGS)
    node.state(simple(9, 1))
    assert set(node.kernel.ipvs.content) == {key(9)}


def test_both_families_share_a_node_and_leave_each_other_alone() -> None:
    four = Node(SETTINGS)
    four.state(FULL)
    six = Node(IpvsSettings(V6))
    six.kernel = four.kernel
    six.restart(IpvsSettings(V6))
    before = four.content()
    six.state(simple(1, 1, family=V6))
    six.restart(IpvsSettings(V6))
    six.state()
    assert four.content() == before
    assert six.content()["servers"] == {}


def test_a_virtual_server_that_somebody_made_first_is_taken_over(node) -> None:
    node.state(simple(1, 1))
    node.kernel.ipvs.put(VirtualServer(key(2), "wlc"), RealServer(real(9), 7))
    result = node.reconciler.change(by_name(simple(2, 1)))
    assert "exists" in result.error
    assert not node.reconciler.in_sync
    node.state(simple(1, 1), simple(2, 1))
    assert node.kernel.ipvs.content[key(2)][0].scheduler == "rr"
    assert node.kernel.ipvs.weights(key(2)) == {real(1): 1}


def test_what_somebody_deleted_is_found_missing_by_the_next_change(node) -> None:
    node.state(simple(1, 1, 2))
    del node.kernel.ipvs.content[key()]
    assert node.reconciler.change(by_name(simple(1, 1, 3))).error
    node.state(simple(1, 1, 3))
    assert node.kernel.ipvs.weights(key()) == {real(1): 1, real(3): 1}


def test_deleting_what_somebody_deleted_is_no_error(node) -> None:
    node.state(simple(1, 1, 2), simple(2, 1))
    del node.kernel.ipvs.content[key(2)]
    del node.kernel.ipvs.content[key(1)][1][real(2)]
    node.change(by_name(simple(1, 1)) | {simple(2).name: None})


def test_an_unexpected_refusal_of_a_removal_is_told(node) -> None:
    node.state(simple(1, 1))
    node.kernel.refuse = lambda verb, _: errno.EPERM if verb == "server-" else 0
    assert "not permitted" in node.reconciler.change({simple(1).name: None}).error
    node.kernel.refuse = lambda _verb, _: 0
    node.state()
    assert node.kernel.ipvs.content == {}
    assert SetEntry(address("cluster", 1)) not in node.kernel.ipset.entries("KUBE-IPVS-IPS")
