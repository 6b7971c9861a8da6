"""Which tracked UDP flows are looked for after a change (proxy.engine.conntrack_requests)."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from proxy.conntrack.stale import CleanupRequest, Frontend, place
from proxy.model.addresses import pack_address
from proxy.model.events import Resource
from tests.support.engine_rig import (
    V4,
    V6,
    Rig,
    endpoint_slice,
    removed,
    service,
    service_cidr,
    udp,
)

DNS = Frontend("10.96.0.10", 53)
A, B, C = (place(f"10.180.0.{n}", 5353) for n in (1, 2, 3))


def dns(*ports: dict, **spec) -> object:
    return service("dns", "10.96.0.10", ports=list(ports) or udp(), **spec)


def dns_slice(*numbers: int, serving: tuple[int, ...] = ()) -> object:
    """Endpoints by their last number; those in *serving* terminate but still serve."""
    conditions = {"ready": False, "serving": True, "terminating": True}
    endpoints = [{"address": f"10.180.0.{n}"} for n in numbers]
    endpoints += [{"address": f"10.180.0.{n}", "conditions": conditions} for n in serving]
    return endpoint_slice("dns", endpoints, port=5353, protocol="UDP")


@pytest.fixture
def rig(monkeypatch):
    made = Rig(monkeypatch)
    made.start(
        dns(), dns_slice(1, 2), service("web", "10.96.0.1"), endpoint_slice("web", ["10.1.1.1"])
    )
    made.told.requests.clear()
    return made


def request_after(rig: Rig, *items: object) -> CleanupRequest:
    rig.turn(*items)
    [request] = rig.told.requests
    return request


def test_an_endpoint_that_left_is_looked_for(rig) -> None:
    request = request_after(rig, dns_slice(2))
    assert request.removed_endpoints == {A}
    assert request.frontends == {DNS: frozenset({B})}
    assert request.removed_frontends == frozenset()
    assert request.service_networks == ()


def test_nothing_is_looked_for_when_endpoints_were_only_added(rig) -> None:
    assert request_after(rig, dns_slice(1, 2, 3)).empty


def test_nothing_is_looked_for_after_a_change_of_tcp(rig) -> None:
    assert request_after(rig, endpoint_slice("web", ["10.1.1.2"])).empty


def test_an_endpoint_that_terminates_but_serves_keeps_its_flows(rig) -> None:
    request = request_after(rig, dns_slice(2, serving=(1,)))
    assert request.removed_endpoints == {A}
    assert request.frontends == {DNS: frozenset({A, B})}


def test_the_last_endpoint_that_left_leaves_a_frontend_that_serves_nobody(rig) -> None:
    request = request_after(rig, dns_slice())
    assert request.frontends == {DNS: frozenset()}
    assert request.removed_endpoints == {A, B}


def test_an_endpoint_that_was_replaced_is_looked_for(rig) -> None:
    request = request_after(rig, dns_slice(2, 3))
    assert request.removed_endpoints == {A}
    assert request.frontends == {DNS: frozenset({B, C})}


def test_a_service_that_is_deleted_is_looked_for(rig) -> None:
    request = request_after(rig, removed(Resource.SERVICE, "dns"))
    assert request.removed_frontends == {DNS}
    assert request.frontends == {}
    assert request.removed_endpoints is None


def test_a_new_services_frontend_is_looked_for(rig) -> None:
    rig.turn(endpoint_slice("new", ["10.180.0.3"], port=5353, protocol="UDP"))
    rig.told.requests.clear()
    request = request_after(rig, service("new", "10.96.0.11", ports=udp()))
    assert request.frontends == {Frontend("10.96.0.11", 53): frozenset({C})}
    assert request.removed_endpoints is None


def test_an_added_frontend_is_looked_for(rig) -> None:
    request = request_after(rig, dns(externalIPs=["203.0.113.1"]))
    external = Frontend("203.0.113.1", 53)
    assert request.frontends == {DNS: frozenset({A, B}), external: frozenset({A, B})}
    assert request.removed_frontends == frozenset()
    assert request.removed_endpoints is None


def test_a_removed_frontend_is_looked_for(rig) -> None:
    rig.turn(dns(externalIPs=["203.0.113.1"]))
    rig.told.requests.clear()
    request = request_after(rig, dns())
    assert request.removed_frontends == {Frontend("203.0.113.1", 53)}
    assert request.removed_endpoints is None


def test_an_address_that_another_service_took_over_is_not_a_removed_one(rig) -> None:
    other = service("other", "10.96.0.10", ports=udp())
    slice_of_other = endpoint_slice("other", ["10.180.0.3"], port=5353, protocol="UDP")
    request = request_after(rig, removed(Resource.SERVICE, "dns"), other, slice_of_other)
    assert request.frontends == {DNS: frozenset({C})}
    assert request.removed_frontends == frozenset()


def test_a_node_port_has_no_address_and_the_nodes_addresses_go_along(monkeypatch) -> None:
    rig = Rig(monkeypatch, "--nodeport-addresses=192.168.0.0/16")
    rig.addresses[V4] = frozenset({pack_address("192.168.0.10"), pack_address("172.16.0.1")})
    port = {"port": 53, "protocol": "UDP", "nodePort": 30053}
    rig.start(dns(port, type="NodePort"), dns_slice(1, 2))
    rig.told.requests.clear()
    request = request_after(rig, dns_slice(2))
    assert set(request.frontends) == {DNS, Frontend(None, 30053)}
    assert request.node_addresses == {"192.168.0.10"}


def test_node_ports_on_all_addresses_name_all_addresses(monkeypatch) -> None:
    rig = Rig(monkeypatch)
    rig.addresses[V4] = frozenset({pack_address("172.16.0.1")})
    rig.start(dns(), dns_slice(1, 2))
    rig.told.requests.clear()
    assert request_after(rig, dns_slice(2)).node_addresses == {"172.16.0.1"}


def test_the_first_request_names_everything(monkeypatch) -> None:
    rig = Rig(monkeypatch)
    rig.start(
        dns(externalIPs=["203.0.113.1"]),
        dns_slice(1, serving=(2,)),
        service("web", "10.96.0.1"),
        service("lonely", "10.96.0.12", ports=udp(123)),
        service_cidr("10.96.0.0/16", "fd00::/112"),
    )
    [request] = rig.told.requests
    serving = frozenset({A, B})
    assert request.frontends == {
        DNS: serving,
        Frontend("203.0.113.1", 53): serving,
        Frontend("10.96.0.12", 123): frozenset(),
    }
    assert request.service_networks == (ip_network("10.96.0.0/16"),)
    assert request.removed_endpoints is None


def test_each_family_is_looked_through_for_itself(monkeypatch) -> None:
    rig = Rig(monkeypatch, families=(V4, V6))
    rig.start(service("dns", ["10.96.0.10", "fd00::10"], ports=udp()), dns_slice(1))
    assert {request.family for request in rig.told.requests} == {V4, V6}
    rig.told.requests.clear()
    request = request_after(rig, dns_slice(2))
    assert (request.family, request.removed_endpoints) == (V4, {A})
