"""Services as a proxy of one family sees them."""

from typing import Any

import pytest

from proxy.model.addresses import IPFamily, unpack_address
from proxy.model.services import ServicePort, cluster_ip_of, is_skipped, read_service
from tests.support.cluster_objects import a_service, cases, port_key, service

IPV4, IPV6 = IPFamily.IPV4, IPFamily.IPV6
VIP = {"loadBalancer": {"ingress": [{"ip": "10.9.9.9"}]}}


def record(port: ServicePort) -> dict[str, Any]:
    traits = port.traits
    return {
        "clusterIP": unpack_address(traits.cluster_ip),
        "port": port.port,
        "protocol": port.name.protocol,
        "healthCheckNodePort": traits.health_check_node_port,
        "externalIPs": [unpack_address(address) for address in traits.external_ips],
        "loadBalancerSourceRanges": [str(network) for network in traits.source_ranges],
        "loadBalancerVIPs": [unpack_address(address) for address in traits.load_balancer_vips],
    }


@pytest.mark.parametrize("case", cases("services", "serviceToPorts"))
def test_a_service_becomes_one_record_per_port(case: dict[str, Any]) -> None:
    objects = [service(case["service"])] if case["service"] else []
    readings = [read_service(obj, IPFamily(case["ipFamily"])) for obj in objects]
    found = {port_key(p.name): record(p) for reading in readings for p in reading.ports}
    assert found == case["expect"]
    assert not any(reading.problems for reading in readings)


@pytest.mark.parametrize("case", cases("services", "skipped"))
def test_which_services_are_ignored_altogether(case: dict[str, Any]) -> None:
    assert is_skipped(service(case["service"])) is case["expect"]["skip"]


@pytest.mark.parametrize("case", cases("services", "clusterIPForFamily"))
def test_the_cluster_ip_of_a_family(case: dict[str, Any]) -> None:
    found = cluster_ip_of(service(case["service"]), IPFamily(case["ipFamily"]))
    assert found == case["expect"]["clusterIP"]


def the_port(**changes: Any) -> ServicePort:
    (port,) = read_service(a_service("s", **changes), IPV4).ports
    return port


@pytest.mark.parametrize(
    ("changes", "what", "problem"),
    [
        (
            {"externalTrafficPolicy": "Nearby", "type": "NodePort"},
            lambda p: p.traits.external_policy_local,
            "spec.externalTrafficPolicy: 'Nearby' is neither Cluster nor Local; Cluster is assumed",
        ),
        (
            {"internalTrafficPolicy": "local"},
            lambda p: p.traits.internal_policy_local,
            "spec.internalTrafficPolicy: 'local' is neither Cluster nor Local; Cluster is assumed",
        ),
        (
            {"sessionAffinity": "Cookie"},
            lambda p: p.traits.affinity_timeout_s,
            "spec.sessionAffinity: 'Cookie' is neither None nor ClientIP",
        ),
        (
            {"externalIPs": ["10.0.0.300", "::zz", "  "]},
            lambda p: p.traits.external_ips,
            "spec.externalIPs[0]: '10.0.0.300' is not an IP address",
        ),
        (
            {"status": {"loadBalancer": {"ingress": [{"ip": "lb.example"}]}}},
            lambda p: p.traits.load_balancer_vips,
            "status.loadBalancer.ingress[0]: 'lb.example' is not an IP address",
        ),
        (
            {"loadBalancerSourceRanges": ["10.0.0.0", " "]},
            lambda p: p.traits.source_ranges,
            "spec.loadBalancerSourceRanges[0]: '10.0.0.0' is not a CIDR",
        ),
        (
            {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
            lambda p: p.traits.health_check_node_port,
            "spec.healthCheckNodePort: missing on a LoadBalancer with policy Local",
        ),
        (
            {"ports": [{"name": "http", "port": 80, "nodePort": 70000}]},
            lambda p: p.node_port,
            "spec.ports[0].nodePort: 70000 is not within 1..65535",
        ),
    ],
)
def test_a_wrong_field_is_named_and_the_service_is_served_without_it(
    changes: dict[str, Any], what: Any, problem: str
) -> None:
    reading = read_service(a_service("s", **changes), IPV4)
    (port,) = reading.ports
    assert problem in reading.problems
    assert not what(port)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"port": 0}, "spec.ports[0].port: 0 is not within 1..65535"),
        ({"port": 65536}, "spec.ports[0].port: 65536 is not within 1..65535"),
        ({"port": -1}, "spec.ports[0].port: -1 is not within 1..65535"),
        (
            {"port": 80, "protocol": "tcp"},
            "spec.ports[0].protocol: 'tcp' is none of TCP, UDP, SCTP",
        ),
        (
            {"port": 80, "protocol": "ICMP"},
            "spec.ports[0].protocol: 'ICMP' is none of TCP, UDP, SCTP",
        ),
    ],
)
def test_an_absurd_port_is_left_out_and_the_others_are_served(
    wrong: dict[str, Any], problem: str
) -> None:
    ports = [{"name": "wrong", **wrong}, {"name": "right", "port": 443}]
    reading = read_service(a_service("s", ports=ports), IPV4)
    assert [port.name.port for port in reading.ports] == ["right"]
    assert reading.problems == (problem,)


@pytest.mark.parametrize("port", [-5, 65536])
def test_an_absurd_health_check_port_is_not_used(port: int) -> None:
    changes = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    reading = read_service(a_service("s", healthCheckNodePort=port, **changes), IPV4)
    assert reading.ports[0].traits.health_check_node_port == 0
    assert reading.problems == (f"spec.healthCheckNodePort: {port} is not within 1..65535",)


@pytest.mark.parametrize("families", [["IPv4"], []])
@pytest.mark.parametrize("text", ["10.0.0", "10.0.0.256", "1e3", "10.0.0.1/32", "fe80::1%eth0"])
def test_a_cluster_ip_that_is_no_address_serves_nothing(text: str, families: list[str]) -> None:
    broken = a_service("s", clusterIP=text, clusterIPs=[text], ipFamilies=families)
    reading = read_service(broken, IPV4)
    assert reading.ports == ()
    assert reading.problems == (f"spec.clusterIP: {text!r} is not an IP address",)


def test_a_cluster_ip_of_another_family_than_claimed_serves_nothing() -> None:
    """An address of the wrong length must never reach a table of the other family."""
    broken = a_service("s", clusterIP="fd00::1", clusterIPs=["fd00::1"], ipFamilies=["IPv4"])
    reading = read_service(broken, IPV4)
    assert reading.ports == ()
    assert reading.problems == ("spec.clusterIPs: 'fd00::1' is not an IPv4 address",)
    assert read_service(broken, IPV6).ports == ()


@pytest.mark.parametrize("families", [["IPv4", "IPv6"], ["IPv5"]])
def test_a_family_without_a_cluster_ip_is_not_served(families: list[str]) -> None:
    assert read_service(a_service("s", "10.0.0.1", ipFamilies=families), IPV6) == ((), ())


def test_an_unknown_type_is_served_by_its_cluster_ip() -> None:
    assert the_port(type="Bogus").traits.cluster_ip == bytes((172, 30, 0, 1))


def test_both_families_of_a_dual_stack_service_are_read_apart() -> None:
    dual = a_service(
        "s",
        clusterIPs=["172.30.0.1", "fd00:172:30::1"],
        ipFamilies=["IPv4", "IPv6"],
        externalIPs=["192.0.2.1", "2001:db8::1"],
        loadBalancerSourceRanges=["10.0.0.0/8", "fd00::/8"],
    )
    for family, cluster_ip, external, ranges in (
        (IPV4, "172.30.0.1", "192.0.2.1", "10.0.0.0/8"),
        (IPV6, "fd00:172:30::1", "2001:db8::1", "fd00::/8"),
    ):
        (port,) = read_service(dual, family).ports
        found = record(port)
        assert found["clusterIP"] == cluster_ip
        assert found["externalIPs"] == [external]
        assert found["loadBalancerSourceRanges"] == [ranges]


def test_leading_zeros_are_decimal_everywhere() -> None:
    found = record(
        the_port(
            cluster_ip="010.001.000.007",
            externalIPs=["192.000.002.009"],
            loadBalancerSourceRanges=["010.020.000.000/16"],
        )
    )
    assert found["clusterIP"] == "10.1.0.7"
    assert found["externalIPs"] == ["192.0.2.9"]
    assert found["loadBalancerSourceRanges"] == ["10.20.0.0/16"]


@pytest.mark.parametrize("everything", ["0.0.0.0/0", "10.0.0.0/0"])
def test_a_source_range_that_covers_everything_lifts_the_restriction(everything: str) -> None:
    assert the_port(loadBalancerSourceRanges=["10.0.0.0/8", everything]).traits.source_ranges == ()


def test_source_ranges_have_their_host_bits_masked() -> None:
    found = record(the_port(loadBalancerSourceRanges=["10.1.2.3/8"]))
    assert found["loadBalancerSourceRanges"] == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    ("config", "seconds", "wrong"),
    [
        (None, 10800, False),
        ({"clientIP": {}}, 10800, False),
        ({"clientIP": {"timeoutSeconds": 1}}, 1, False),
        ({"clientIP": {"timeoutSeconds": 86400}}, 86400, False),
        ({"clientIP": {"timeoutSeconds": 0}}, 10800, True),
        ({"clientIP": {"timeoutSeconds": -3}}, 10800, True),
        ({"clientIP": {"timeoutSeconds": 86401}}, 10800, True),
    ],
)
def test_the_affinity_timeout_is_within_a_day(config: Any, seconds: int, wrong: bool) -> None:
    obj = a_service("s", sessionAffinity="ClientIP", sessionAffinityConfig=config)
    reading = read_service(obj, IPV4)
    assert reading.ports[0].traits.affinity_timeout_s == seconds
    assert bool(reading.problems) is wrong


def test_external_ips_can_be_forbidden_without_changing_who_is_reachable() -> None:
    """As kube-proxy: a Service with forbidden externalIPs still counts as externally reachable."""
    obj = a_service("s", externalIPs=["192.0.2.1"], externalTrafficPolicy="Local")
    (port,) = read_service(obj, IPV4, allow_external_ips=False).ports
    assert port.traits.external_ips == ()
    assert port.externally_accessible
    assert port.uses_local_endpoints


@pytest.mark.parametrize(
    ("changes", "is_local"),
    [
        ({"type": "LoadBalancer"}, True),
        ({"type": "NodePort"}, True),
        ({"type": "ClusterIP"}, False),
        ({"type": "ClusterIP", "externalIPs": ["192.0.2.1"]}, True),
    ],
)
def test_the_external_policy_counts_only_where_something_external_exists(
    changes: dict[str, Any], is_local: bool
) -> None:
    port = the_port(externalTrafficPolicy="Local", healthCheckNodePort=30000, **changes)
    assert port.traits.external_policy_local is is_local


@pytest.mark.parametrize(
    ("changes", "cluster", "local"),
    [
        ({}, True, False),
        ({"internalTrafficPolicy": "Local"}, False, True),
        ({"internalTrafficPolicy": "Local", "status": VIP}, True, True),
        ({"type": "NodePort", "externalTrafficPolicy": "Local"}, True, False),
        ({"type": "NodePort", "externalTrafficPolicy": "Local", "status": VIP}, True, True),
    ],
)
def test_which_endpoints_a_port_uses(changes: dict[str, Any], cluster: bool, local: bool) -> None:
    port = the_port(**changes)
    assert (port.uses_cluster_endpoints, port.uses_local_endpoints) == (cluster, local)


@pytest.mark.parametrize(("mode", "used"), [(None, True), ("VIP", True), ("Proxy", False)])
def test_only_addresses_of_mode_vip_are_the_proxys_business(mode: str | None, used: bool) -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "10.9.9.9", "ipMode": mode}, {}]}}
    assert bool(the_port(status=status).traits.load_balancer_vips) is used


def test_two_ports_of_one_name_and_protocol_are_one_and_protocols_tell_apart() -> None:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns", "port": 53, "protocol": "TCP"},
        {"name": "dns", "port": 54, "protocol": "TCP"},
    ]
    found = read_service(a_service("s", ports=ports), IPV4).ports
    assert [(p.name.protocol, p.port) for p in found] == [("UDP", 53), ("TCP", 54)]


def test_names_read_as_people_write_them() -> None:
    assert str(the_port().name) == "ns/s:http"
    assert str(the_port().name.service) == "ns/s"
    assert str(the_port(ports=[{"port": 80}]).name) == "ns/s"


@pytest.mark.parametrize(("protocol", "number"), [("TCP", 6), ("UDP", 17), ("SCTP", 132)])
def test_protocol_numbers_are_those_of_ip(protocol: str, number: int) -> None:
    assert the_port(ports=[{"port": 80, "protocol": protocol}]).protocol_number == number
