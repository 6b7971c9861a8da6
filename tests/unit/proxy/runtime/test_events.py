import io
from types import SimpleNamespace

from proxy.runtime.events import (
    Event,
    EventThrottle,
    NodeEvents,
    Regarding,
    event_object,
    warn_of_ipvs,
)
from proxy.runtime.logs import LogSettings, setup_logging

SECOND = 1_000_000_000
EVENTS = NodeEvents("node-a")
STARTED = EVENTS.started()


def numbered(number):
    return Event(Regarding("Service", f"s{number}", "ns"), "Warning", "R", "A")


def test_the_start_is_an_event_of_the_node_in_the_default_namespace():
    assert event_object(STARTED, "node-a", 1_767_323_045_120_450_999) == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "node-a.1886caf223c421b7", "namespace": "default"},
        "eventTime": "2026-01-02T03:04:05.120450Z",
        "reportingController": "kube-proxy",
        "reportingInstance": "kube-proxy-node-a",
        "action": "StartKubeProxy",
        "reason": "Starting",
        "regarding": {"kind": "Node", "apiVersion": "v1", "name": "node-a", "uid": "node-a"},
        "note": "",
        "type": "Normal",
    }


def test_a_failed_health_port_is_an_event_of_its_service():
    event = EVENTS.service_health_failed("shop", "web", 30_100, "address already in use")
    made = event_object(event, "node-a", 1)
    assert made["metadata"] == {"name": "web.1", "namespace": "shop"}
    assert (made["type"], made["reason"], made["action"]) == (
        "Warning",
        "FailedToStartServiceHealthcheck",
        "Listen",
    )
    assert made["regarding"] == {
        "kind": "Service",
        "apiVersion": "v1",
        "name": "web",
        "namespace": "shop",
        "uid": "shop/web",
    }
    assert made["note"] == (
        'node node-a failed to start healthcheck "shop/web" on port 30100: address already in use'
    )


def test_fatal_bind_failures_are_events_of_the_node():
    reasons = [event.reason for event in (EVENTS.healthz_failed("e"), EVENTS.metrics_failed("e"))]
    assert reasons == ["FailedToStartProxierHealthcheck", "FailedToStartMetricServer"]
    assert EVENTS.healthz_failed("why").note == "why"


def test_mode_ipvs_is_called_deprecated_in_the_log_and_in_an_event_of_the_node():
    stream, told = io.StringIO(), []
    setup_logging(LogSettings(), stream)
    try:
        warn_of_ipvs(SimpleNamespace(record=told.append), "node-a")
    finally:
        setup_logging(LogSettings())
    (event,) = told
    assert event.regarding == STARTED.regarding
    assert (event.type, event.reason, event.action) == (
        "Warning",
        "IPVSDeprecation",
        "StartKubeProxy",
    )
    assert stream.getvalue().startswith("E")
    for text in (event.note, stream.getvalue()):
        assert all(part in text for part in ("deprecated", "1.35", "1.40", "nftables"))


def test_notes_and_names_keep_to_the_limits_of_the_api():
    event = Event(Regarding("Node", "n" * 253), "Warning", "R", "A", "ü" * 2_000)
    made = event_object(event, "h" * 253, 1_767_323_045_000_000_000)
    assert len(made["metadata"]["name"]) == 253
    assert made["metadata"]["name"].endswith(f".{1_767_323_045_000_000_000:x}")
    assert 1_000 < len(made["note"].encode()) <= 1_024
    assert made["note"].endswith("ü...")
    assert len(made["reportingInstance"]) == 128


def test_repeated_events_carry_their_count():
    made = event_object(STARTED, "node-a", 1_767_323_045_000_000_000, 7)
    series = {"count": 7, "lastObservedTime": "2026-01-02T03:04:05.000000Z"}
    assert made["series"] == series


def test_the_same_event_is_counted_and_reported_again_later():
    throttle = EventThrottle(repeat_s=300)
    counts = [throttle.offer(STARTED, second * SECOND) for second in (0, 1, 299, 300, 301, 600)]
    assert counts == [1, 0, 0, 3, 0, 2]


def test_events_that_differ_in_their_note_are_different():
    throttle = EventThrottle()
    assert throttle.offer(EVENTS.healthz_failed("a"), 0) == 1
    assert throttle.offer(EVENTS.healthz_failed("b"), 0) == 1


def test_only_so_many_events_pass_in_a_minute():
    throttle = EventThrottle(per_minute=2)
    assert [throttle.offer(numbered(n), n * SECOND) for n in range(4)] == [1, 1, 0, 0]
    assert throttle.dropped == 2
    assert throttle.offer(numbered(4), 60 * SECOND) == 1
    assert throttle.offer(numbered(5), 60 * SECOND) == 0


def test_the_throttle_s_memory_is_bounded():
    throttle = EventThrottle(per_minute=10_000)
    for number in range(5_000):
        throttle.offer(numbered(number), 0)
    assert throttle.offer(numbered(4_999), 0) == 0
    assert throttle.offer(numbered(0), 0) == 1
