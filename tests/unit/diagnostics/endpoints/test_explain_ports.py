"""What is said of a Service's ports: who gets which pool, hints, conflicts, missing slices."""

from __future__ import annotations

from typing import Any

import pytest

from diagnostics.cluster.plans import load_cluster
from diagnostics.endpoints.model import PortReport
from diagnostics.endpoints.ports import explain_ports, why_undetermined
from diagnostics.snapshot.node import NodeSnapshot
from proxy.model.services import ServiceName
from tests.support.cluster_objects import a_service, a_slice
from tests.support.planned_cluster import HERE, Parts, a_cluster, cluster_objects

WEB = ServiceName("ns", "web")
EVERYBODY = ("pods", "node", "external")
NODE_PORT = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}


def port(*endpoints: str, zone: str = "z1", **changes: Any) -> PortReport:
    objects = a_service("web", **changes), a_slice("web-1", "web", *endpoints)
    (found,) = explain_ports(a_cluster(*objects, zone=zone), WEB)
    return found


def reach(found: PortReport) -> list[dict[str, str]]:
    return [dict(frontend.reach) for frontend in found.frontends]


def test_with_the_policies_cluster_everybody_gets_the_cluster_pool() -> None:
    found = port("10.0.0.1", **NODE_PORT)
    assert reach(found) == [dict.fromkeys(EVERYBODY, "cluster")] * 2
    assert [frontend.text for frontend in found.frontends] == [
        "172.30.0.1:80/TCP",
        "nodePort 30080/TCP",
    ]


def test_with_external_policy_local_outsiders_get_the_local_pool() -> None:
    found = port(f"10.0.0.1 on={HERE}", **NODE_PORT, externalTrafficPolicy="Local")
    assert reach(found)[1] == {"pods": "cluster", "node": "cluster", "external": "local"}


def test_without_local_endpoints_outsiders_are_dropped_and_the_policy_is_named() -> None:
    found = port("10.0.0.1 on=n2", **NODE_PORT, externalTrafficPolicy="Local")
    assert reach(found)[1] == {"pods": "cluster", "node": "cluster", "external": "drop"}
    assert found.notes == ("externalTrafficPolicy is Local and this node has no usable endpoint",)


def test_without_endpoints_everybody_is_rejected_and_the_missing_slice_port_is_told() -> None:
    found = port("10.0.0.1", ports=[{"name": "grpc", "port": 90}])
    assert reach(found) == [dict.fromkeys(EVERYBODY, "reject")]
    assert found.notes == ("no EndpointSlice has an address for port grpc/TCP",)


@pytest.mark.parametrize(
    ("endpoints", "zone", "said"),
    [
        (
            ["10.0.0.1 zones=z1", "10.0.0.2"],
            "z1",
            "hints are ignored: ready endpoint 10.0.0.2",
        ),
        (["10.0.0.1 zones=z2"], "z1", "no ready endpoint is hinted for zone z1"),
        (["10.0.0.1 zones=z1"], "", "zone hints are ignored: no zone of this node is known"),
        (["10.0.0.1 zones=z1 !ready"], "z1", "hints are ignored: no endpoint is ready"),
        (["10.0.0.1 nodes=n2 zones=z1"], "z1", "no ready endpoint is hinted for node n1"),
    ],
)
def test_why_hints_are_ignored_is_told(endpoints: list[str], zone: str, said: str) -> None:
    assert said in port(*endpoints, zone=zone).hints


def test_hints_that_are_followed_need_no_excuse() -> None:
    found = port("10.0.0.1 zones=z1", "10.0.0.2 zones=z2")
    assert (found.topology, found.hints) == ("zone", "")


def test_hints_mean_nothing_to_policy_local() -> None:
    found = port(f"10.0.0.1 zones=z1 on={HERE}", internalTrafficPolicy="Local")
    assert found.hints == "hints are ignored: the policy is Local"


def test_an_address_that_an_older_service_holds_is_told_on_both_sides() -> None:
    cluster = a_cluster(
        a_service("web", "172.30.0.1", created="2026-02-01T00:00:00Z", externalIPs=["192.0.2.9"]),
        a_service("old", "172.30.0.2", created="2026-01-01T00:00:00Z", externalIPs=["192.0.2.9"]),
    )
    (newer,) = explain_ports(cluster, WEB)
    (older,) = explain_ports(cluster, ServiceName("ns", "old"))
    assert "192.0.2.9:80/TCP belongs to ns/old:http, which is older" in newer.notes
    assert "192.0.2.9:80/TCP is wanted by ns/web:http too, which is newer" in older.notes
    assert [frontend.text for frontend in newer.frontends] == ["172.30.0.1:80/TCP"]


def test_a_headless_service_has_no_ports_here() -> None:
    cluster = a_cluster(a_service("web", clusterIP="None", clusterIPs=["None"]))
    assert explain_ports(cluster, WEB) == ()


def test_without_the_nodes_name_local_policies_cannot_be_judged() -> None:
    def unnamed(**changes: Any) -> str:
        objects = cluster_objects(a_service("web", **changes), a_slice("web-1", "web", "10.0.0.1"))
        return why_undetermined(load_cluster(NodeSnapshot(Parts()), objects), WEB)

    assert unnamed() == ""
    assert "its name is not" in unnamed(internalTrafficPolicy="Local")


def test_without_the_node_zone_hints_cannot_be_judged() -> None:
    objects = a_service("web"), a_slice("web-1", "web", "10.0.0.1 zones=z1")
    assert why_undetermined(a_cluster(*objects), WEB) == ""
    assert "its Node is not" in why_undetermined(a_cluster(*objects, name="n9"), WEB)
