"""Every address of a Service's slices has its reason, and the reasons are those of the plan."""

from __future__ import annotations

from typing import Any

import pytest

from diagnostics.endpoints.explain import UnknownService, explain_endpoints
from diagnostics.endpoints.model import EndpointReport, PoolUse, Reason
from diagnostics.endpoints.pools import Pools
from proxy.model.addresses import IPFamily
from proxy.model.endpoints import target_text
from proxy.model.services import ServiceName, read_service
from proxy.plan.topology import Location
from tests.support.cluster_objects import (
    a_service,
    a_slice,
    cases,
    endpoint_from,
    service,
    slice_from,
    slice_manifest,
)
from tests.support.planned_cluster import HERE, a_cluster

WEB = ServiceName("ns", "web")
EXTERNAL_LOCAL = {
    "type": "NodePort",
    "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    "externalTrafficPolicy": "Local",
}


def explain(*objects: Any, **node: str) -> tuple[EndpointReport, ...]:
    return explain_endpoints(a_cluster(*objects, **node), WEB)


def web(*endpoints: str, zone: str = "z1", **changes: Any) -> tuple[EndpointReport, ...]:
    return explain(a_service("web", **changes), a_slice("web-1", "web", *endpoints), zone=zone)


def reasons(pool: PoolUse) -> list[Reason]:
    return [why.reason for why in pool.whys]


def changed_slice(*endpoints: str, **fields: Any) -> Any:
    """Slice web-1 of web with fields of its manifest replaced; labels go into its metadata."""
    words = {"slice": "ns/web-1", "service": "web", "ports": ["http/TCP/8080"]}
    manifest = slice_manifest({**words, "endpoints": list(endpoints)})
    if "labels" in fields:
        manifest["metadata"]["labels"] = fields.pop("labels")
    return slice_from({**manifest, **fields})


def test_a_ready_endpoint_is_used_by_everybody() -> None:
    (found,) = web("10.0.0.1")
    assert (found.target, found.service_port) == ("10.0.0.1:8080", "ns/web:http")
    assert found.pools == ("cluster",)
    assert reasons(found.cluster) == [Reason.READY]
    assert reasons(found.local) == [Reason.POOL_UNUSED]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("!ready", Reason.NOT_READY),
        ("!ready !serving terminating", Reason.TERMINATING),
        ("!ready serving terminating", Reason.OTHERS_READY),
    ],
)
def test_an_endpoint_that_is_not_ready_is_left_out_beside_a_ready_one(
    words: str, reason: Reason
) -> None:
    other, found = web("10.0.0.1", f"10.0.0.2 {words}")
    assert other.used
    assert (found.used, reasons(found.cluster)) == (False, [reason])


def test_a_draining_endpoint_is_used_when_none_is_ready() -> None:
    draining, dead = web("10.0.0.1 !ready serving terminating", "10.0.0.2 !ready")
    assert (draining.cluster.used, reasons(draining.cluster)) == (True, [Reason.NOBODY_READY])
    assert (dead.cluster.used, reasons(dead.cluster)) == (False, [Reason.NOT_READY])


def test_external_policy_local_leaves_out_other_nodes_in_the_local_pool_alone() -> None:
    here, there = web(f"10.0.0.1 on={HERE}", "10.0.0.2 on=n2", **EXTERNAL_LOCAL)
    assert (here.pools, there.pools) == (("cluster", "local"), ("cluster",))
    assert reasons(there.local) == [Reason.NOT_ON_THIS_NODE]
    assert there.local.text == "on node n2, not on this one (externalTrafficPolicy Local)"


def test_internal_policy_local_has_no_cluster_pool() -> None:
    here, nowhere = web(f"10.0.0.1 on={HERE}", "10.0.0.2", internalTrafficPolicy="Local")
    assert (here.pools, reasons(here.cluster)) == (("local",), [Reason.POOL_UNUSED])
    assert nowhere.local.text == (
        "on no node by its slice, not on this one (internalTrafficPolicy Local)"
    )


def test_all_that_keeps_an_endpoint_out_is_told() -> None:
    _, found = web(f"10.0.0.1 on={HERE}", "10.0.0.2 !ready on=n2", internalTrafficPolicy="Local")
    assert reasons(found.local) == [Reason.NOT_ON_THIS_NODE, Reason.NOT_READY]


def test_a_draining_endpoint_here_is_used_locally_though_others_elsewhere_are_ready() -> None:
    here, _ = web(
        f"10.0.0.1 !ready serving terminating on={HERE}", "10.0.0.2 on=n2", **EXTERNAL_LOCAL
    )
    assert reasons(here.cluster) == [Reason.OTHERS_READY]
    assert (here.local.used, reasons(here.local)) == (True, [Reason.NOBODY_READY])


def test_zone_hints_for_another_zone_are_a_reason() -> None:
    here, there = web("10.0.0.1 zones=z1", "10.0.0.2 zones=z2,z3")
    assert (here.cluster.used, reasons(here.cluster)) == (True, [Reason.ZONE_HINTS])
    assert (there.cluster.used, reasons(there.cluster)) == (False, [Reason.ZONE_HINTS])
    assert there.cluster.text == "hinted for zones z2, z3, this node is in zone z1"


def test_node_hints_for_another_node_are_a_reason() -> None:
    here, there = web(f"10.0.0.1 nodes={HERE}", "10.0.0.2 nodes=n2")
    assert (here.cluster.used, there.cluster.used) == (True, False)
    assert reasons(here.cluster) == reasons(there.cluster) == [Reason.NODE_HINTS]


def test_an_endpoint_neither_ready_nor_hinted_for_here_has_both_reasons() -> None:
    _, found = web("10.0.0.1 zones=z1", "10.0.0.2 !ready zones=z2")
    assert reasons(found.cluster) == [Reason.NOT_READY, Reason.ZONE_HINTS]


@pytest.mark.parametrize("case", cases("topology"))
def test_the_pools_are_those_of_the_vectors_and_every_endpoint_has_a_reason(
    case: dict[str, Any],
) -> None:
    wanted, expect = case["service"], case["expect"]
    node_port = wanted.get("nodePort", 0)
    (port,) = read_service(
        a_service(
            "web",
            type="NodePort" if node_port else "ClusterIP",
            ports=[{"name": "http", "port": 80, "nodePort": node_port}],
            internalTrafficPolicy=wanted["internalTrafficPolicy"],
            externalTrafficPolicy=wanted["externalTrafficPolicy"],
        ),
        IPFamily.IPV4,
    ).ports
    endpoints = tuple(map(endpoint_from, case["endpoints"]))
    pools = Pools(port, endpoints, Location(*case["node"].values()), lambda endpoint: "")
    for pool, key in (("cluster", "clusterEndpoints"), ("local", "localEndpoints")):
        uses = {str(endpoint): pools.use(endpoint, pool) for endpoint in endpoints}
        assert [target for target, use in uses.items() if use.used] == (expect[key] or [])
        assert all(use.text for use in uses.values())


def test_of_the_same_target_in_two_slices_one_counts() -> None:
    found = explain(
        a_service("web"),
        a_slice("web-1", "web", "10.0.0.1"),
        a_slice("web-2", "web", "10.0.0.1 !ready serving terminating"),
    )
    assert [reasons(one.cluster) for one in found] == [[Reason.READY], [Reason.DUPLICATE]]
    assert "is in slice web-1" in found[1].cluster.text


def test_without_a_terminating_one_the_later_slice_counts() -> None:
    slices = [a_slice(name, "web", "10.0.0.1") for name in ("web-2", "web-1")]
    first, second = explain(a_service("web"), *slices)
    assert (first.slice_name, second.slice_name) == ("web-1", "web-2")
    assert (first.used, second.used) == (False, True)


def test_a_port_that_the_service_lacks_is_told_with_those_it_has() -> None:
    (found,) = explain(a_service("web"), a_slice("s", "web", "10.0.0.1", ports=["admin/TCP/81"]))
    assert reasons(found.cluster) == [Reason.PORT_NOT_IN_SERVICE]
    assert found.cluster.text == "the Service has no port admin/TCP; it has http/TCP"


@pytest.mark.parametrize(
    ("ports", "reason"),
    [
        ([{"name": "http", "port": 0}], Reason.INVALID_PORT),
        ([{"port": 80}], Reason.INVALID_PORT),
        ([], Reason.NO_PORTS),
    ],
)
def test_an_unusable_port_of_a_slice_is_a_reason(ports: list[Any], reason: Reason) -> None:
    (found,) = explain(a_service("web"), changed_slice("10.0.0.1", ports=ports))
    assert (found.used, reasons(found.cluster)) == (False, [reason])


def test_a_wrong_address_is_told_by_its_place() -> None:
    fine, wrong = web("10.0.0.1", "10.0.0.300")
    assert (fine.used, reasons(wrong.cluster)) == (True, [Reason.INVALID_ADDRESS])
    assert wrong.cluster.text.startswith("endpoints[1].addresses[0]: '10.0.0.300'")


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    several = changed_slice(endpoints=[{"addresses": ["10.0.0.1", "10.0.0.2"]}, {"addresses": []}])
    first, second, none = explain(a_service("web"), several)
    assert first.used
    assert reasons(second.cluster) == [Reason.FURTHER_ADDRESS]
    assert (none.address, reasons(none.cluster)) == ("", [Reason.NO_ADDRESS])


def test_a_slice_of_names_is_no_use_to_a_proxy() -> None:
    (found,) = explain(a_service("web"), changed_slice("web.example.org", addressType="FQDN"))
    assert reasons(found.cluster) == [Reason.ADDRESS_TYPE]
    assert "'FQDN'" in found.cluster.text


def test_a_family_that_the_service_lacks_is_a_reason() -> None:
    (found,) = explain(a_service("web"), a_slice("web-6", "web", "fd00::1", family="IPv6"))
    assert reasons(found.cluster) == [Reason.FAMILY]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({}, Reason.NO_SERVICE_LABEL),
        ({"kubernetes.io/service-name": "wbe"}, Reason.OTHER_SERVICE),
        (
            {"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""},
            Reason.HEADLESS_SLICE,
        ),
    ],
)
def test_a_slice_that_only_looks_like_the_services_is_told(
    labels: dict[str, str], reason: Reason
) -> None:
    (found,) = explain(a_service("web"), changed_slice("10.0.0.1", labels=labels))
    assert (found.used, reasons(found.cluster)) == (False, [reason])


def test_a_slice_of_another_service_with_a_longer_name_is_left_out() -> None:
    others = a_service("web-admin", "172.30.0.2"), a_slice("web-admin-1", "web-admin", "10.0.0.9")
    assert explain(a_service("web"), *others) == ()


def test_a_headless_service_has_no_endpoints_in_any_proxy() -> None:
    (found,) = web("10.0.0.1", clusterIP="None", clusterIPs=["None"])
    assert reasons(found.cluster) == [Reason.HEADLESS]


def test_an_external_name_is_served_by_dns() -> None:
    (found,) = web("10.0.0.1", type="ExternalName")
    assert reasons(found.cluster) == [Reason.EXTERNAL_NAME]


def test_a_service_of_another_proxy_is_told_with_its_label() -> None:
    label = {"service.kubernetes.io/service-proxy-name": "mesh"}
    spec = {"clusterIP": "172.30.0.1", "ports": [{"name": "http", "port": 80}]}
    theirs = service(
        {"metadata": {"name": "web", "namespace": "ns", "labels": label}, "spec": spec}
    )
    (found,) = explain(theirs, a_slice("web-1", "web", "10.0.0.1"))
    assert reasons(found.cluster) == [Reason.OTHER_PROXY]
    assert "'mesh'" in found.cluster.text


def test_a_service_without_usable_ports_is_told_with_what_is_wrong() -> None:
    (found,) = web("10.0.0.1", ports=[{"name": "http", "port": 99999}])
    assert reasons(found.cluster) == [Reason.SERVICE_UNUSABLE]
    assert "99999" in found.cluster.text


def test_what_is_used_is_what_the_planner_plans() -> None:
    """Two slices, two ports, all conditions, entries of every kind of fault between them."""
    ports = [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53}]
    conditions = ("", "!ready", "!ready serving terminating", "!serving")
    endpoints = [
        f"10.0.{a}.{b} {words} on={host}"
        for a, words in enumerate(conditions)
        for b, host in enumerate((HERE, "n2"))
    ]
    cluster = a_cluster(
        a_service("web", **{**EXTERNAL_LOCAL, "ports": ports}),
        a_slice("web-1", "web", *endpoints, "junk", ports=["http/TCP/8080", "dns/TCP/5353"]),
        a_slice("web-2", "web", *endpoints[::-1], ports=["http/TCP/8080"]),
    )
    found = explain_endpoints(cluster, WEB)
    for plan in cluster.planners[IPFamily.IPV4].plans_of(WEB):
        mine = [one for one in found if one.service_port == str(plan.name)]
        for pool, planned in (("cluster", plan.cluster), ("local", plan.local)):
            used = [one.target for one in mine if getattr(one, pool).used]
            assert sorted(used) == sorted(map(target_text, planned))
    assert {pool for one in found for pool in one.pools} == {"cluster", "local"}


def test_thousand_endpoints_are_explained_by_their_kinds() -> None:
    """The choice is asked once for each kind of endpoint: a question each would take minutes."""
    endpoints = [f"10.0.{n // 250}.{n % 250} on=n{n % 3}" for n in range(1000)]
    found = web(*endpoints, **EXTERNAL_LOCAL)
    assert len(found) == 1000
    assert sum(one.local.used for one in found) == sum(one.node_name == HERE for one in found)


def test_an_unknown_service_is_told_with_those_that_are_called_alike() -> None:
    cluster = a_cluster(a_service("web"), a_service("db", "172.30.0.2"))
    with pytest.raises(UnknownService, match=r"no Service ns/wbe; did you mean ns/web\?"):
        explain_endpoints(cluster, ServiceName("ns", "wbe"))
    with pytest.raises(UnknownService, match=r"no Service other/web; did you mean ns/web\?"):
        explain_endpoints(cluster, ServiceName("other", "web"))
    with pytest.raises(UnknownService, match="kubectl get services -A"):
        explain_endpoints(cluster, ServiceName("ns", "zzz"))
