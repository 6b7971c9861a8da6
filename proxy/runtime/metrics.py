"""
What the proxy counts: kube-proxy's metric names, types, labels and buckets, and a few of its own.

Dashboards and alerts written for kube-proxy must work unchanged, so the names are contract even
where they break Prometheus' rules (gauges that end in ``_total``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.backends.iptables.settings import INVALID_COUNTER, LOCALHOST_COUNTER
from proxy.runtime.instruments import Counter, Gauge, Histogram, Instrument, Sampled

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

# The text format's first version, which every Prometheus reads. OpenMetrics is not offered: it
# forbids gauges that end in _total.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

FAMILY = ("ip_family",)
# 1 ms doubling to 16.384 s.
SYNC_BUCKETS = tuple(0.001 * 2**power for power in range(15))
PROGRAMMING_BUCKETS = (
    0.25,
    0.5,
    *(float(seconds) for seconds in range(1, 60)),
    *(float(seconds) for seconds in range(60, 120, 5)),
    *(float(seconds) for seconds in range(120, 301, 30)),
)
REQUEST_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
SIZE_BUCKETS = tuple(float(size) for size in (64, 256, 512, *(4**power for power in range(5, 13))))
# One element costs tens of microseconds in the kernel, a full restate up to seconds.
KERNEL_BUCKETS = tuple(0.0001 * 2**power for power in range(17))
# The code label of a request that got no answer.
NO_ANSWER = "<error>"


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What kubernetes_build_info says; ``go_version`` and ``compiler`` name the interpreter."""

    git_version: str
    git_commit: str = ""
    git_tree_state: str = ""
    build_date: str = ""
    go_version: str = ""
    compiler: str = ""
    platform: str = ""

    def labels(self) -> Mapping[str, str]:
        """Label names and values; major and minor are taken from a ``v1.36.2``-like version."""
        major, _, rest = self.git_version.removeprefix("v").partition(".")
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "major": major, "minor": rest.partition(".")[0]}


class ProxyMetrics:
    """
    All metrics of one proxy process.

    Attributes are instruments: ``metrics.sync_duration.observe(seconds, "IPv4")``; the positional
    strings are the label values in the order of the instrument's ``labels``. Updating takes about
    a microsecond and is safe from any thread. ``packet_counts`` returns the kernel's packet
    counters by name; each scrape calls it, and what it does not have is not shown.
    """

    def __init__(self, build: BuildInfo) -> None:
        self._render_lock = threading.Lock()
        self._registry: CollectorRegistry | None = None
        self.packet_counts: Callable[[], Mapping[str, int]] = dict
        self._define_sync()
        self._define_iptables()
        self._define_nftables()
        self._define_changes()
        self._define_conntrack_and_health()
        self._define_rest_client()
        self._define_own()
        labels = dict(sorted(build.labels().items()))
        self.build_info = Gauge(
            "kubernetes_build_info",
            "[BETA] Always 1; the labels say which build this is and where it runs.",
            tuple(labels),
        )
        self.build_info.set(1, *labels.values())
        self.feature_enabled = Gauge(
            "kubernetes_feature_enabled",
            "[BETA] 1 for an enabled feature gate, 0 for a disabled one, by name and stage.",
            ("name", "stage"),
        )
        self.healthcheck = Gauge(
            "kubernetes_healthcheck",
            "[STABLE] Result of the last health check: 1 passed, 0 failed.",
            ("name", "type"),
        )
        self.healthchecks = Counter(
            "kubernetes_healthchecks_total",
            "[STABLE] Health checks by result.",
            ("name", "type", "status"),
        )

    def _define_sync(self) -> None:
        self.sync_duration = Histogram(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "[ALPHA] Time taken by syncs, failed ones included.",
            SYNC_BUCKETS,
            FAMILY,
        )
        self.full_sync_duration = Histogram(
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "[ALPHA] Time taken by syncs that restate every rule.",
            SYNC_BUCKETS,
            FAMILY,
        )
        self.partial_sync_duration = Histogram(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "[ALPHA] Time taken by syncs that write only what changed.",
            SYNC_BUCKETS,
            FAMILY,
        )
        self.last_sync = Gauge(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "[ALPHA] When the last successful sync ended, in seconds since the epoch.",
            FAMILY,
        )
        self.last_queued = Gauge(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "[ALPHA] When a sync was last asked for, in seconds since the epoch.",
            FAMILY,
        )
        self.network_programming = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "[ALPHA] Time from a change of a Service or Pod in the cluster to its rules here.",
            PROGRAMMING_BUCKETS,
            FAMILY,
        )
        self.no_local_endpoints = Gauge(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "[ALPHA] Service ports under a Local traffic policy with endpoints, but none here.",
            ("traffic_policy", *FAMILY),
        )

    def _define_nftables(self) -> None:
        self.nftables_sync_failures = Counter(
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
            "[ALPHA] Syncs that the kernel refused.",
            FAMILY,
        )
        self.nftables_cleanup_failures = Counter(
            "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
            "[ALPHA] Removals of stale nftables objects that the kernel refused.",
            FAMILY,
        )

    def _define_iptables(self) -> None:
        self.iptables_rules = Gauge(
            "kubeproxy_sync_proxy_rules_iptables_total",
            "[ALPHA] iptables rules that the proxy has in the kernel.",
            ("table", *FAMILY),
        )
        self.iptables_rules_written = Gauge(
            "kubeproxy_sync_proxy_rules_iptables_last",
            "[ALPHA] iptables rules that the last sync wrote.",
            ("table", *FAMILY),
        )
        self.iptables_restore_failures = Counter(
            "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
            "[ALPHA] Syncs of which iptables-restore refused anything.",
            FAMILY,
        )
        self.iptables_partial_restore_failures = Counter(
            "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
            "[ALPHA] The same, of syncs that write only what changed.",
            FAMILY,
        )
        self.invalid_packets = Sampled(
            "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
            "[ALPHA] Packets dropped because connection tracking called them INVALID.",
            lambda: self.packet_counts().get(INVALID_COUNTER),
        )
        self.localhost_packets = Sampled(
            "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
            "[ALPHA] Packets to NodePorts on localhost that were accepted.",
            lambda: self.packet_counts().get(LOCALHOST_COUNTER),
        )

    def _define_changes(self) -> None:
        self.endpoint_changes_pending = Gauge(
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "[ALPHA] Endpoint changes that wait for a sync.",
        )
        self.endpoint_changes = Counter(
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "[ALPHA] Endpoint changes seen.",
        )
        self.service_changes_pending = Gauge(
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "[ALPHA] Service changes that wait for a sync.",
        )
        self.service_changes = Counter(
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "[ALPHA] Service changes seen, once for each IP family.",
        )

    def _define_conntrack_and_health(self) -> None:
        self.conntrack_duration = Histogram(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "[ALPHA] Time taken to find and delete stale connection tracking entries.",
            SYNC_BUCKETS,
            FAMILY,
        )
        self.conntrack_deleted = Counter(
            "kubeproxy_conntrack_reconciler_deleted_entries_total",
            "[ALPHA] Stale connection tracking entries deleted.",
            FAMILY,
        )
        self.healthz = Counter(
            "kubeproxy_proxy_healthz_total", "[ALPHA] Answers of /healthz by status.", ("code",)
        )
        self.livez = Counter(
            "kubeproxy_proxy_livez_total", "[ALPHA] Answers of /livez by status.", ("code",)
        )

    def _define_rest_client(self) -> None:
        self.rest_requests = Counter(
            "rest_client_requests_total",
            "[ALPHA] Requests to the API server by status, method and host.",
            ("code", "method", "host"),
        )
        self.rest_duration = Histogram(
            "rest_client_request_duration_seconds",
            "[ALPHA] Time until the API server's answer, by verb and host.",
            REQUEST_BUCKETS,
            ("verb", "host"),
        )
        self.rest_rate_limiter = Histogram(
            "rest_client_rate_limiter_duration_seconds",
            "[ALPHA] Time a request waited for the client's own rate limit, by verb and host.",
            REQUEST_BUCKETS,
            ("verb", "host"),
        )
        self.rest_request_size = Histogram(
            "rest_client_request_size_bytes",
            "[ALPHA] Size of request bodies, by verb and host.",
            SIZE_BUCKETS,
            ("verb", "host"),
        )
        self.rest_response_size = Histogram(
            "rest_client_response_size_bytes",
            "[ALPHA] Size of answers, by verb and host.",
            SIZE_BUCKETS,
            ("verb", "host"),
        )

    def _define_own(self) -> None:
        self.self_repairs = Counter(
            "kpctl_self_repair_total",
            "Foreign changes to the proxy's own rules that were put right, by what was wrong.",
            ("ip_family", "reason"),
        )
        self.rejected_objects = Gauge(
            "kpctl_rejected_objects",
            "API objects that cannot be used as they are and are left out, by kind.",
            ("resource",),
        )
        self.service_conflicts = Gauge(
            "kpctl_service_conflicts",
            "Service ports that are not served because another Service has the same VIP and port.",
        )
        self.failed_service_ports = Gauge(
            "kpctl_failed_service_ports",
            "Service ports whose rules the kernel refused; they are tried again.",
            FAMILY,
        )
        self.kernel_transactions = Histogram(
            "kpctl_kernel_transaction_duration_seconds",
            "Time the kernel took for one transaction.",
            KERNEL_BUCKETS,
            FAMILY,
        )
        self.change_latency = Histogram(
            "kpctl_change_latency_seconds",
            "Time from the arrival of a synchronisation's oldest event until the kernel had it.",
            KERNEL_BUCKETS,
            FAMILY,
        )
        self.watch_restarts = Counter(
            "kpctl_watch_restarts_total",
            "Watches that ended before their time, by kind.",
            ("resource",),
        )

    def observe_request(self, method: str, host: str, code: int | None, seconds: float) -> None:
        """
        Count one request to the API server.

        Args:
            method: ``GET``, ``POST``, …
            host: ``host:port`` of the API server.
            code: HTTP status; None when no answer came.
            seconds: Time until the answer's headers.
        """
        self.rest_requests.inc(NO_ANSWER if code is None else str(code), method, host)
        self.rest_duration.observe(seconds, method, host)
        self.rest_rate_limiter.observe(0.0, method, host)  # nothing here holds requests back

    def observe_sizes(self, method: str, host: str, sent: int, received: int) -> None:
        """Count the body sizes, in bytes, of one request to the API server and its answer."""
        self.rest_request_size.observe(sent, method, host)
        self.rest_response_size.observe(received, method, host)

    def set_features(self, gates: Iterable[tuple[str, str, bool]]) -> None:
        """Show the feature gates: name, stage (``ALPHA``, ``BETA``, empty for GA), enabled."""
        for name, stage, enabled in gates:
            self.feature_enabled.set(int(enabled), name, stage)

    def observe_ping(self) -> None:
        """Count a probe of the metrics port's own /healthz, which passes by being answered."""
        self.healthcheck.set(1, "ping", "healthz")
        self.healthchecks.inc("ping", "healthz", "success")

    def reset_slis(self) -> None:
        """Forget the probes of the metrics port's /healthz."""
        self.healthcheck.reset()
        self.healthchecks.reset()

    def collect(self) -> Iterator[Metric]:
        """The families that have samples, in the order of their names, for prometheus_client."""
        slis = (self.healthcheck, self.healthchecks)
        yield from _families(one for one in self._instruments() if one not in slis)

    def render(self) -> bytes:
        """Return the exposition of /metrics, of type CONTENT_TYPE."""
        from prometheus_client import generate_latest

        return generate_latest(self._all())

    def render_slis(self) -> bytes:
        """Return the exposition of /metrics/slis, of type CONTENT_TYPE."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Slis(self))
        return generate_latest(registry)

    def _instruments(self) -> list[Instrument]:
        found = [one for one in vars(self).values() if isinstance(one, Instrument)]
        return sorted(found, key=lambda one: one.name)

    def _all(self) -> CollectorRegistry:
        """The private registry; made by the first scrape."""
        from prometheus_client import CollectorRegistry, ProcessCollector

        with self._render_lock:
            if self._registry is None:
                registry = CollectorRegistry(auto_describe=False)
                registry.register(self)
                ProcessCollector(registry=registry)
                self._registry = registry
            return self._registry


@dataclass(frozen=True, slots=True)
class _Slis:
    """Collects what /metrics/slis shows."""

    metrics: ProxyMetrics

    def collect(self) -> Iterator[Metric]:
        from prometheus_client import ProcessCollector

        yield from _families((self.metrics.healthcheck, self.metrics.healthchecks))
        for metric in ProcessCollector(registry=None).collect():
            if metric.name == "process_start_time_seconds":
                yield metric


def _families(instruments: Iterable[Instrument]) -> Iterator[Metric]:
    return (family for one in instruments if (family := one.family()) is not None)
