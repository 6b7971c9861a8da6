"""What a proxy needs to know of its Node, and how the store follows it."""

from typing import Any

import pytest

from proxy.config.convert import config_from_values
from proxy.engine.node_settings import NodeView, base_settings
from proxy.model.addresses import IPFamily
from proxy.model.events import Removed, Replaced, Resource, Upserted
from proxy.model.node import NodeInfo, read_node
from proxy.model.objects import Node, NodeSpec, NodeStatus, ObjectMeta
from proxy.model.store import ClusterStore
from tests.support.cluster_objects import cases, node, service_cidr, upserted

NODE = "test-node"

# kube-proxy exits so that it starts anew with other pod CIDRs; here the table is adapted while it
# serves, which the changed settings show.
DELIBERATE_DIFFERENCES = {"other-pod-cidrs"}


def store() -> ClusterStore:
    return ClusterStore(IPFamily, NODE)


def settings(cluster: ClusterStore, family: IPFamily, values: dict[str, Any]) -> Any:
    view = NodeView(NODE, cluster.node, {}, cluster.service_cidrs)
    return base_settings(config_from_values(values), view, family)


@pytest.mark.parametrize("case", cases("addresses", "serviceCIDRs"))
def test_service_ranges_reach_the_table_of_their_family(case: dict[str, Any]) -> None:
    cluster = store()
    cluster.apply(Upserted(service_cidr("kubernetes", *case["input"])))
    assert cluster.commit().service_cidrs_changed
    found = settings(cluster, IPFamily(case["ipFamily"]), {}).service_cidrs
    assert ",".join(map(str, found)) == case["expect"]


@pytest.mark.parametrize("case", cases("addresses", "waitForNode"))
def test_the_node_is_known_as_far_as_it_arrived(case: dict[str, Any]) -> None:
    cluster = store()
    for state in case["nodeStates"]:
        cluster.apply(Replaced(Resource.NODE, (node(state),) if state else ()))
    assert cluster.node is not None
    expect = case["expect"]
    if "error" in expect:
        assert case["watchPodCIDRs"]
        assert cluster.node.pod_cidrs == ()
        return
    assert list(cluster.node.addresses) == (expect["nodeIPs"] or [])
    assert list(cluster.node.pod_cidrs) == expect.get("podCIDRs", [])


@pytest.mark.parametrize("case", cases("addresses", "nodeChanged"))
def test_a_changed_node_stops_nothing(case: dict[str, Any]) -> None:
    mode = "NodeCIDR" if case["watchPodCIDRs"] else "ClusterCIDR"
    values = {"detectLocalMode": mode}
    cluster = store()
    cluster.apply(Upserted(node(case["before"])))
    before = [settings(cluster, family, values) for family in IPFamily]
    assert cluster.commit().node_changed
    if case["after"] is None:
        cluster.apply(Removed(Resource.NODE, "", NODE))
    else:
        cluster.apply(Upserted(node(case["after"])))
    assert cluster.commit().node_changed is (case["after"] not in (None, case["before"]))
    after = [settings(cluster, family, values) for family in IPFamily]
    exits = case["expect"]["exitCode"] is not None
    assert exits is (case["name"] in DELIBERATE_DIFFERENCES)
    assert exits is (before != after)


def test_facts_of_a_node() -> None:
    info = read_node(
        node(
            {
                "metadata": {
                    "name": "n",
                    "labels": {"topology.kubernetes.io/zone": "z", "zone": "x"},
                },
                "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]},
                "status": {
                    "addresses": [
                        {"type": "ExternalIP", "address": "192.0.2.1"},
                        {"type": "Hostname", "address": "n"},
                        {"type": "InternalIP", "address": "10.0.0.1"},
                        {"type": "InternalIP", "address": "nonsense"},
                        {"type": "InternalIP", "address": "FD00::1"},
                    ]
                },
            }
        )
    )
    addresses = ("10.0.0.1", "fd00::1", "192.0.2.1")
    assert info == NodeInfo("n", "z", addresses, ("10.0.0.0/24", "fd00::/64"), eligible=True)


def test_a_single_pod_cidr_is_used_when_the_list_is_missing() -> None:
    manifest = {"metadata": {"name": "n"}, "spec": {"podCIDR": "10.0.0.0/24"}}
    assert read_node(node(manifest)).pod_cidrs == ("10.0.0.0/24",)


@pytest.mark.parametrize(
    ("metadata", "taints", "eligible"),
    [
        ({}, [], True),
        ({}, [{"key": "node.kubernetes.io/unschedulable"}], True),
        ({}, [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}], False),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, [], False),
    ],
)
def test_load_balancers_should_avoid_a_node_that_goes_away(
    metadata: dict[str, Any], taints: list[dict[str, str]], eligible: bool
) -> None:
    manifest = {"metadata": {"name": "n", **metadata}, "spec": {"taints": taints}}
    assert read_node(node(manifest)).eligible is eligible


def test_only_this_node_counts() -> None:
    cluster = store()
    for event in upserted(node({"metadata": {"name": "another"}})):
        cluster.apply(event)
    assert cluster.node is None
    assert not cluster.commit()


def test_a_heartbeat_is_no_change() -> None:
    cluster = store()
    cluster.apply(Upserted(node({"metadata": {"name": NODE, "resourceVersion": "1"}})))
    assert cluster.commit().node_changed
    cluster.apply(Upserted(node({"metadata": {"name": NODE, "resourceVersion": "2"}})))
    assert not cluster.commit()


def test_internal_addresses_come_before_external_ones() -> None:
    listed = [
        NodeStatus.Address(type="Hostname", address="node"),
        NodeStatus.Address(type="ExternalIP", address="203.0.113.1"),
        NodeStatus.Address(type="InternalIP", address="fd00::1"),
        NodeStatus.Address(type="InternalIP", address="not-an-ip"),
        NodeStatus.Address(type="InternalIP", address="192.168.0.1"),
    ]
    node = Node(metadata=ObjectMeta(name="n"), status=NodeStatus(addresses=listed))
    assert read_node(node).addresses == ("fd00::1", "192.168.0.1", "203.0.113.1")


def test_a_bare_node_has_no_addresses_and_no_pod_networks() -> None:
    info = read_node(Node(metadata=ObjectMeta(name="n")))
    assert (info.addresses, info.pod_cidrs) == ((), ())


def test_pod_networks_of_the_node() -> None:
    meta = ObjectMeta(name="n")
    one = Node(metadata=meta, spec=NodeSpec(pod_cidr="10.1.0.0/24"))
    two = Node(metadata=meta, spec=NodeSpec(pod_cidr="a", pod_cidrs=["10.1.0.0/24", "fd00::/64"]))
    assert read_node(one).pod_cidrs == ("10.1.0.0/24",)
    assert read_node(two).pod_cidrs == ("10.1.0.0/24", "fd00::/64")
