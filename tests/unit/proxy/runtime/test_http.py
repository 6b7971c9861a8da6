import gzip
import json
import logging

import pytest

from proxy.runtime import logs
from proxy.runtime.health import ProxyHealth
from proxy.runtime.http import (
    MetricsPages,
    health_handler,
    metrics_handler,
    report_healthz_failure,
    report_metrics_failure,
)
from proxy.runtime.http_message import Request
from proxy.runtime.listening import Address, BindError
from proxy.runtime.metrics import CONTENT_TYPE, BuildInfo, ProxyMetrics
from proxy.runtime.zpages import Process

CONFIG = {
    "kind": "KubeProxyConfiguration",
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "mode": "nftables",
}


@pytest.fixture
def pages(clock):
    process = Process({}, "v0.1.0", "v1.36", clock, clock.wall_ns(), clock.monotonic_ns())
    return {
        "metrics": ProxyMetrics(BuildInfo("v0.1.0")),
        "process": process,
        "mode": "nftables",
        "configz": lambda: CONFIG,
        "desired": lambda: {"services": {"shop/web": 3}},
        "last_sync": lambda: None,
        "why": lambda namespace, name: {"service": [namespace, name]} if name == "web" else None,
    }


def ask(pages, path, *, method="GET", peer="127.0.0.1", body=b"", **headers):
    path, _, query = path.partition("?")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    handler = metrics_handler(MetricsPages(**pages))
    return handler(Request(method, path, query, named, peer, body))


def test_the_health_port_counts_its_answers_by_status(clock):
    metrics = ProxyMetrics(BuildInfo("v0"))
    handler = health_handler(ProxyHealth(10, clock), metrics)
    assert handler(Request("POST", "/healthz")).status == 503
    assert handler(Request("GET", "/livez")).status == 200
    assert handler(Request("GET", "/healthz/ping")).status == 404
    assert handler(Request("GET", "/metrics")).status == 404
    text = metrics.render().decode()
    assert 'kubeproxy_proxy_healthz_total{code="503"} 1.0\n' in text
    assert 'kubeproxy_proxy_livez_total{code="200"} 1.0\n' in text
    assert 'healthz_total{code="404"}' not in text


def test_ports_that_cannot_be_opened_are_logged_with_their_address(caplog):
    error = BindError(Address("0.0.0.0", 10256), OSError(98, "Address already in use"))
    with caplog.at_level(logging.ERROR):
        report_healthz_failure(error)
        report_metrics_failure(error)
    assert caplog.messages == ["Healthz server failed", "Metrics server failed"]
    assert [record.kv.values["err"] for record in caplog.records] == [
        f"{start} on 0.0.0.0:10256: cannot listen on 0.0.0.0:10256: address already in use"
        for start in ("failed to start proxy healthz", "starting metrics server failed")
    ]


def test_metrics_are_text_also_for_a_scraper_that_prefers_openmetrics(pages):
    answer = ask(pages, "/metrics", accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1")
    assert answer.content_type == CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE process_resident_memory_bytes gauge\n" in answer.body


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False), ("identity", False)],
)
def test_metrics_are_packed_for_who_accepts_it(pages, accepted, packed):
    answer = ask(pages, "/metrics", accept_encoding=accepted)
    assert (("Content-Encoding", "gzip") in answer.headers) is packed
    assert (gzip.decompress(answer.body) if packed else answer.body).startswith(b"# HELP ")


def test_metrics_are_read_only(pages):
    assert ask(pages, "/metrics", method="POST").status == 405
    assert ask(pages, "/metrics/slis", method="POST").status == 405


def test_slis_count_the_pings_until_they_are_deleted(pages):
    ask(pages, "/healthz")
    ask(pages, "/healthz/ping")
    line = b'kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} 2.0\n'
    assert line in ask(pages, "/metrics/slis").body
    assert ask(pages, "/metrics/slis", method="DELETE").status == 200
    assert b"kubernetes_healthchecks_total" not in ask(pages, "/metrics/slis").body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/healthz", b"ok"),
        ("/healthz/ping", b"ok"),
        ("/healthz?verbose", b"[+]ping ok\nhealthz check passed\n"),
        ("/healthz?verbose=1", b"[+]ping ok\nhealthz check passed\n"),
        ("/proxyMode", b"nftables"),
    ],
)
def test_plain_pages(pages, path, body):
    answer = ask(pages, path, method="PUT")
    assert (answer.status, answer.body) == (200, body)
    assert answer.content_type == "text/plain; charset=utf-8"
    assert ("X-Content-Type-Options", "nosniff") in answer.headers


def test_configz_shows_the_configuration_under_its_group(pages):
    answer = ask(pages, "/configz")
    assert json.loads(answer.body) == {"kubeproxy.config.k8s.io": CONFIG}
    assert answer.content_type == "application/json"


@pytest.mark.parametrize("path", ["/", "/debug/pprof/", "/debug/", "/nothing", "/metrics/"])
def test_anything_else_is_not_found(pages, path):
    assert ask(pages, path).status == 404


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.1.2.3", "::1"])
def test_debug_pages_answer_this_machine(pages, peer):
    answer = ask(pages, "/debug/desired", peer=peer)
    assert json.loads(answer.body) == {"services": {"shop/web": 3}}


@pytest.mark.parametrize("path", ["/debug/desired", "/debug/last-sync", "/debug/why/shop/web"])
@pytest.mark.parametrize("peer", ["192.0.2.1", "2001:db8::1", "fe80::1%eth0"])
def test_debug_pages_refuse_other_machines_and_say_why(pages, path, peer):
    answer = ask(pages, path, peer=peer)
    assert answer.status == 403
    assert peer in json.loads(answer.body)["error"]


def test_why_explains_a_known_service_and_names_an_unknown_one(pages):
    known = ask(pages, "/debug/why/shop/web")
    assert json.loads(known.body) == {"service": ["shop", "web"]}
    unknown = ask(pages, "/debug/why/shop/nothing")
    assert unknown.status == 404
    assert "shop/nothing" in json.loads(unknown.body)["error"]
    assert "/debug/why/<namespace>/<service>" in ask(pages, "/debug/why/web").body.decode()


def test_a_debug_page_without_content_says_so(pages):
    answer = ask(pages, "/debug/last-sync")
    assert (answer.status, json.loads(answer.body)) == (404, {"error": "nothing was synced yet"})


def test_stacks_and_verbosity_need_profiling(pages):
    for path in ("/debug/stacks", "/debug/flags/v"):
        assert ask(pages, path, method="PUT", body=b"4").status == 404


def test_stacks_show_what_every_thread_does(pages):
    answer = ask({**pages, "profiling": True}, "/debug/stacks")
    assert b"(MainThread):\n" in answer.body
    assert b"test_stacks_show_what_every_thread_does" in answer.body
    assert ask({**pages, "profiling": True}, "/debug/stacks", peer="192.0.2.1").status == 403


def test_the_log_verbosity_can_be_changed(pages):
    profiled = {**pages, "profiling": True}
    before = logs.verbosity()
    try:
        assert ask(profiled, "/debug/flags/v", method="PUT", body=b"4\n").status == 200
        assert logs.verbosity() == 4
        assert ask(profiled, "/debug/flags/v", method="PUT", body=b"-1").status == 400
        assert ask(profiled, "/debug/flags/v").status == 405
        assert logs.verbosity() == 4
    finally:
        logs.set_verbosity(before)


def test_the_pages_work_over_a_real_connection(pages, loop, fetch, caplog):
    handler = metrics_handler(MetricsPages(**pages))
    port = loop.listen(Address("0.0.0.0", 0), handler).address.port
    with caplog.at_level(logging.ERROR):
        assert fetch(port, "/debug/desired").status == 200
        assert fetch(port, "/debug/desired", host="::1").status == 200
        assert fetch(port, "/metrics").status == 200
    assert caplog.messages == []
