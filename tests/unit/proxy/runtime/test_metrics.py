import subprocess
import sys
import threading
import timeit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.backends.iptables.settings import COUNTERS, INVALID_COUNTER
from proxy.runtime.instruments import Sampled
from proxy.runtime.metrics import BuildInfo, ProxyMetrics

SYNC = ["0.001", "0.002", "0.004", "0.008", "0.016", "0.032", "0.064", "0.128", "0.256", "0.512"]
SYNC += ["1.024", "2.048", "4.096", "8.192", "16.384", "+Inf"]
PROGRAMMING = ["0.25", "0.5", *map(str, range(1, 60)), *map(str, range(60, 120, 5))]
PROGRAMMING += [*map(str, range(120, 301, 30)), "+Inf"]
REQUEST = ["0.005", "0.025", "0.1", "0.25", "0.5", "1", "2", "4", "8", "15", "30", "60", "+Inf"]
SIZE = ["64", "256", "512", "1024", "4096", "16384", "65536", "262144"]
SIZE += ["1.048576e+06", "4.194304e+06", "1.6777216e+07", "+Inf"]

FAMILY = {"ip_family"}
# Name, type, labels, buckets.
CONTRACT = [
    ("kubeproxy_sync_proxy_rules_duration_seconds", "histogram", FAMILY, SYNC),
    ("kubeproxy_sync_full_proxy_rules_duration_seconds", "histogram", FAMILY, SYNC),
    ("kubeproxy_sync_partial_proxy_rules_duration_seconds", "histogram", FAMILY, SYNC),
    ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge", FAMILY, None),
    ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "gauge", FAMILY, None),
    ("kubeproxy_network_programming_duration_seconds", "histogram", FAMILY, PROGRAMMING),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "gauge", set(), None),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "counter", set(), None),
    ("kubeproxy_sync_proxy_rules_service_changes_pending", "gauge", set(), None),
    ("kubeproxy_sync_proxy_rules_service_changes_total", "counter", set(), None),
    (
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "gauge",
        {"traffic_policy", "ip_family"},
        None,
    ),
    ("kubeproxy_sync_proxy_rules_iptables_total", "gauge", {"table", *FAMILY}, None),
    ("kubeproxy_sync_proxy_rules_iptables_last", "gauge", {"table", *FAMILY}, None),
    ("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "counter", FAMILY, None),
    (
        "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
        "counter",
        FAMILY,
        None,
    ),
    ("kubeproxy_iptables_ct_state_invalid_dropped_packets_total", "counter", set(), None),
    ("kubeproxy_iptables_localhost_nodeports_accepted_packets_total", "counter", set(), None),
    ("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "counter", FAMILY, None),
    ("kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total", "counter", FAMILY, None),
    ("kubeproxy_conntrack_reconciler_sync_duration_seconds", "histogram", FAMILY, SYNC),
    ("kubeproxy_conntrack_reconciler_deleted_entries_total", "counter", FAMILY, None),
    ("kubeproxy_proxy_healthz_total", "counter", {"code"}, None),
    ("kubeproxy_proxy_livez_total", "counter", {"code"}, None),
    ("rest_client_requests_total", "counter", {"code", "method", "host"}, None),
    ("rest_client_request_duration_seconds", "histogram", {"verb", "host"}, REQUEST),
    ("rest_client_rate_limiter_duration_seconds", "histogram", {"verb", "host"}, REQUEST),
    ("rest_client_request_size_bytes", "histogram", {"verb", "host"}, SIZE),
    ("rest_client_response_size_bytes", "histogram", {"verb", "host"}, SIZE),
    ("kubernetes_feature_enabled", "gauge", {"name", "stage"}, None),
    ("kpctl_self_repair_total", "counter", {"ip_family", "reason"}, None),
    ("kpctl_rejected_objects", "gauge", {"resource"}, None),
    ("kpctl_service_conflicts", "gauge", set(), None),
    ("kpctl_failed_service_ports", "gauge", FAMILY, None),
    ("kpctl_watch_restarts_total", "counter", {"resource"}, None),
]


@pytest.fixture
def metrics():
    return ProxyMetrics(BuildInfo("v1.36.2", platform="linux/amd64"))


def touch_everything(metrics):
    metrics.packet_counts = lambda: dict.fromkeys(COUNTERS, 7)
    for instrument in metrics._instruments():
        if isinstance(instrument, Sampled):
            continue
        labels = ["x"] * len(instrument.labels)
        if hasattr(instrument, "observe"):
            instrument.observe(0.3, *labels)
        elif hasattr(instrument, "inc"):
            instrument.inc(*labels)
        else:
            instrument.set(1, *labels)


def exposed_types(text):
    """Name to type, as the text has them."""
    lines = (line.split() for line in text.splitlines() if line.startswith("# TYPE "))
    return {words[2]: words[3] for words in lines}


@pytest.mark.parametrize(
    ("name", "kind", "labels", "buckets"), CONTRACT, ids=[entry[0] for entry in CONTRACT]
)
def test_a_metric_is_exposed_as_dashboards_know_it(metrics, name, kind, labels, buckets):
    touch_everything(metrics)
    text = metrics.render().decode()
    assert exposed_types(text)[name] == kind
    sample = f"{name}_count" if kind == "histogram" else name
    samples = [
        one
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == sample
    ]
    assert samples
    assert all(set(one.labels) == labels for one in samples)
    if buckets:
        lines = [line for line in text.splitlines() if line.startswith(f"{name}_bucket")]
        assert [line.partition('le="')[2].partition('"')[0] for line in lines] == buckets


def test_nothing_is_exposed_that_no_one_expects(metrics):
    touch_everything(metrics)
    known = {entry[0] for entry in CONTRACT}
    known |= {"kubernetes_build_info", "kpctl_change_latency_seconds"}
    known |= {"kpctl_kernel_transaction_duration_seconds"}
    known |= {
        f"process_{name}"
        for name in (
            "cpu_seconds_total",
            "max_fds",
            "open_fds",
            "resident_memory_bytes",
            "start_time_seconds",
            "virtual_memory_bytes",
        )
    }
    text = metrics.render().decode()
    assert set(exposed_types(text)) == known
    assert "_created" not in text
    assert "_total_total" not in text


def test_labelled_series_exist_only_after_their_first_observation(metrics):
    text = metrics.render().decode()
    assert "ip_family" not in text
    assert "kubeproxy_sync_proxy_rules_endpoint_changes_total 0.0\n" in text
    assert "kubeproxy_sync_proxy_rules_duration_seconds" not in text


def test_packet_counters_are_read_at_each_scrape_and_absent_without_the_kernels(metrics):
    name = "kubeproxy_iptables_ct_state_invalid_dropped_packets_total"
    assert "kubeproxy_iptables_" not in metrics.render().decode()
    packets = {INVALID_COUNTER: 3}
    metrics.packet_counts = lambda: packets
    assert f"{name} 3.0" in metrics.render().decode()
    packets[INVALID_COUNTER] = 5
    text = metrics.render().decode()
    assert f"{name} 5.0" in text
    assert "localhost_nodeports" not in text


def test_the_build_info_names_major_and_minor(metrics):
    text = metrics.render().decode()
    (line,) = [one for one in text.splitlines() if one.startswith("kubernetes_build_info{")]
    assert 'git_version="v1.36.2",go_version="",major="1",minor="36",platform="linux/amd64"' in line
    assert line.endswith(" 1.0")


def test_bucket_bounds_are_inclusive_and_counts_cumulative(metrics):
    for value in (0.001, 0.0011, 20):
        metrics.sync_duration.observe(value, "IPv4")
    text = metrics.render().decode()
    name = "kubeproxy_sync_proxy_rules_duration_seconds"
    assert f'{name}_bucket{{ip_family="IPv4",le="0.001"}} 1.0\n' in text
    assert f'{name}_bucket{{ip_family="IPv4",le="0.002"}} 2.0\n' in text
    assert f'{name}_bucket{{ip_family="IPv4",le="16.384"}} 2.0\n' in text
    assert f'{name}_bucket{{ip_family="IPv4",le="+Inf"}} 3.0\n' in text
    assert f'{name}_count{{ip_family="IPv4"}} 3.0\n' in text


def test_a_request_without_an_answer_is_counted_as_an_error(metrics):
    metrics.observe_request("GET", "10.0.0.1:443", None, 0.1)
    metrics.observe_request("GET", "10.0.0.1:443", 200, 0.1)
    metrics.observe_sizes("GET", "10.0.0.1:443", 0, 2_000)
    text = metrics.render().decode()
    for code in ("<error>", "200"):
        line = f'rest_client_requests_total{{code="{code}",host="10.0.0.1:443",method="GET"}} 1.0\n'
        assert line in text
    assert 'rest_client_response_size_bytes_sum{host="10.0.0.1:443",verb="GET"} 2000.0' in text


def test_feature_gates_are_shown_with_their_stage(metrics):
    metrics.set_features([("A", "BETA", True), ("B", "", False)])
    text = metrics.render().decode()
    assert 'kubernetes_feature_enabled{name="A",stage="BETA"} 1.0\n' in text
    assert 'kubernetes_feature_enabled{name="B",stage=""} 0.0\n' in text


def test_slis_show_the_ping_and_can_be_reset(metrics):
    metrics.observe_ping()
    text = metrics.render_slis().decode()
    assert 'kubernetes_healthcheck{name="ping",type="healthz"} 1.0\n' in text
    labels = 'name="ping",status="success",type="healthz"'
    assert f"kubernetes_healthchecks_total{{{labels}}} 1.0\n" in text
    metrics.reset_slis()
    names = list(exposed_types(metrics.render_slis().decode()))
    assert names == ["process_start_time_seconds"]


def test_no_observation_is_lost_between_threads(metrics):
    def observe():
        for _ in range(5_000):
            metrics.sync_duration.observe(0.01, "IPv4")
            metrics.service_changes.inc()

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    metrics.render()
    for thread in threads:
        thread.join()
    text = metrics.render().decode()
    name = "kubeproxy_sync_proxy_rules"
    assert f'{name}_duration_seconds_count{{ip_family="IPv4"}} 20000.0\n' in text
    assert f"{name}_service_changes_total 20000.0\n" in text


def test_an_observation_takes_less_than_ten_microseconds(metrics):
    def observe():
        metrics.sync_duration.observe(0.003, "IPv4")

    best = min(timeit.repeat(observe, number=2_000, repeat=10)) / 2_000
    assert best < 10e-6


def test_prometheus_client_is_not_imported_before_the_first_scrape():
    code = (
        "import sys; from proxy.runtime.metrics import *;"
        "m = ProxyMetrics(BuildInfo('v0')); m.sync_duration.observe(1.0, 'IPv4');"
        "assert 'prometheus_client' not in sys.modules; m.render();"
        "assert 'prometheus_client' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
