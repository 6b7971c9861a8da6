"""The store's change tracking, case by case as kube-proxy's trackers decide."""

from collections.abc import Iterable
from typing import Any

import pytest

from proxy.engine.family import FamilyProxy
from proxy.model.addresses import IPFamily
from proxy.model.events import Removed, Resource, Upserted
from proxy.model.services import ServiceName
from proxy.model.store import ClusterStore, Delta
from proxy.plan.planner import Planner
from proxy.plan.topology import Location
from tests.support.cluster_objects import (
    cases,
    endpoint_slice,
    endpoint_text,
    port_key,
    service,
)

IPV4 = IPFamily.IPV4

# The store has no clock. When kube-proxy started is known to whoever measures, and the first
# synchronisation, which sees all the old times, is not measured at all.
DELIBERATE_DIFFERENCES = {"older-than-tracker": {"ns/ep1": ["2017-12-31T23:59:59Z"]}}


def store(hostname: str = "") -> ClusterStore:
    return ClusterStore([IPV4], hostname)


def change(cluster: ClusterStore, op: str, words: dict[str, Any]) -> None:
    if op in ("delete", "remove"):
        namespace, name = words["slice"].split("/")
        cluster.apply(Removed(Resource.ENDPOINT_SLICE, namespace, name))
    else:
        cluster.apply(Upserted(endpoint_slice(words)))


def change_service(cluster: ClusterStore, op: str, manifest: dict[str, Any]) -> None:
    obj = service(manifest)
    if op == "delete":
        cluster.apply(Removed(Resource.SERVICE, obj.metadata.namespace, obj.metadata.name))
    else:
        cluster.apply(Upserted(obj))


def services_of(slices: Iterable[dict[str, Any] | None]) -> set[ServiceName]:
    return {ServiceName(s["slice"].split("/")[0], s["service"]) for s in slices if s}


def endpoints(cluster: ClusterStore, services: Iterable[ServiceName]) -> dict[str, list[str]]:
    return {
        f"{service_name}:{port}/{protocol}": [endpoint_text(e) for e in found]
        for service_name in services
        for (port, protocol), found in cluster.endpoints(service_name, IPV4).items()
    }


def only_local(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return endpoint texts without the words about conditions."""
    keep = ("local",)
    return {
        key: [" ".join(w for i, w in enumerate(t.split()) if not i or w in keep) for t in texts]
        for key, texts in found.items()
    }


def local_ready(cluster: ClusterStore, hostname: str, services: Iterable[Any]) -> dict[str, int]:
    """Return the counts behind health check node ports, Services without any left out."""
    planner = Planner(Location(hostname), None)
    proxy = FamilyProxy(IPV4, cluster, planner, reconciler=None)  # type: ignore[arg-type]
    counts = {str(name): proxy.local_ready_addresses(name) for name in services}
    return {name: count for name, count in counts.items() if count}


def udp_changed(delta: Delta, *views: dict[str, list[str]]) -> bool:
    """Return whether a changed Service has, or had, endpoints of a UDP port."""
    keys = {key for view in views for key in view if key.endswith("/UDP")}
    return any(key.rpartition(":")[0] == str(name) for key in keys for name in delta.touched)


@pytest.mark.parametrize("case", cases("services", "sequences"))
def test_changes_of_services_are_handed_out_once(case: dict[str, Any]) -> None:
    cluster = store()
    for step in case["steps"]:
        for item in step["changes"]:
            change_service(cluster, item["op"], item["object"])
        updated, expect = cluster.commit().services, step["expect"]
        held = [p for name in cluster.service_names() for p in cluster.ports(name, IPV4)]
        checks = {
            str(p.name.service): p.traits.health_check_node_port
            for p in held
            if p.traits.health_check_node_port
        }
        wanted = expect["updatedServices"]
        assert len(held) == expect["ports"]
        assert len({port_key(p.name) for p in held}) == len(held)
        if isinstance(wanted, int):
            assert len(updated) == wanted
        else:
            assert sorted(map(str, updated)) == sorted(wanted)
        if "healthCheckNodePorts" in expect:
            assert checks == expect["healthCheckNodePorts"]
        else:
            assert len(checks) == expect["healthCheckNodePortCount"]
        assert not cluster.commit()


@pytest.mark.parametrize("case", cases("services", "pendingItems"))
def test_a_change_that_is_taken_back_leaves_nothing_pending(case: dict[str, Any]) -> None:
    cluster = store()
    for step in case["steps"]:
        change_service(cluster, step["change"]["op"], step["change"]["object"])
        assert cluster.pending_services == step["expect"]["pending"]
    assert not cluster.commit()


@pytest.mark.parametrize("case", cases("endpointslices", "changeDetection"))
def test_which_versions_of_a_slice_differ(case: dict[str, Any]) -> None:
    cluster = store()
    change(cluster, "add", case["before"])
    cluster.commit()
    change(cluster, "update", case["after"])
    assert bool(cluster.commit().endpoints) is case["expect"]["changed"]


@pytest.mark.parametrize("case", cases("endpointslices", "cacheEmptied"))
def test_nothing_stays_of_slices_that_are_gone(case: dict[str, Any]) -> None:
    cluster = store()
    for words in case["slices"]:
        change(cluster, "add", words)
    cluster.commit()
    for words in case["slices"]:
        if words["slice"].split("/")[1] in case.get("remove", words["slice"]):
            change(cluster, "delete", words)
    cluster.commit()
    names = services_of(case["slices"])
    (wanted,) = case["expect"].values()
    assert len([name for name in names if cluster.slices(name)]) == wanted
    assert len([name for name in names if cluster.endpoints(name, IPV4)]) == wanted


def transition(case: dict[str, Any]) -> dict[str, Any]:
    """Load a case's slices, commit, move to the later ones; return what can be compared."""
    cluster = store(case["hostname"])
    names = services_of([*case["before"], *case["after"]])
    for words in filter(None, case["before"]):
        change(cluster, "add", words)
    cluster.commit()
    before = endpoints(cluster, names)
    for old, new in zip(case["before"], case["after"], strict=True):
        if new is not None:
            change(cluster, "update" if old else "add", new)
        elif old is not None:
            change(cluster, "delete", old)
    delta, after = cluster.commit(), endpoints(cluster, names)
    return {
        "endpointsBefore": before,
        "endpointsAfter": after,
        "changedServices": sorted(map(str, delta.endpoints)),
        "conntrackCleanupRequired": udp_changed(delta, before, after),
        "localReadyEndpoints": local_ready(cluster, case["hostname"], names),
    }


@pytest.mark.parametrize("case", cases("endpointslices", "trackerTransitions"))
def test_a_transition_of_slices(case: dict[str, Any]) -> None:
    expect = dict(case["expect"])
    expect["changedServices"] = sorted(expect["changedServices"])
    assert transition(case) == expect


@pytest.mark.parametrize("case", cases("endpointslices", "proxierTransitions"))
def test_a_transition_seen_by_a_whole_proxy(case: dict[str, Any]) -> None:
    found = transition(case)
    del found["changedServices"]
    for view in ("endpointsBefore", "endpointsAfter"):
        found[view] = only_local(found[view])
    assert found == case["expect"]


@pytest.mark.parametrize("case", cases("endpointslices", "localReadyIPs"))
def test_ready_addresses_on_this_node(case: dict[str, Any]) -> None:
    cluster = store("here")
    for number, (key, texts) in enumerate(case["endpoints"].items()):
        name, _, port = key.rpartition(":")
        namespace, service_name = name.split("/")
        for index, text in enumerate(texts):
            target, *words = text.split()
            address, _, port_number = target.rpartition(":")
            place = "here" if "local" in words else "elsewhere"
            conditions = " ".join(
                word if word in words else f"!{word}"
                for word in ("ready", "serving", "terminating")
            )
            slice_words = {
                "slice": f"{namespace}/{service_name}-{number}-{index}",
                "service": service_name,
                "ports": [f"{port}/{port_number}"],
                "endpoints": [f"{address} on={place} {conditions}"],
            }
            change(cluster, "add", slice_words)
    names = {ServiceName(*key.rpartition(":")[0].split("/")) for key in case["endpoints"]}
    assert endpoints(cluster, names) == {key: sorted(t) for key, t in case["endpoints"].items()}
    wanted = {name: len(set(ips)) for name, ips in case["expect"]["localReadyIPs"].items()}
    assert local_ready(cluster, "here", names) == wanted


@pytest.mark.parametrize("case", cases("endpointslices", "localReadyCounts"))
def test_draining_endpoints_are_not_counted_as_ready(case: dict[str, Any]) -> None:
    cluster = store(case["hostname"])
    for step in case["steps"]:
        change(cluster, "update", step["object"])
        found = local_ready(cluster, case["hostname"], services_of([step["object"]]))
        assert len(found) == step["expect"]["servicesWithLocalReadyEndpoints"]


@pytest.mark.parametrize("case", cases("endpointslices", "triggerTimes"))
def test_times_of_causes_are_collected_until_the_commit(case: dict[str, Any]) -> None:
    cluster = store()
    for item in case["changes"]:
        change(cluster, item["op"], item["object"])
    found = {str(name): times for name, times in cluster.commit().endpoints.items() if times}
    wanted = case["expect"]["lastChangeTriggerTimes"]
    assert found == DELIBERATE_DIFFERENCES.get(case["name"], wanted)
    assert case["name"] not in DELIBERATE_DIFFERENCES or found != wanted
    assert not cluster.commit()


@pytest.mark.parametrize("case", cases("endpointslices", "singleSliceUpdate"))
def test_one_slice_applied_to_stored_ones(case: dict[str, Any]) -> None:
    cluster = store(case["hostname"])
    for words in case["stored"]:
        change(cluster, "add", words)
    cluster.commit()
    change(cluster, case["op"], case["object"])
    changed, expect = {str(name) for name in cluster.commit().endpoints}, case["expect"]
    assert changed == ({expect["service"]} if expect["changed"] else set())
    if expect["endpoints"] is not None:
        assert endpoints(cluster, services_of([case["object"]])) == expect["endpoints"]


@pytest.mark.parametrize("case", cases("endpointslices", "pendingChanges"))
def test_what_changed_between_two_commits(case: dict[str, Any]) -> None:
    cluster = store(case["hostname"])
    for words in case["applied"]:
        change(cluster, "add", words)
    cluster.commit()
    names = services_of(case["applied"] + case["pending"])
    before = {name: endpoints(cluster, [name]) for name in names}
    for words in case["pending"]:
        change(cluster, "update", words)
    changes = [
        {"previous": before[name], "current": endpoints(cluster, [name])}
        for name in cluster.commit().endpoints
    ]
    assert changes == case["expect"]["changes"]
