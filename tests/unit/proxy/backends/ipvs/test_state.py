"""A family's state: changes end where a restatement ends, and cost what they change."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from proxy.backends.ipvs import names
from proxy.backends.ipvs.port_state import port_state
from proxy.backends.ipvs.settings import IpvsSettings
from proxy.backends.ipvs.state import IpvsChange, IpvsState
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipset import SetEntry
from proxy.netfilter.ipvs import Action, ServerKey
from tests.support.ipvs_rig import Rounds, by_name
from tests.support.plans import address, endpoint, network, plan, service_port, simple

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
NODE = bytes((192, 0, 2, 1))
SETTINGS = IpvsSettings(V4, node_addresses=frozenset({NODE}), node_port_servers=frozenset({NODE}))


@pytest.fixture
def state() -> IpvsState:
    return IpvsState(SETTINGS)


def done(state: IpvsState, *plans, gone=()) -> IpvsChange:
    """Make a change and remember it."""
    change = state.change({**by_name(*plans), **dict.fromkeys(gone)})
    state.commit(change)
    return change


def servers(change: IpvsChange) -> list[tuple[str, int]]:
    """What is done with virtual and real servers, and to which last byte of an address."""
    steps = [*change.raised, *change.withdrawn]
    found = [(o.action.name, (o.real or o.server.key).address[-1]) for o, _ in steps]
    return found + [("DELETE_SERVER", server.key.address[-1]) for server in change.removed]


def entries(change: IpvsChange) -> tuple[dict[str, int], dict[str, int]]:
    """How many entries are added to and removed from each set."""
    added, removed = (
        {kind.base: len(found) for kind, found in each.items() if found}
        for each in (change.entries_added, change.entries_removed)
    )
    return added, removed


def test_a_new_service_costs_its_own_operations(state) -> None:
    done(state, *(simple(number, 1, 2, 3) for number in range(2, 50)))
    change = done(state, simple(1, 7, 8))
    assert servers(change) == [("NEW_SERVER", 1), ("NEW_REAL", 7), ("NEW_REAL", 8)]
    assert entries(change) == ({"KUBE-CLUSTER-IP": 1, "KUBE-IPVS-IPS": 1}, {})
    assert (change.bound, change.unbound, len(change)) == ([address("cluster", 1)], [], 6)


def test_an_endpoint_costs_one_operation(state) -> None:
    done(state, *(simple(number, 1, 2, 3) for number in range(50)))
    change = done(state, simple(4, 1, 2, 4))
    assert servers(change) == [("NEW_REAL", 4), ("DELETE_REAL", 3)]
    assert len(change) == 2
    assert len(done(state, simple(4, 1, 2, 4))) == 0


def test_a_service_that_goes_takes_what_nobody_else_needs(state) -> None:
    done(state, simple(1, 1, 2), simple(2, 1))
    change = done(state, gone=[simple(1).name])
    assert servers(change) == [("DELETE_SERVER", 1)]
    assert entries(change) == ({}, {"KUBE-CLUSTER-IP": 1, "KUBE-IPVS-IPS": 1})
    assert change.unbound == [address("cluster", 1)]
    assert done(state, gone=[simple(1).name]).removed == []


def test_other_affinity_changes_the_virtual_server_only(state) -> None:
    done(state, plan(service_port(1), endpoint(1)))
    change = done(state, plan(service_port(1, affinity_timeout_s=60), endpoint(1)))
    assert servers(change) == [("SET_SERVER", 1)]
    assert len(change) == 1


def test_an_address_of_two_ports_is_bound_until_both_are_gone(state) -> None:
    http, https = (plan(service_port(1, port=port), endpoint(1)) for port in (80, 443))
    assert done(state, http).bound == [address("cluster", 1)]
    assert done(state, https).bound == []
    assert done(state, gone=[http.name]).unbound == []
    assert done(state, gone=[https.name]).unbound == [address("cluster", 1)]


def test_entries_that_two_services_need_are_counted(state) -> None:
    here = endpoint(1, local=True)
    one, two = (plan(service_port(n), here) for n in (1, 2))
    assert entries(done(state, one, two))[0]["KUBE-LOOP-BACK"] == 1
    assert "KUBE-LOOP-BACK" not in entries(done(state, gone=[one.name]))[1]
    assert entries(done(state, gone=[two.name]))[1]["KUBE-LOOP-BACK"] == 1


@pytest.mark.parametrize("order", [1, -1])
def test_a_virtual_server_that_changes_its_owner_is_not_lost(state, order) -> None:
    vip = address("balancer", 9)
    first = plan(service_port(1, load_balancer_vips=(vip,)), endpoint(1))
    bare = plan(service_port(1), endpoint(1))
    second = plan(service_port(2, load_balancer_vips=(vip,)), endpoint(2))
    done(state, first, plan(service_port(2), endpoint(2)))
    change = done(state, *(bare, second)[::order])
    assert servers(change) == [("NEW_REAL", 2), ("DELETE_REAL", 1)]
    assert (change.bound, change.unbound) == ([], [])
    assert ServerKey(vip, 80, 6) in state.certain(())[0]
    assert (names.IPVS_IPS, SetEntry(vip)) in state.certain(())[1]


def test_what_was_refused_is_not_certain(state) -> None:
    done(state, simple(1, 1), simple(2, 2))
    found, entries = state.certain([simple(1).name])
    assert {key.address for key in found} == {address("cluster", 2)}
    assert {entry.address for _, entry in entries} == {address("cluster", 2)}


def test_a_refused_entry_is_told_by_whose_it_is_in_the_new_settings(state) -> None:
    made = plan(service_port(1, protocol="SCTP", node_port=30080), endpoint(1))
    done(state, made, simple(2, 1))
    later = bytes((192, 0, 2, 9))
    change = state.resettle(replace(SETTINGS, node_port_servers=frozenset({later})))
    entry = SetEntry(later, 132, 30080)
    assert change.entries_added[names.NODE_PORT_SCTP] == [entry]
    assert state.wanting(names.NODE_PORT_SCTP, entry, change) == [made.name]


def test_other_node_addresses_cost_the_node_ports_only(state) -> None:
    made = plan(service_port(1, node_port=30080), endpoint(1))
    done(state, made, *(simple(n, 1) for n in range(2, 30)))
    later = frozenset({bytes((192, 0, 2, 9))})
    change = state.resettle(replace(SETTINGS, node_addresses=later, node_port_servers=later))
    assert servers(change) == [("NEW_SERVER", 9), ("NEW_REAL", 1), ("DELETE_SERVER", 1)]
    assert entries(change) == ({}, {})
    state.commit(change)
    assert state.settings.node_port_servers == later


def test_an_external_ip_that_becomes_the_nodes_own_is_unbound(state) -> None:
    vip = address("external", 1)
    done(state, plan(service_port(1, external_ips=(vip,)), endpoint(1)))
    change = state.resettle(replace(SETTINGS, node_addresses=frozenset({NODE, vip})))
    assert change.unbound == [vip]
    assert servers(change) == []


# -- rules -----------------------------------------------------------------------------------


def test_rules_change_when_a_set_becomes_empty_or_stops_being_so(state) -> None:
    one, two = (plan(service_port(n, node_port=30000 + n), endpoint(1)) for n in (1, 2))
    expected = {1: False, 2: True, 3: True, 4: False}
    steps = {1: by_name(one), 2: by_name(two), 3: {one.name: None}, 4: {two.name: None}}
    for step, changes in steps.items():
        change = state.change(changes)
        before = state.chains(IpvsChange())
        assert state.keeps_rules(change) is expected[step], step
        assert (state.chains(change) == before) is expected[step], step
        state.commit(change)


def test_restricted_load_balancers_have_rules_of_their_own(state) -> None:
    ranges = (network("203.0.113.0/24"),)
    plans = [
        plan(service_port(n, load_balancer_vips=(address("balancer", n),), source_ranges=ranges))
        for n in (1, 2)
    ]
    done(state, plans[0])
    change = state.change(by_name(plans[1]))
    assert not state.keeps_rules(change)
    assert len(state.chains(change)["filter", names.IPVS_OUT_FILTER]) == 2
    state.commit(change)
    assert state.keeps_rules(state.change(by_name(plans[0])))
    assert not state.keeps_rules(state.change({plans[0].name: None}))
    assert not state.keeps_rules(state.resettle(replace(SETTINGS, masquerade_all=True)))


# -- histories -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("seed", range(6))
def test_any_history_ends_as_if_it_were_stated_at_once(family, seed) -> None:
    draw = random.Random(seed)
    node = address("external", 999, family)
    settings = IpvsSettings(
        family, node_addresses=frozenset({node}), node_port_servers=frozenset({node})
    )
    lived = IpvsState(settings)
    for plans, changes in Rounds(family, seed):
        if draw.random() < 0.2:
            settings = replace(settings, masquerade_all=not settings.masquerade_all)
            lived.commit(lived.resettle(settings))
        change = lived.change(changes)
        kept, before = lived.keeps_rules(change), lived.chains(IpvsChange())
        lived.commit(change)
        at_once = IpvsState(settings)
        stated = at_once.change(plans)
        at_once.commit(stated)
        assert lived.certain(()) == at_once.certain(())
        assert lived.servers() == at_once.servers()
        assert lived.chains(IpvsChange()) == at_once.chains(IpvsChange())
        assert not kept or lived.chains(IpvsChange()) == before
        needed = {e for p in plans.values() for e in port_state(p, settings).entries}
        assert set(lived._counts) == needed
        assert not [o for o, _ in stated.raised if o.action is Action.SET_SERVER]
