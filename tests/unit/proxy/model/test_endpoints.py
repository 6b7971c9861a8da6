"""EndpointSlices reduced to what is kept, and merged per port."""

from itertools import permutations
from typing import Any

import pytest

from proxy.model.addresses import IPFamily
from proxy.model.endpoints import Endpoint, KeptSlice, merge_slices, read_slice, target_text
from proxy.model.objects import EndpointSlice
from tests.support.cluster_objects import (
    a_slice,
    cases,
    endpoint_from,
    endpoint_slice,
    endpoint_text,
    slice_from,
)

IPV4, IPV6 = IPFamily.IPV4, IPFamily.IPV6
METADATA = {"name": "s-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "s"}}


def kept(obj: EndpointSlice) -> KeptSlice:
    reading = read_slice(obj)
    assert reading.problems == ()
    assert reading.kept is not None
    return reading.kept


def merged(
    slices: list[dict[str, Any]], hostname: str, service: str = "ns/s"
) -> dict[str, list[str]]:
    found = merge_slices([kept(endpoint_slice(words)) for words in slices], IPV4, hostname)
    return {
        f"{service}:{port}/{protocol}": [endpoint_text(e) for e in endpoints]
        for (port, protocol), endpoints in found.items()
    }


@pytest.mark.parametrize("case", cases("endpointslices", "slicesToEndpoints"))
def test_slices_become_endpoints(case: dict[str, Any]) -> None:
    assert merged(case["slices"], case["hostname"], case["service"]) == case["expect"]


@pytest.mark.parametrize("case", cases("endpointslices", "slicesToEndpointsByAddress"))
def test_one_target_in_several_places_counts_once(case: dict[str, Any]) -> None:
    found = merged(case["slices"], case["hostname"], case["service"])
    assert {key: set(endpoints) for key, endpoints in found.items()} == {
        key: set(endpoints) for key, endpoints in case["expect"].items()
    }
    assert all(len(set(endpoints)) == len(endpoints) for endpoints in found.values())


def test_an_endpoint_that_is_not_terminating_wins_in_any_order_of_slices() -> None:
    versions = [
        a_slice("s-1", "s", "10.0.0.1 ready serving !terminating"),
        a_slice("s-2", "s", "10.0.0.1 !ready serving terminating"),
        a_slice("s-3", "s", "10.0.0.1 !ready !serving terminating"),
    ]
    for order in permutations(map(kept, versions)):
        ((endpoint,),) = merge_slices(order, IPV4, "").values()
        assert endpoint_text(endpoint) == "10.0.0.1:8080 ready serving"


def test_of_two_equally_alive_endpoints_the_later_slice_wins() -> None:
    first, second = a_slice("a", "s", "10.0.0.1 ready"), a_slice("b", "s", "10.0.0.1 !ready")
    for order, ready in (((first, second), False), ((second, first), True)):
        ((endpoint,),) = merge_slices(map(kept, order), IPV4, "").values()
        assert endpoint.ready is ready


def test_endpoints_are_sorted_as_text() -> None:
    found = kept(a_slice("a", "s", "10.0.0.2", "10.0.0.10", "10.0.0.1", ports=["http/TCP/80"]))
    ((*endpoints,),) = merge_slices([found], IPV4, "").values()
    assert [str(e) for e in endpoints] == ["10.0.0.10:80", "10.0.0.1:80", "10.0.0.2:80"]


@pytest.mark.parametrize(
    ("words", "ready", "serving", "terminating"),
    [
        ("", True, True, False),
        ("!ready", False, True, False),  # serving does not inherit ready
        ("ready !serving", True, False, False),
        ("!ready serving terminating", False, True, True),
        ("terminating", True, True, True),
    ],
)
def test_absent_conditions_mean_what_the_api_says(
    words: str, ready: bool, serving: bool, terminating: bool
) -> None:
    (endpoint,) = kept(a_slice("a", "s", f"10.0.0.1 {words}")).endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (ready, serving, terminating)


def test_absent_and_null_conditions_are_ready() -> None:
    for manifest in ({"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.1"], "conditions": None}):
        obj = slice_from({"metadata": METADATA, "addressType": "IPv4", "endpoints": [manifest]})
        (endpoint,) = kept(obj).endpoints
        assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (True, True, False)


@pytest.mark.parametrize(
    ("on", "node", "is_local"),
    [("on=n1", "n1", True), ("on=n2", "n1", False), ("", "n1", False), ("", "", False)],
)
def test_an_endpoint_is_local_when_it_names_this_node(on: str, node: str, is_local: bool) -> None:
    ((endpoint,),) = merge_slices([kept(a_slice("a", "s", f"10.0.0.1 {on}"))], IPV4, node).values()
    assert endpoint.is_local is is_local


def test_hints_are_kept_and_empty_lists_are_none() -> None:
    hinted, bare = kept(a_slice("a", "s", "10.0.0.1 zones=z1,z2 nodes=n1", "10.0.0.2")).endpoints
    assert (hinted.zone_hints, hinted.node_hints) == (frozenset({"z1", "z2"}), frozenset({"n1"}))
    assert (bare.zone_hints, bare.node_hints) == (None, None)
    empty = {"addresses": ["10.0.0.1"], "hints": {"forZones": [], "forNodes": []}}
    obj = slice_from({"metadata": METADATA, "addressType": "IPv4", "endpoints": [empty]})
    assert kept(obj).endpoints[0].zone_hints is None


@pytest.mark.parametrize("kind", ["FQDN", "ipv4", "IPv5", ""])
def test_a_slice_of_another_address_type_is_not_used(kind: str) -> None:
    reading = read_slice(a_slice("a", "s", "10.0.0.1", family=kind))
    assert reading.kept is None
    assert reading.problems == (f"addressType: {kind!r} is neither IPv4 nor IPv6",)


@pytest.mark.parametrize(
    ("port", "problem"),
    [
        ({"port": 80}, "ports[0].name: missing; this port is ignored"),
        ({"name": "p"}, "ports[0].port: None is not within 1..65535"),
        ({"name": "p", "port": 0}, "ports[0].port: 0 is not within 1..65535"),
        ({"name": "p", "port": -1}, "ports[0].port: -1 is not within 1..65535"),
        ({"name": "p", "port": 65536}, "ports[0].port: 65536 is not within 1..65535"),
        (
            {"name": "p", "port": 80, "protocol": "QUIC"},
            "ports[0].protocol: 'QUIC' is none of TCP, UDP, SCTP",
        ),
    ],
)
def test_a_wrong_port_is_left_out_and_the_others_are_used(
    port: dict[str, Any], problem: str
) -> None:
    manifest = {
        "metadata": METADATA,
        "addressType": "IPv4",
        "ports": [port, {"name": "", "port": 443}],
        "endpoints": [{"addresses": ["10.0.0.1"]}],
    }
    reading = read_slice(slice_from(manifest))
    assert reading.problems == (problem,)
    assert reading.kept is not None
    found = merge_slices([reading.kept], IPV4, "")
    assert {key: [str(e) for e in ends] for key, ends in found.items()} == {
        ("", "TCP"): ["10.0.0.1:443"]
    }


@pytest.mark.parametrize(
    ("addresses", "problem"),
    [
        ([], "endpoints[0].addresses: empty; this endpoint is ignored"),
        (None, "endpoints[0].addresses: empty; this endpoint is ignored"),
        (["10.0.0"], "endpoints[0].addresses[0]: '10.0.0' is not an IPv4 address"),
        (["a.example"], "endpoints[0].addresses[0]: 'a.example' is not an IPv4 address"),
        (["fd00::1"], "endpoints[0].addresses[0]: 'fd00::1' is not an IPv4 address"),
    ],
)
def test_an_endpoint_without_a_usable_address_is_left_out(addresses: Any, problem: str) -> None:
    manifest = {
        "metadata": METADATA,
        "addressType": "IPv4",
        "endpoints": [{"addresses": addresses}, {"addresses": ["10.0.0.2", "10.0.0.3"]}],
    }
    reading = read_slice(slice_from(manifest))
    assert reading.problems == (problem,)
    assert reading.kept is not None
    (endpoint,) = reading.kept.endpoints  # only the first address of an endpoint counts
    assert endpoint.address == bytes((10, 0, 0, 2))


def test_a_slice_without_ports_or_endpoints_has_no_endpoints() -> None:
    empty = slice_from({"metadata": METADATA, "addressType": "IPv4", "ports": None})
    assert merge_slices([kept(empty)], IPV4, "") == {}
    assert merge_slices([kept(a_slice("a", "s"))], IPV4, "") == {}


def test_the_families_of_a_service_are_merged_apart() -> None:
    both = [
        kept(a_slice("a", "s", "10.0.0.1")),
        kept(a_slice("b", "s", "fd00::1", family="IPv6")),
    ]
    for family, target in ((IPV4, "10.0.0.1:8080"), (IPV6, "[fd00::1]:8080")):
        ((endpoint,),) = merge_slices(both, family, "").values()
        assert str(endpoint) == target


def test_a_thousand_endpoints_in_a_slice_are_all_used() -> None:
    addresses = [f"10.0.{i // 250}.{i % 250}" for i in range(1000)]
    ((*endpoints,),) = merge_slices([kept(a_slice("a", "s", *addresses))], IPV4, "").values()
    assert [str(e) for e in endpoints] == sorted(f"{address}:8080" for address in addresses)


def test_a_targets_bytes_and_text_say_the_same() -> None:
    for text in ("1.2.3.4:9999", "[2001:db8::2:2]:9999", "10.0.0.1:65535"):
        endpoint: Endpoint = endpoint_from(text)
        assert str(endpoint) == text
        assert target_text(endpoint.target) == text
        assert len(endpoint.target) == len(endpoint.address) + 2
