"""What metrics, health ports and Events show of the engine's work."""

from __future__ import annotations

import pytest

from proxy.engine.debug_pages import DebugPages
from proxy.model.events import Resource, Upserted
from tests.support.engine_rig import (
    V4,
    V6,
    Rig,
    endpoint_slice,
    many_services,
    node,
    removed,
    service,
    udp,
    vip_key,
)

HERE = {"nodeName": "node-a"}
TRIGGERED = "2023-11-14T22:30:01Z"  # one second after the rig's clock begins


@pytest.fixture
def rig(monkeypatch):
    return Rig(monkeypatch)


def local_policy(name: str, ip: str, **spec) -> object:
    return service(name, ip, internalTrafficPolicy="Local", **spec)


def missing_local(rig: Rig) -> dict[str, float]:
    values = rig.metrics.no_local_endpoints.values
    return {policy: values[policy, "IPv4"] for policy in ("internal", "external")}


def test_service_ports_without_local_endpoints_are_counted(rig) -> None:
    remote, local = ["10.180.0.1"], [{"address": "10.180.0.2", **HERE}]
    rig.start(local_policy("web", "10.96.0.1"), endpoint_slice("web", remote))
    assert missing_local(rig) == {"internal": 1, "external": 0}
    rig.turn(endpoint_slice("web", [*remote, *local]))
    assert missing_local(rig) == {"internal": 0, "external": 0}
    rig.turn(endpoint_slice("web", remote))
    assert missing_local(rig) == {"internal": 1, "external": 0}
    rig.turn(removed(Resource.SERVICE, "web"))
    assert missing_local(rig) == {"internal": 0, "external": 0}


def test_the_services_that_are_written_first_are_counted_too(rig) -> None:
    dns = local_policy("kube-dns", "10.96.0.10", namespace="kube-system", ports=udp())
    rig.start(dns, endpoint_slice("kube-dns", ["10.180.0.1"], "kube-system", protocol="UDP"))
    assert missing_local(rig) == {"internal": 1, "external": 0}
    rig.turn(removed(Resource.SERVICE, "kube-dns", "kube-system"))
    assert missing_local(rig) == {"internal": 0, "external": 0}


def test_the_count_survives_a_restate(rig) -> None:
    rig.start(local_policy("web", "10.96.0.1"), endpoint_slice("web", ["10.180.0.1"]))
    rig.after(4000)
    assert missing_local(rig) == {"internal": 1, "external": 0}


def test_a_refused_service_is_not_counted(rig) -> None:
    rig.start(*many_services(1))
    rig.nft.refuse(b"\x0a\x60\x00\x42")
    rig.turn(local_policy("web", "10.96.0.66"), endpoint_slice("web", ["10.180.0.1"]))
    assert missing_local(rig) == {"internal": 0, "external": 0}


def test_the_health_check_port_answers_with_the_number_of_local_endpoints(rig) -> None:
    balancer = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000,
    }
    rig.start(
        service("web", "10.96.0.1", **balancer),
        endpoint_slice("web", [{"address": "10.180.0.2", **HERE}, "10.180.0.3"]),
    )
    assert rig.told.ports == {("ns", "web"): 32000}
    assert rig.told.counts == {("ns", "web"): 1}
    rig.turn(endpoint_slice("web", ["10.180.0.3"]))
    assert rig.told.counts == {("ns", "web"): 0}
    rig.turn(service("web", "10.96.0.1", **balancer | {"healthCheckNodePort": 32001}))
    assert rig.told.ports == {("ns", "web"): 32001}
    rig.turn(service("web", "10.96.0.1"))
    assert rig.told.ports == {}


def test_the_health_check_port_of_a_deleted_service_is_closed(rig) -> None:
    balancer = service(
        "web",
        "10.96.0.1",
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=32000,
    )
    rig.start(balancer)
    rig.turn(removed(Resource.SERVICE, "web"))
    assert rig.told.ports == {}


def test_changes_are_counted_as_kube_proxy_counts_them(monkeypatch) -> None:
    rig = Rig(monkeypatch, families=(V4, V6))
    rig.start()
    services, slices = rig.metrics.service_changes, rig.metrics.endpoint_changes
    before = services.values[()], slices.values[()]
    rig.turn(service("web", "10.96.0.1"), endpoint_slice("web", ["10.180.0.1"]))
    rig.turn(removed(Resource.SERVICE, "web"))
    assert services.values[()] - before[0] == 4  # two events, once for each family
    assert slices.values[()] - before[1] == 1


def test_a_synchronisation_is_measured_once_and_by_its_kind(rig) -> None:
    rig.start(*many_services(1))
    rig.after(10, endpoint_slice("svc-0", ["10.200.0.1"]))
    metrics = rig.metrics
    assert sum(metrics.sync_duration.series["IPv4",].counts) == 2
    assert sum(metrics.full_sync_duration.series["IPv4",].counts) == 1
    assert sum(metrics.partial_sync_duration.series["IPv4",].counts) == 1
    assert metrics.last_sync.values == {("IPv4",): rig.time.time()}
    assert metrics.last_queued.values == {("IPv4",): rig.time.time()}


def test_the_time_from_a_change_to_the_kernel_is_measured(rig) -> None:
    rig.start(*many_services(1))
    rig.after(3, endpoint_slice("svc-0", ["10.200.0.1"], triggered=TRIGGERED))
    series = rig.metrics.network_programming.series["IPv4",]
    assert (sum(series.counts), series.total) == (1, 2.0)


def test_a_change_that_was_not_written_is_not_measured(rig) -> None:
    rig.start(*many_services(1))
    rig.nft.fail(12, times=2)
    rig.after(3, endpoint_slice("svc-0", ["10.200.0.1"], triggered=TRIGGERED))
    assert not rig.metrics.network_programming.series


@pytest.mark.parametrize(
    "triggered", ["", "yesterday", "2023-13-99T00:00:00Z", "2023-11-14T22:29:59Z"]
)
def test_a_time_that_is_none_or_before_the_start_is_not_measured(rig, triggered) -> None:
    rig.start(*many_services(1))
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"], triggered=triggered))
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}
    assert not rig.metrics.network_programming.series


def test_health_says_when_a_family_was_written_last_and_whether_the_node_takes_traffic(rig) -> None:
    rig.start(*many_services(1))
    report = rig.health.healthz()
    assert report.status == 200
    assert b'"nodeEligible":true' in report.body
    assert b'"status":{"IPv4":{"lastUpdated":' in report.body


def test_a_node_that_is_about_to_go_is_not_eligible(rig) -> None:
    rig.start(*many_services(1))
    leaving = node()
    taint = type(leaving.spec).Taint(key="ToBeDeletedByClusterAutoscaler")
    spec = type(leaving.spec)(taints=[taint])
    rig.turn(type(leaving)(metadata=leaving.metadata, spec=spec, status=leaving.status))
    assert rig.health.healthz().status == 503
    assert rig.health.livez().status == 200


def test_the_debug_pages_tell_what_is_wanted_served_and_refused(rig) -> None:
    rig.start(*many_services(1))
    rig.nft.refuse(vip_key("10.96.0.66"))
    rig.turn(service("bad", "10.96.0.66"), endpoint_slice("bad", ["10.180.0.66"]))
    pages = DebugPages(rig.engine, rig.store)
    assert sorted(pages.desired()["IPv4"]) == ["ns/bad/TCP", "ns/svc-0/TCP"]
    last = pages.last_sync()
    assert last is not None
    assert "Invalid argument" in last["IPv4"]["refused"]["ns/bad"]
    page = pages.why("ns", "bad")
    assert page is not None
    port = page["families"]["IPv4"]["ports"]["TCP"]
    assert (port["inKernel"], "Invalid argument" in port["refused"]) == (False, True)
    assert [endpoint["used"] for endpoint in port["endpoints"]] == [True]
    assert pages.why("ns", "absent") is None


def test_changes_wait_only_until_they_are_written(rig) -> None:
    rig.start(*many_services(1))
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert rig.metrics.endpoint_changes.values[()] > 0
    assert rig.metrics.endpoint_changes_pending.values[()] == 0
    assert rig.metrics.service_changes_pending.values[()] == 0


def test_the_time_from_an_event_to_the_kernel_is_measured(rig) -> None:
    rig.start(*many_services(1))
    changed = endpoint_slice("svc-0", ["10.200.0.1"])
    rig.turn(Upserted(changed, received=rig.time.monotonic() - 0.25))
    series = rig.metrics.change_latency.series["IPv4",]
    assert (sum(series.counts), round(series.total, 3)) == (1, 0.25)
    rig.turn(endpoint_slice("svc-0", ["10.200.0.2"]))  # it does not say when it arrived
    assert sum(rig.metrics.change_latency.series["IPv4",].counts) == 1
