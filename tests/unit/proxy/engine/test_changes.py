"""What a change of the cluster costs and does, once the engine has started."""

from __future__ import annotations

import pytest

from proxy.backends.nftables import layout
from proxy.model.addresses import pack_address
from proxy.model.events import Replaced, Resource, Unreadable
from tests.support.engine_rig import (
    TABLE,
    V4,
    V6,
    Rig,
    endpoint_slice,
    listings,
    many_services,
    node,
    pods,
    removed,
    service,
    service_cidr,
)


@pytest.fixture
def rig(monkeypatch):
    return Rig(monkeypatch)


def addresses(*texts: str) -> frozenset[bytes]:
    return frozenset(filter(None, map(pack_address, texts)))


@pytest.mark.parametrize("endpoints", [["10.200.0.1"], [], [f"10.200.0.{n}" for n in range(1, 9)]])
def test_a_change_of_endpoints_costs_the_same_beside_ten_and_five_thousand_services(
    monkeypatch, endpoints
) -> None:
    costs = []
    for number_of_services in (10, 5000):
        rig = Rig(monkeypatch)
        rig.start(*many_services(number_of_services))
        rig.planned.clear()
        written = len(rig.nft.transactions)
        rig.turn(endpoint_slice("svc-7", endpoints))
        assert rig.planned == ["ns/svc-7"]
        assert rig.endpoints_of("10.96.0.8") == set(endpoints)
        assert len(rig.nft.transactions) == written + 1
        costs.append((rig.nft.requests_of(), rig.nft.elements_of()))
    assert costs[0] == costs[1]


def test_replacing_one_endpoint_of_three_replaces_one_element(rig) -> None:
    rig.start(*many_services(3))
    stay = pods(1, 3)[:2]
    rig.turn(endpoint_slice("svc-1", [*stay, "10.200.0.1"]))
    assert rig.endpoints_of("10.96.0.2") == {*stay, "10.200.0.1"}
    assert rig.nft.elements_of() == 2  # one deleted, one added


def test_an_update_that_changes_nothing_writes_nothing(rig) -> None:
    rig.start(*many_services(3))
    written = len(rig.nft.transactions)
    rig.turn(*many_services(3))
    assert len(rig.nft.transactions) == written


def test_all_events_that_waited_go_into_one_transaction(rig) -> None:
    rig.start(*many_services(10))
    written = len(rig.nft.transactions)
    rig.turn(*(endpoint_slice(f"svc-{n}", ["10.200.0.1"]) for n in range(10)))
    assert len(rig.nft.transactions) == written + 1
    assert all(rig.endpoints_of(f"10.96.0.{n + 1}") == {"10.200.0.1"} for n in range(10))


def test_a_service_that_is_deleted_leaves_nothing_behind(rig) -> None:
    rig.start(*many_services(2))
    rig.turn(removed(Resource.SERVICE, "svc-1"), removed(Resource.ENDPOINT_SLICE, "svc-1-slice"))
    sets = rig.nft.tables[TABLE].sets
    vip = pack_address("10.96.0.2")
    left = [name for name, item in sets.items() for key in item.elements if key.startswith(vip)]
    assert left == []
    assert rig.serves("10.96.0.1")


def test_a_relist_writes_only_what_differs_from_before(rig) -> None:
    objects = many_services(5)
    rig.start(*objects)
    written = len(rig.nft.transactions)
    rig.turn(*listings(*objects, node()))
    assert len(rig.nft.transactions) == written
    rig.planned.clear()
    without_last, newcomer = objects[:-2], service("new", "10.96.7.7")
    moved = endpoint_slice("svc-0", ["10.200.0.1"])
    kept = [o for o in without_last if o.metadata.name != "svc-0-slice"]
    rig.turn(*listings(*kept, moved, newcomer, node()))
    assert len(rig.nft.transactions) == written + 1
    assert sorted(rig.planned) == ["ns/new", "ns/svc-0", "ns/svc-4"]
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}
    assert not rig.serves("10.96.0.5")
    assert pack_address("10.96.7.7") in rig.nft.keys(TABLE, layout.CLUSTER_IPS)


def test_an_unreadable_update_leaves_the_service_as_it_was(rig) -> None:
    rig.start(*many_services(1))
    rig.turn(Unreadable(Resource.SERVICE, "ns", "svc-0", "spec.ports: not a list"))
    assert rig.serves("10.96.0.1")
    assert rig.metrics.rejected_objects.values == {("Service",): 1}


def test_the_older_of_two_services_keeps_a_contested_address(rig) -> None:
    old = service("old", "10.96.0.1", created="2025-01-01T00:00:00Z")
    new = service("new", "10.96.0.1", created="2026-01-01T00:00:00Z")
    slices = endpoint_slice("old", ["10.180.0.1"]), endpoint_slice("new", ["10.180.0.2"])
    rig.start(new, slices[1])
    assert rig.endpoints_of("10.96.0.1") == {"10.180.0.2"}
    rig.turn(old, slices[0])
    assert rig.endpoints_of("10.96.0.1") == {"10.180.0.1"}
    assert rig.metrics.service_conflicts.values == {(): 1}
    rig.turn(removed(Resource.SERVICE, "old"))
    assert rig.endpoints_of("10.96.0.1") == {"10.180.0.2"}
    assert rig.metrics.service_conflicts.values == {(): 0}


def test_a_new_zone_moves_traffic_to_the_endpoints_of_that_zone(rig) -> None:
    hinted = [
        {"address": f"10.180.0.{number}", "hints": {"forZones": [{"name": zone}]}}
        for number, zone in ((1, "zone-a"), (2, "zone-b"))
    ]
    spread = [service("web", "10.96.0.1"), endpoint_slice("web", hinted)]
    rig.start(*spread, *many_services(3)[2:], node(zone="zone-a"))
    assert rig.endpoints_of("10.96.0.1") == {"10.180.0.1"}
    rig.turn(node(zone="zone-b"))
    assert rig.endpoints_of("10.96.0.1") == {"10.180.0.2"}


def test_the_nodes_new_address_is_let_through_its_own_source_ranges(rig) -> None:
    balancer = service(
        "web",
        "10.96.0.1",
        type="LoadBalancer",
        ingress=["203.0.113.1"],
        loadBalancerSourceRanges=["192.168.5.0/24"],
    )
    rig.start(balancer, endpoint_slice("web", ["10.180.0.1"]))
    allowed = rig.nft.keys(TABLE, layout.ALLOWED_SOURCES)
    assert len(allowed) == 1
    rig.turn(node(addresses=["192.168.5.10"]))
    more = rig.nft.keys(TABLE, layout.ALLOWED_SOURCES) - allowed
    assert [key[-4:] for key in more] == [pack_address("203.0.113.1")]


def test_a_new_interface_address_accepts_node_ports_without_a_restate(monkeypatch) -> None:
    from proxy.engine.loop import AddressesChanged

    rig = Rig(monkeypatch, "--nodeport-addresses=192.168.0.0/16")
    rig.addresses[V4] = addresses("192.168.0.10", "10.0.0.1")
    rig.start(*many_services(2))
    assert rig.nft.keys(TABLE, layout.NODEPORT_IPS) == addresses("192.168.0.10")
    rig.addresses[V4] = addresses("192.168.0.11", "10.0.0.1")
    rig.turn(AddressesChanged())
    assert rig.nft.keys(TABLE, layout.NODEPORT_IPS) == addresses("192.168.0.11")
    assert rig.nft.elements_of() == 2
    written = len(rig.nft.transactions)
    rig.addresses[V4] |= addresses("172.16.0.1")
    rig.turn(AddressesChanged())
    assert len(rig.nft.transactions) == written


def test_new_service_cidrs_change_one_chain(rig) -> None:
    rig.start(*many_services(2), service_cidr("10.96.0.0/16"))
    assert rig.nft.rule_count(TABLE, "cluster-ips-check") == 2
    rig.turn(service_cidr("10.96.0.0/16", "10.97.0.0/16", "fd00::/112"))
    assert rig.nft.rule_count(TABLE, "cluster-ips-check") == 3
    assert rig.nft.requests_of() == 4  # flush and three rules
    rig.turn(removed(Resource.SERVICE_CIDR, "kubernetes", ""))
    assert rig.nft.rule_count(TABLE, "cluster-ips-check") == 1


def test_a_new_pod_cidr_restates_what_tells_pods_apart(monkeypatch) -> None:
    rig = Rig(monkeypatch, "--detect-local-mode=NodeCIDR")
    rig.start(*many_services(2), node(cidrs=["10.180.0.0/24"]))
    written = rig.nft.accepted
    rig.turn(node(cidrs=["10.200.0.0/24"]))
    assert rig.nft.accepted == written + 1
    assert rig.engine.last_result["IPv4"]["full"] is True
    network = rig.reconciler.table.settings.local_traffic.network
    assert str(network) == "10.200.0.0/24"


def test_a_change_of_one_family_writes_nothing_in_the_other(monkeypatch) -> None:
    rig = Rig(monkeypatch, families=(V4, V6))
    rig.start(service("web", ["10.96.0.1", "fd00::1"]), endpoint_slice("web", ["10.180.0.1"]))
    before = rig.ports[V4].accepted, rig.ports[V6].accepted
    rig.turn(endpoint_slice("web", ["10.180.0.2"]))
    assert (rig.ports[V4].accepted, rig.ports[V6].accepted) == (before[0] + 1, before[1])


def test_the_engine_stops_without_writing_what_came_with_the_stop(rig) -> None:
    from proxy.engine.loop import Stop

    rig.start(*many_services(1))
    written = len(rig.nft.transactions)
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]), Stop())
    assert len(rig.nft.transactions) == written
    rig.turn(endpoint_slice("svc-0", ["10.200.0.2"]))
    assert rig.queue.items  # nobody takes events any more
    assert TABLE in rig.nft.tables


def test_the_engine_can_be_stopped_before_it_starts(rig) -> None:
    rig.engine.stop()
    rig.turn(Replaced(Resource.SERVICE, ()))
    assert not rig.started
    assert not rig.nft.transactions
