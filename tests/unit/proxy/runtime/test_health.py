import json
from pathlib import Path

import pytest

from proxy.runtime.health import ProxyHealth
from proxy.runtime.http import health_handler
from proxy.runtime.listening import Address
from proxy.runtime.metrics import BuildInfo, ProxyMetrics

DATA = json.loads((Path(__file__).parents[3] / "data" / "healthcheck.json").read_text())
CASES = DATA["proxyHealth"]
NEVER = "0001-01-01T00:00:00Z"


def stamp(seconds):
    minutes, second = divmod(5 + seconds, 60)
    return f"2026-01-02T03:{4 + minutes:02d}:{second:02d}Z"


def apply(health, clock, action):
    ((verb, value),) = action.items()
    if verb == "wait":
        clock.advance(value)
    elif verb == "updateQueued":
        health.queued(value)
    elif verb == "updateDone":
        health.updated(value)
    else:
        health.set_node(deleting=value["deleting"], taint_keys=value["taints"])


def expected_body(step):
    body = {
        "lastUpdated": stamp(step["lastUpdated"]),
        "currentTime": stamp(step["currentTime"]),
    }
    if "nodeEligible" in step:
        body["nodeEligible"] = step["nodeEligible"]
    body["healthy"] = step["healthy"]
    families = {
        family: {"lastUpdated": stamp(state["lastUpdated"]), "healthy": state["healthy"]}
        for family, state in step["families"].items()
        if state["lastUpdated"] is not None
    }
    if families:
        body["status"] = families
    return json.dumps(body, separators=(",", ":")).encode()


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_probes_answer_as_the_table_says(case, clock, loop, fetch):
    health = ProxyHealth(case["timeoutSeconds"], clock)
    health.set_node(deleting=False, taint_keys=[])
    handler = health_handler(health, ProxyMetrics(BuildInfo("v0")))
    port = loop.listen(Address("127.0.0.1", 0), handler).address.port
    for number, step in enumerate(case["steps"]):
        for action in step["before"]:
            apply(health, clock, action)
        answer = fetch(port, case["path"])
        assert (answer.status, answer.body) == (step["status"], expected_body(step)), number
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_unknown_node_gets_no_traffic_but_is_alive(clock):
    health = ProxyHealth(10, clock)
    assert (health.healthz().status, health.livez().status) == (503, 200)
    assert json.loads(health.healthz().body)["lastUpdated"] == NEVER


def test_a_forgotten_node_is_not_eligible(clock):
    health = ProxyHealth(10, clock)
    health.set_node(deleting=False, taint_keys=[])
    assert health.healthz().status == 200
    health.forget_node()
    assert health.healthz().status == 503


def test_the_oldest_change_decides_not_the_newest(clock):
    health = ProxyHealth(10, clock)
    health.queued("IPv4")
    clock.advance(9)
    health.queued("IPv4")
    assert health.healthy()
    clock.advance(1)
    assert not health.healthy()


def test_a_family_that_never_finished_its_first_sync_becomes_unhealthy(clock):
    health = ProxyHealth(10, clock)
    health.queued("IPv6")
    clock.advance(11)
    body = json.loads(health.livez().body)
    assert body["status"] == {"IPv6": {"lastUpdated": NEVER, "healthy": False}}
    assert health.livez().status == 503


@pytest.mark.usefixtures("utc")
def test_times_have_nanoseconds_without_trailing_zeros(clock):
    clock.elapsed_ns = 120_450_000
    assert b'"currentTime":"2026-01-02T03:04:05.12045Z"' in ProxyHealth(10, clock).livez().body


def test_times_carry_the_local_offset(clock, monkeypatch):
    import time

    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-05:30")
        time.tzset()
        body = json.loads(ProxyHealth(10, clock).livez().body)
    time.tzset()
    assert body["currentTime"] == "2026-01-02T08:34:05+05:30"
