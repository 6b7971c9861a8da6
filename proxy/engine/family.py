"""One IP family from the store to the kernel: plans, kernel, and the counts that metrics show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from proxy.backends.settings import Settings
from proxy.conntrack.stale import Place
from proxy.engine.reconciler import Reconciler, SyncResult
from proxy.model.addresses import IPFamily
from proxy.model.services import ServiceName, ServicePortName
from proxy.model.store import ClusterStore
from proxy.plan.planner import Changes, Planner
from proxy.plan.topology import Location


@dataclass(frozen=True, slots=True)
class Applied:
    """A synchronisation's result together with the plans before and after it."""

    result: SyncResult
    before: Changes
    after: Changes


class FamilyProxy:
    """Plans and reconciler of one family; used by the engine's thread only."""

    def __init__(
        self, family: IPFamily, store: ClusterStore, planner: Planner, reconciler: Reconciler
    ) -> None:
        self.family = family
        self.planner = planner
        self.reconciler = reconciler
        self.missing_local: Counter[str] = Counter()
        self._store = store

    @property
    def name(self) -> str:
        """The family as metrics and health pages call it."""
        return self.family.value

    def plan(self, services: Iterable[ServiceName]) -> Changes:
        """Plan Services anew; return the service ports whose plan in force changed."""
        changes: Changes = {}
        for service in services:
            ports = self._store.ports(service, self.family)
            endpoints = self._store.endpoints(service, self.family) if ports else {}
            changes |= self.planner.update(service, ports, endpoints)
        return changes

    def write(self, changes: Changes) -> Applied:
        """Write changed plans, or everything when the kernel is not known to be in sync."""
        if not self.reconciler.in_sync:
            return self.restate()
        before = self._held(changes)
        return self._applied(self.reconciler.change(changes), before)

    def restate(self) -> Applied:
        """State everything anew; see Reconciler.restate."""
        before = self._held(self.reconciler.held())
        plans = list(self.planner.all_effective())
        return self._applied(self.reconciler.restate(plans), before)

    def give_up(self, error: OSError) -> Applied:
        """Note that the kernel could not even be asked what it holds; a retry states everything."""
        failed = self.reconciler.restate_failed(error, SyncResult(full=True))
        return Applied(failed, {}, {})

    def move(self, location: Location, node_address: bytes | None) -> Changes:
        """Plan everything anew for another location or node address."""
        self.planner.location = location
        self.planner.node_address = node_address
        return self.plan(list(self._store.service_names()))

    def resettle(self, settings: Settings) -> SyncResult | None:
        """Write changed settings; None when they are as before."""
        if settings == self.reconciler.settings:
            return None
        return self.reconciler.resettle(settings)

    def serving(self, name: ServicePortName) -> frozenset[Place]:
        """Return the serving endpoints of a service port, on any node."""
        endpoints = self._store.endpoints(name.service, self.family)
        found = endpoints.get((name.port, name.protocol), ())
        return frozenset(endpoint.target for endpoint in found if endpoint.serving)

    def local_ready_addresses(self, service: ServiceName) -> int:
        """Return how many distinct addresses of a Service are ready on this node."""
        merged = self._store.endpoints(service, self.family)
        return len(
            {e.address for found in merged.values() for e in found if e.is_local and e.ready}
        )

    def health_check_port(self, service: ServiceName) -> int:
        """Return a Service's healthCheckNodePort, or 0."""
        ports = self._store.ports(service, self.family)
        return ports[0].traits.health_check_node_port if ports else 0

    def _held(self, names: Iterable[ServicePortName]) -> Changes:
        return {name: self.reconciler.plan_of(name) for name in names}

    def _applied(self, result: SyncResult, before: Changes) -> Applied:
        after = self._held(before if not result.full else self._all_names(before))
        for plan in before.values():
            self.missing_local.subtract(plan.missing_local if plan else ())
        for plan in after.values():
            self.missing_local.update(plan.missing_local if plan else ())
        return Applied(result, before, after)

    def _all_names(self, before: Changes) -> set[ServicePortName]:
        return {*before, *self.reconciler.held()}
