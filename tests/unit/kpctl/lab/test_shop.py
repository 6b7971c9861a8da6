"""Tests of kpctl.lab.shop: its objects are what an API server would hold, and fit its probes."""

import ipaddress
import json

import msgspec
import pytest

from kpctl.lab import shop, topology
from kpctl.lab.probes import Outcome
from proxy.model.objects import KINDS


def every_object():
    return [obj for objects in shop.manifests().values() for obj in objects]


def of_kind(kind):
    return [obj for obj in every_object() if obj["kind"] == kind]


def full_name(obj):
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def test_the_proxy_can_decode_every_object():
    for obj in every_object():
        decoded = msgspec.json.decode(json.dumps(obj).encode(), type=KINDS[obj["kind"]])
        assert decoded.metadata.name == obj["metadata"]["name"]


def test_every_common_kind_of_service_is_there():
    specs = {full_name(obj): obj["spec"] for obj in of_kind("Service")}
    assert specs["shop/web"]["clusterIPs"] == ["10.96.0.10", "fd03::10"]
    assert specs["shop/frontend"]["ports"][0]["nodePort"] == 30080
    assert specs["shop/checkout"]["loadBalancerSourceRanges"] == ["192.0.2.100/32"]
    assert specs["shop/catalog"]["externalTrafficPolicy"] == "Local"
    assert specs["shop/cart"]["sessionAffinity"] == "ClientIP"
    assert {port["protocol"] for port in specs["kube-system/kube-dns"]["ports"]} == {"TCP", "UDP"}


def test_no_address_or_node_port_is_claimed_twice():
    claims = []
    for obj in of_kind("Service"):
        claims += obj["spec"]["clusterIPs"]
        claims += [port["nodePort"] for port in obj["spec"]["ports"] if "nodePort" in port]
        claims += [
            i["ip"] for i in obj.get("status", {}).get("loadBalancer", {}).get("ingress", [])
        ]
        claims += [obj["spec"][key] for key in obj["spec"] if key == "healthCheckNodePort"]
    assert len(claims) == len(set(claims))


def test_every_service_has_a_slice_for_each_of_its_families():
    families = {}
    for piece in of_kind("EndpointSlice"):
        namespace, labels = piece["metadata"]["namespace"], piece["metadata"]["labels"]
        name = f"{namespace}/{labels['kubernetes.io/service-name']}"
        families.setdefault(name, []).append(piece["addressType"])
    expected = {full_name(obj): obj["spec"]["ipFamilies"] for obj in of_kind("Service")}
    assert families == expected


def test_endpoints_are_pods_that_serve_that_port():
    pods = {address: pod for pod in topology.PODS for address in (pod.ipv4, pod.ipv6)}
    for piece in of_kind("EndpointSlice"):
        for endpoint in piece["endpoints"]:
            pod = pods[endpoint["addresses"][0]]
            assert endpoint["nodeName"] == pod.node
            for port in piece["ports"]:
                assert f"{port['protocol'].lower()}:{port['port']}" in pod.serves


def test_each_service_has_a_file_of_its_own():
    for name, objects in shop.manifests().items():
        services = [obj for obj in objects if obj["kind"] == "Service"]
        assert len(services) <= 1
        for obj in services:
            assert name == full_name(obj).replace("/", "-") + ".yaml"


def test_every_service_is_probed():
    assert {full_name(obj) for obj in of_kind("Service")} <= {p.service for p in shop.probes()}


def test_landing_probes_name_pods_and_others_none():
    for probe in shop.probes(1):
        assert bool(probe.pods) == (probe.outcome is Outcome.LANDED)
        assert probe.role in topology.ROLES


def test_the_refused_stranger_has_another_name_than_the_client():
    assert [p.sender for p in shop.probes() if p.service == "shop/checkout"] == [
        "client",
        "stranger",
    ]


def test_further_services_are_spread_over_files_of_a_thousand():
    files = dict(shop.bulk_manifests(2500))
    assert list(files) == ["bulk-000.json", "bulk-001.json", "bulk-002.json"]
    services = [obj for objects in files.values() for obj in objects if obj["kind"] == "Service"]
    assert len({full_name(obj) for obj in services}) == 2500
    assert len({obj["spec"]["clusterIP"] for obj in services}) == 2500


@pytest.mark.parametrize("index", [0, shop.MAX_BULK_SERVICES - 1])
def test_further_services_stay_within_the_service_network_and_off_the_shops(index):
    address = ipaddress.ip_address(shop.bulk_address(index))
    assert address in ipaddress.ip_network(topology.SERVICE_CIDRS[0])
    assert str(address) not in {probe.address for probe in shop.probes()}


def test_the_last_further_service_is_probed():
    assert shop.probes(1000)[-1].service == "bulk/svc-01000"
    assert len(shop.probes(0)) == len(shop.probes(7)) - 1
