"""Policies become decisions."""

from collections import Counter
from typing import Any

import pytest

from proxy.model.addresses import IPFamily, pack_address, unpack_address
from proxy.model.endpoints import target_text
from proxy.model.events import Upserted
from proxy.model.services import read_service
from proxy.model.store import ClusterStore
from proxy.plan.planner import Planner
from proxy.plan.service_plan import (
    Frontend,
    FrontendKind,
    Refusal,
    Route,
    ServicePortPlan,
    plan_service_port,
)
from proxy.plan.topology import Location
from tests.support.cluster_objects import (
    a_service,
    cases,
    endpoint_from,
    endpoint_slice,
    service,
)

IPV4 = IPFamily.IPV4
HERE = Location("n1", "z1")
EVERYWHERE = {
    "type": "LoadBalancer",
    "externalIPs": ["192.0.2.1"],
    "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
    "healthCheckNodePort": 31000,
}
LOCAL, REMOTE = "10.0.0.1:8080 local ready", "10.0.0.2:8080 ready"


def plan(*endpoints: str, node: str | None = None, **changes: Any) -> ServicePortPlan:
    (port,) = read_service(a_service("s", **changes), IPV4).ports
    address = pack_address(node) if node else None
    return plan_service_port(port, tuple(map(endpoint_from, endpoints)), HERE, address)


def fates(found: ServicePortPlan) -> dict[FrontendKind, tuple[Route, Refusal]]:
    return {f.kind: (f.route, f.refusal) for f in found.frontends}


def everywhere(*endpoints: str, **policies: str) -> dict[str, tuple[Route, Refusal]]:
    """Return the fates at the cluster IP and at the external frontends, which agree."""
    internal, *external = fates(plan(*endpoints, **EVERYWHERE, **policies)).items()
    assert internal[0] is FrontendKind.CLUSTER_IP
    assert len(external) == 3
    (fate,) = {fate for _, fate in external}
    return {"internal": internal[1], "external": fate}


@pytest.mark.parametrize("case", cases("metrics"))
def test_service_ports_without_local_endpoints_are_told(case: dict[str, Any]) -> None:
    store, planner = ClusterStore([IPV4], case["node"]), Planner(Location(case["node"]), None)
    for obj in [service(case["service"]), *map(endpoint_slice, case["slices"])]:
        store.apply(Upserted(obj))
    for name in store.commit().touched:
        planner.update(name, store.ports(name, IPV4), store.endpoints(name, IPV4))
    found = Counter(policy for p in planner.all_effective() for policy in p.missing_local)
    assert {policy: found[policy] for policy in ("internal", "external")} == case["expect"]


def test_a_service_is_reached_at_all_its_addresses() -> None:
    found = plan(REMOTE, **EVERYWHERE)
    assert [
        (f.kind, unpack_address(f.address) if f.address else "", f.port) for f in found.frontends
    ] == [
        (FrontendKind.CLUSTER_IP, "172.30.0.1", 80),
        (FrontendKind.EXTERNAL_IP, "192.0.2.1", 80),
        (FrontendKind.LOAD_BALANCER, "192.0.2.9", 80),
        (FrontendKind.NODE_PORT, "", 30080),
    ]


@pytest.mark.parametrize(
    ("endpoints", "policies", "internal", "external"),
    [
        ([LOCAL, REMOTE], {}, (Route.CLUSTER, Refusal.NONE), (Route.CLUSTER, Refusal.NONE)),
        ([], {}, (Route.NOWHERE, Refusal.REJECT), (Route.NOWHERE, Refusal.REJECT)),
        (["10.0.0.1:80 local"], {}, (Route.NOWHERE, Refusal.REJECT), None),
        (
            [LOCAL, REMOTE],
            {"internalTrafficPolicy": "Local"},
            (Route.LOCAL, Refusal.NONE),
            (Route.CLUSTER, Refusal.NONE),
        ),
        (
            [REMOTE],
            {"internalTrafficPolicy": "Local"},
            (Route.NOWHERE, Refusal.DROP),
            (Route.CLUSTER, Refusal.NONE),
        ),
        (
            [LOCAL, REMOTE],
            {"externalTrafficPolicy": "Local"},
            (Route.CLUSTER, Refusal.NONE),
            (Route.SHORT_CIRCUIT, Refusal.NONE),
        ),
        (
            [REMOTE],
            {"externalTrafficPolicy": "Local"},
            (Route.CLUSTER, Refusal.NONE),
            (Route.SHORT_CIRCUIT, Refusal.DROP),
        ),
        (
            [REMOTE],
            {"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"},
            (Route.NOWHERE, Refusal.DROP),
            (Route.SHORT_CIRCUIT, Refusal.DROP),
        ),
        (
            [],
            {"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"},
            (Route.NOWHERE, Refusal.REJECT),
            (Route.NOWHERE, Refusal.REJECT),
        ),
    ],
)
def test_where_packets_go(
    endpoints: list[str], policies: dict[str, str], internal: Any, external: Any
) -> None:
    found = everywhere(*endpoints, **policies)
    assert found == {"internal": internal, "external": external or internal}


def test_a_cluster_ip_service_with_local_policy_rejects_only_without_endpoints_anywhere() -> None:
    policy = {"internalTrafficPolicy": "Local"}
    kind = FrontendKind.CLUSTER_IP
    assert fates(plan(REMOTE, **policy))[kind] == (Route.NOWHERE, Refusal.DROP)
    assert fates(plan("10.0.0.2:80", **policy))[kind] == (Route.NOWHERE, Refusal.REJECT)


def test_pools_hold_targets_in_the_order_of_the_endpoints() -> None:
    found = plan(LOCAL, REMOTE, **EVERYWHERE, externalTrafficPolicy="Local")
    assert list(map(target_text, found.cluster)) == ["10.0.0.1:8080", "10.0.0.2:8080"]
    assert list(map(target_text, found.local)) == ["10.0.0.1:8080"]


def test_only_endpoints_on_this_node_can_call_themselves() -> None:
    found = plan(LOCAL, "10.0.0.1:8081 local ready", REMOTE, "10.0.0.3:80 local")
    assert found.hairpins == (bytes((10, 0, 0, 1)),)


def test_external_traffic_is_masqueraded_unless_its_policy_is_local() -> None:
    def masqueraded(**policy: str) -> dict[FrontendKind, bool]:
        frontends: tuple[Frontend, ...] = plan(REMOTE, **EVERYWHERE, **policy).frontends
        return {f.kind: f.always_masquerade for f in frontends}

    external = (FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER, FrontendKind.NODE_PORT)
    assert masqueraded() == {FrontendKind.CLUSTER_IP: False, **dict.fromkeys(external, True)}
    assert not any(masqueraded(externalTrafficPolicy="Local").values())


def test_source_ranges_restrict_load_balancer_addresses_only() -> None:
    found = plan(REMOTE, **EVERYWHERE, loadBalancerSourceRanges=["10.0.0.0/9", "10.128.0.0/9"])
    assert [f.kind for f in found.frontends if f.restricted] == [FrontendKind.LOAD_BALANCER]
    assert list(map(str, found.source_ranges)) == ["10.0.0.0/9", "10.128.0.0/9"]
    assert list(map(str, found.allowed_sources)) == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    ("node", "ranges"),
    [
        (None, ["10.0.0.0/8"]),
        ("192.168.0.1", ["10.0.0.0/8"]),
        ("10.0.0.7", ["10.0.0.0/8", "192.0.2.9/32"]),
    ],
)
def test_a_node_within_the_ranges_may_call_the_address_from_itself(
    node: str | None, ranges: list[str]
) -> None:
    found = plan(REMOTE, node=node, **EVERYWHERE, loadBalancerSourceRanges=["10.0.0.0/8"])
    assert list(map(str, found.allowed_sources)) == ranges
    assert list(map(str, found.source_ranges)) == ["10.0.0.0/8"]


def test_without_ranges_everybody_may_call() -> None:
    found = plan(REMOTE, node="10.0.0.7", **EVERYWHERE)
    assert found.source_ranges == ()
    assert not any(f.restricted for f in found.frontends)


def test_session_affinity_reaches_the_plan() -> None:
    config = {"clientIP": {"timeoutSeconds": 60}}
    found = plan(REMOTE, sessionAffinity="ClientIP", sessionAffinityConfig=config)
    assert found.affinity_timeout_s == 60
    assert plan(REMOTE).affinity_timeout_s == 0


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_an_external_ip_that_is_also_the_load_balancers_is_restricted(policy: str) -> None:
    """Otherwise listing the address twice would lift the source ranges."""
    both = {
        **EVERYWHERE,
        "externalIPs": ["192.0.2.9"],
        "externalTrafficPolicy": policy,
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
    }
    vip = bytes((192, 0, 2, 9))
    (frontend,) = (f for f in plan(LOCAL, **both).frontends if f.address == vip)
    assert frontend.kind is FrontendKind.LOAD_BALANCER
    assert frontend.restricted


def test_the_cluster_ip_stays_one_whatever_else_it_is_called() -> None:
    ingress = {"loadBalancer": {"ingress": [{"ip": "172.30.0.1"}]}}
    found = plan(LOCAL, **{**EVERYWHERE, "externalIPs": ["172.30.0.1"], "status": ingress})
    assert [f.kind for f in found.frontends] == [FrontendKind.CLUSTER_IP, FrontendKind.NODE_PORT]
