"""The first synchronisation: what it waits for, in which order it writes, what it takes over."""

from __future__ import annotations

import errno

import pytest

from proxy.backends.nftables import layout
from proxy.backends.nftables.requests import Request
from proxy.engine import start_order
from proxy.engine.start_gate import FatalError
from proxy.kernel.netlink import NetlinkError
from proxy.model.events import Replaced, Resource
from proxy.netfilter.wire import NLM_F_CREATE, Msg, string
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
    service,
    udp,
)

API = [
    service("kubernetes", "10.96.255.1", "default"),
    endpoint_slice("kubernetes", ["192.168.0.1"], "default"),
]
DNS = [
    service("kube-dns", "10.96.255.10", "kube-system", ports=udp()),
    endpoint_slice("kube-dns", ["10.180.9.9"], "kube-system", protocol="UDP"),
]


@pytest.fixture
def rig(monkeypatch):
    return Rig(monkeypatch)


def origins(rig: Rig, index: int) -> set[str]:
    """Names of the Services in a transaction."""
    return {o.name for request in rig.nft.transactions[index] for o in request.origins}


def test_on_a_fresh_node_the_api_server_and_dns_are_written_before_all_others(rig) -> None:
    rig.start(*many_services(5), *API, *DNS)
    assert origins(rig, 0) == {"kubernetes", "kube-dns"}
    assert origins(rig, 1) == {f"svc-{number}" for number in range(5)}
    assert len(rig.nft.transactions) == 2


def test_the_rest_is_written_in_bounded_batches(rig, monkeypatch) -> None:
    monkeypatch.setattr(start_order, "BATCH_SIZE", 4)
    rig.start(*many_services(10), *API)
    assert [len(origins(rig, index)) for index in range(4)] == [1, 4, 4, 2]
    assert all(rig.serves(f"10.96.0.{number + 1}") for number in range(10))


@pytest.mark.parametrize(
    ("namespace", "port", "vital"),
    [("kube-system", 53, True), ("kube-system", 9153, False), ("default", 53, False)],
)
def test_cluster_dns_is_a_service_of_kube_system_with_port_53(rig, namespace, port, vital) -> None:
    rig.start(service("coredns", "10.96.0.10", namespace, ports=udp(port)))
    first = {o.name for request in rig.nft.transactions[0] for o in request.origins}
    assert (first == {"coredns"}) is vital


def test_a_table_that_exists_is_restated_in_one_transaction(rig, monkeypatch) -> None:
    rig.start(*many_services(5), *API, *DNS)
    before = dict(rig.nft.tables)
    successor = Rig(monkeypatch, nft=rig.nft)
    successor.start(*many_services(5), *API, *DNS)
    assert len(rig.nft.transactions) == 3
    kinds = {request.kind for request in rig.nft.transactions[2]}
    assert Msg.DELTABLE not in kinds
    assert rig.nft.tables == before


def test_a_table_that_kube_proxy_left_is_taken_over_and_what_is_not_ours_goes(rig) -> None:
    body = string(1, TABLE)
    rig.nft.apply(
        [
            Request(Msg.NEWTABLE, NLM_F_CREATE, body),
            Request(Msg.NEWCHAIN, NLM_F_CREATE, body + string(3, "service-ABC-ns/web/tcp/80")),
        ]
    )
    rig.start(*many_services(2))
    assert "service-ABC-ns/web/tcp/80" not in rig.nft.chains(TABLE)
    assert Msg.DELTABLE not in {request.kind for t in rig.nft.transactions for request in t}
    assert rig.serves("10.96.0.1")


def test_nothing_is_written_before_every_listing_arrived(rig) -> None:
    services, slices, nodes, _ = (
        next(item for item in listings(*many_services(1), node()) if item.resource is resource)
        for resource in Resource
    )
    for item in (services, slices):
        rig.turn(item)
        assert not rig.nft.transactions
    rig.turn(nodes)
    assert rig.started == 1
    assert rig.serves("10.96.0.1")


def test_the_start_waits_for_the_nodes_addresses_for_thirty_seconds(rig) -> None:
    rig.turn(*listings(*many_services(1), node(addresses=())))
    assert not rig.started
    assert rig.until_due() == pytest.approx(30)
    rig.after(29.9)
    assert not rig.started
    rig.after(0.1)
    assert rig.started
    assert rig.serves("10.96.0.1")


def test_the_start_goes_on_at_once_when_the_node_appears(rig) -> None:
    rig.turn(*listings(*many_services(1)))
    assert not rig.started
    rig.after(3, node())
    assert rig.started


def test_without_an_api_server_nobody_waits_for_a_node(monkeypatch) -> None:
    rig = Rig(monkeypatch, wait_for_node=False)
    rig.turn(*listings(*many_services(1)))
    assert rig.started


def test_node_cidr_mode_gives_up_when_the_node_gets_no_pod_cidr(monkeypatch) -> None:
    rig = Rig(monkeypatch, "--detect-local-mode=NodeCIDR")
    rig.turn(*listings(*many_services(1), node()))
    rig.after(299)
    assert not rig.started
    with pytest.raises(FatalError, match=r"pod CIDRs of node 'node-a'.*NodeCIDR"):
        rig.after(1)
    assert not rig.nft.transactions


def test_node_cidr_mode_starts_when_the_pod_cidr_arrives(monkeypatch) -> None:
    rig = Rig(monkeypatch, "--detect-local-mode=NodeCIDR")
    rig.turn(*listings(*many_services(1), node()))
    rig.after(200, node(cidrs=["10.180.0.0/24"]))
    assert rig.started


def test_both_families_are_written(monkeypatch) -> None:
    rig = Rig(monkeypatch, families=(V4, V6))
    dual = service("web", ["10.96.0.1", "fd00::1"])
    rig.start(dual, endpoint_slice("web", ["10.180.0.1"]))
    assert rig.ports[V4].keys(TABLE, layout.CLUSTER_IPS) == {bytes((10, 96, 0, 1))}
    assert rig.ports[V6].keys(TABLE, layout.CLUSTER_IPS) == {bytes.fromhex("fd" + "00" * 14 + "01")}


def test_a_kernel_that_refuses_at_the_start_is_asked_again(rig) -> None:
    rig.nft.fail(errno.ENOMEM)
    rig.start(*many_services(3), *API)
    assert rig.started
    assert TABLE not in rig.nft.tables
    assert rig.until_due() == pytest.approx(1)
    rig.after(1)
    assert rig.serves("10.96.255.1")
    assert rig.serves("10.96.0.3")


def test_a_failure_in_the_middle_of_the_start_is_made_up_for(rig, monkeypatch) -> None:
    monkeypatch.setattr(start_order, "BATCH_SIZE", 2)
    rig.nft.fail(errno.ENOMEM, after=2)
    rig.start(*many_services(6), *API)
    assert rig.serves("10.96.255.1")
    rig.after(1)
    assert all(rig.serves(f"10.96.0.{number + 1}") for number in range(6))


def test_a_kernel_that_cannot_be_read_at_the_start_is_asked_again(rig) -> None:
    rig.nft.unreadable = NetlinkError(errno.ENOBUFS)
    rig.start(*many_services(1))
    assert rig.started
    rig.nft.unreadable = None
    rig.after(1)
    assert rig.serves("10.96.0.1")


def test_a_refused_service_does_not_keep_the_others_from_the_start(rig) -> None:
    rig.nft.refuse(bytes((10, 96, 0, 2, 6)))
    rig.start(*many_services(5), *API)
    served = [rig.serves(f"10.96.0.{number + 1}") for number in range(5)]
    assert served == [True, False, True, True, True]
    assert rig.endpoints_of("10.96.0.1") == set(pods(0, 3))


def test_a_listing_without_services_makes_an_empty_table(rig) -> None:
    rig.turn(Replaced(Resource.SERVICE, ()), Replaced(Resource.ENDPOINT_SLICE, ()))
    rig.turn(Replaced(Resource.NODE, (node(),)))
    assert rig.nft.table_comment(TABLE) == layout.TABLE_COMMENT
    assert rig.nft.keys(TABLE, layout.SERVICE_IPS) == set()
