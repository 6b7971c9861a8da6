"""
What others see of the engine's work: metrics, health, logs, Events, health check ports, and the
request to clean up stale flows. Nothing here decides anything about packets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from proxy.config.types import IPTABLES, IPVS, NFTABLES
from proxy.conntrack.stale import CleanupRequest
from proxy.engine.family import Applied, FamilyProxy
from proxy.engine.reconciler import SyncResult
from proxy.engine.repair_log import RepairLog
from proxy.kernel.conntrack import CleanupResult
from proxy.kernel.conntrack_worker import ConntrackWorker
from proxy.kernel.nfacct import read_counters
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.model.addresses import IPFamily
from proxy.model.events import Resource
from proxy.model.node import NodeInfo
from proxy.model.services import ServiceName
from proxy.model.store import Delta
from proxy.plan.planner import Conflict
from proxy.runtime.events import Event, EventRecorder, Regarding
from proxy.runtime.health import ProxyHealth
from proxy.runtime.logs import get_logger
from proxy.runtime.metrics import ProxyMetrics
from proxy.runtime.service_health import ServiceHealth

log = get_logger(__name__)

_SYNCED = {
    NFTABLES: "Synced nftables rules",
    IPTABLES: "Synced iptables rules",
    IPVS: "Synced virtual servers, ipsets and iptables rules",
}


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where the publisher writes; ``conntrack`` is None when flows cannot be cleaned up here."""

    metrics: ProxyMetrics
    health: ProxyHealth
    service_health: dict[IPFamily, ServiceHealth]
    events: EventRecorder
    conntrack: ConntrackWorker | None


class Publisher:
    """Publishes what the engine did; called from the engine's thread."""

    def __init__(self, outlets: Outlets) -> None:
        self._out = outlets
        self._started = time.time()
        self._health_ports: dict[IPFamily, set[ServiceName]] = {}
        self._conflicts: set[Conflict] = set()
        self._mode = NFTABLES
        self.repair_log = RepairLog(self._mode, time.monotonic)

    def starting(self, mode: str) -> None:
        """Learn the mode, ``iptables``, ``ipvs`` or ``nftables``; only its metrics are shown."""
        self._mode = mode
        self.repair_log = RepairLog(mode, time.monotonic)
        if mode == IPTABLES:
            self._out.metrics.packet_counts = read_counters

    def counted(self, services: int, slices: int) -> None:
        """Count events that came from the source and wait for the next synchronisation."""
        metrics = self._out.metrics
        if services:
            metrics.service_changes.inc(by=services)
            metrics.service_changes_pending.set(services)
        if slices:
            metrics.endpoint_changes.inc(by=slices)
            metrics.endpoint_changes_pending.set(slices)

    def settled(self) -> None:
        """Note that no change waits any more."""
        self._out.metrics.service_changes_pending.set(0)
        self._out.metrics.endpoint_changes_pending.set(0)

    def prune_failed(self, proxy: FamilyProxy, why: str) -> None:
        """Tell that chains or sets which nothing uses could not be deleted."""
        if self._mode == NFTABLES:
            self._out.metrics.nftables_cleanup_failures.inc(proxy.name)
        log.error("Unable to delete unused chains; will retry later", err=why, ipFamily=proxy.name)

    def queued(self, families: Iterable[str]) -> None:
        """Note that a synchronisation was asked for."""
        now = time.time()
        for family in families:
            self._out.health.queued(family)
            self._out.metrics.last_queued.set(now, family)

    def synced(self, proxy: FamilyProxy, applied: Applied, duration_s: float) -> None:
        """Publish one synchronisation of one family."""
        metrics, family, result = self._out.metrics, proxy.name, applied.result
        metrics.sync_duration.observe(duration_s, family)
        if self._mode != IPVS:  # kube-proxy's has no full and partial synchronisations
            by_kind = metrics.full_sync_duration if result.full else metrics.partial_sync_duration
            by_kind.observe(duration_s, family)
        for table, total in proxy.reconciler.rule_totals().items():
            metrics.iptables_rules.set(total, table, family)
            metrics.iptables_rules_written.set(result.rules[table], table, family)
        if result.requests:
            metrics.kernel_transactions.observe(result.kernel_s, family)
        metrics.failed_service_ports.set(len(proxy.reconciler.failures), family)
        for policy in ("internal", "external"):
            metrics.no_local_endpoints.set(proxy.missing_local[policy], policy, family)
        self._refused(family, applied)
        self._count_failure(family, result)
        if result.error:
            log.error(
                "Sync failed; what the kernel holds stays in force and everything will be "
                "written anew",
                err=result.error,
                ipFamily=family,
            )
            return
        metrics.last_sync.set(time.time(), family)
        self._out.health.updated(family)
        log.v(2).info(
            _SYNCED[self._mode],
            ipFamily=family,
            fullSync=result.full,
            servicePorts=len(proxy.reconciler.held()),
            requests=result.requests,
            kernel=f"{result.kernel_s * 1000:.3f}ms",
            elapsed=f"{duration_s * 1000:.3f}ms",
        )

    def _count_failure(self, family: str, result: SyncResult) -> None:
        metrics = self._out.metrics
        if self._mode == NFTABLES:
            if result.error:
                metrics.nftables_sync_failures.inc(family)
            return
        refused = self._mode == IPTABLES and result.refused
        if result.error or refused:
            metrics.iptables_restore_failures.inc(family)
            if self._mode == IPTABLES and not result.full:
                metrics.iptables_partial_restore_failures.inc(family)

    def _refused(self, family: str, applied: Applied) -> None:
        for name, reason in applied.result.refused.items():
            log.error(
                "The kernel refused a service port; it keeps its previous rules and is tried again",
                err=reason,
                servicePort=str(name),
                ipFamily=family,
            )
            regarding = Regarding("Service", name.name, name.namespace)
            note = f"{family} rules of port {name} were refused by the kernel: {reason}"
            self._out.events.record(
                Event(regarding, "Warning", "FailedToProgramService", "Sync", note)
            )

    def written(self, family: str, latency_s: float) -> None:
        """Measure how long the oldest event waited; minus infinity when no event told its time."""
        if latency_s >= 0:
            self._out.metrics.change_latency.observe(latency_s, family)

    def programmed(self, family: str, trigger_times: Iterable[str]) -> None:
        """
        Measure how long changes took from their cause to the kernel.

        An object may carry the time of a change made long before this process could see it.
        """
        now = time.time()
        for text in trigger_times:
            try:
                caused = datetime.fromisoformat(text).timestamp()
            except ValueError:
                continue
            if caused >= self._started:
                self._out.metrics.network_programming.observe(max(0.0, now - caused), family)

    def node(self, info: NodeInfo | None) -> None:
        """Tell health checks whether load balancers should send traffic here."""
        if info is None:
            self._out.health.forget_node()
        else:
            self._out.health.set_node(deleting=not info.eligible, taint_keys=())

    def problems(self, delta: Delta, faulty: Mapping[Resource, int]) -> None:
        """Log what is newly wrong with objects, and count the faulty ones."""
        for problem in delta.problems:
            log.warning(
                "Part of an object cannot be used and is left out",
                kind=problem.resource.value,
                object=f"{problem.namespace}/{problem.name}".lstrip("/"),
                problem=problem.text,
            )
        for resource, count in faulty.items():
            self._out.metrics.rejected_objects.set(count, resource.value)

    def conflicts(self, proxies: Iterable[FamilyProxy]) -> None:
        """Log and count frontends that two Services claim."""
        current = {c for proxy in proxies for c in proxy.planner.conflicts()}
        for conflict in sorted(current - self._conflicts):
            log.warning(
                "Two Services claim the same address and port; the older one keeps it",
                frontend=conflict.frontend,
                serves=str(conflict.winner),
                waits=str(conflict.loser),
            )
        self._conflicts = current
        self._out.metrics.service_conflicts.set(len(current))

    def health_ports(self, proxy: FamilyProxy, services: Iterable[ServiceName]) -> None:
        """Open, close and update the health check ports of Services that changed."""
        server = self._out.service_health.get(proxy.family)
        if server is None:
            return
        known = self._health_ports.setdefault(proxy.family, set())
        for service in services:
            port = proxy.health_check_port(service)
            if port:
                known.add(service)
                server.set_service((service.namespace, service.name), port)
                count = proxy.local_ready_addresses(service)
                server.set_endpoints((service.namespace, service.name), count)
            elif service in known:
                known.discard(service)
                server.set_service((service.namespace, service.name), None)
        server.retry_failed()

    def stale_flows(self, request: CleanupRequest) -> None:
        """Have flows deleted that go where a Service no longer points."""
        if self._out.conntrack is not None:
            self._out.conntrack.submit(request)

    def repairing(self, edit: ForeignEdit) -> None:
        """Tell that somebody else changed what is ours and that it is put right."""
        self._out.metrics.self_repairs.inc(edit.family.value, edit.reason)
        self.repair_log.note(edit)


def conntrack_reporter(metrics: ProxyMetrics) -> _ConntrackReporter:
    """Return the function that publishes what a clean-up of flows did."""
    return _ConntrackReporter(metrics)


class _ConntrackReporter:
    def __init__(self, metrics: ProxyMetrics) -> None:
        self._metrics = metrics

    def __call__(self, result: CleanupResult) -> None:
        family = result.family.value
        self._metrics.conntrack_duration.observe(result.duration_s, family)
        if result.deleted_total:
            self._metrics.conntrack_deleted.inc(family, by=result.deleted_total)
            reasons = ", ".join(f"{r.value}: {n}" for r, n in result.deleted.items() if n)
            log.v(2).info(
                "Deleted stale connection tracking entries",
                ipFamily=family,
                entriesDeleted=result.deleted_total,
                why=reasons,
            )
        if result.error:
            log.error("Cannot clean up stale UDP flows", err=result.error, ipFamily=family)
