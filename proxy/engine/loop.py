"""
The engine: one thread that takes events from a queue and keeps the kernel equal to them.

Everything that was queued while a synchronisation ran goes into the next one, so a storm of events
becomes fewer and larger transactions, and a single change is written at once. Nothing in here
passes over all Services because of one change.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proxy.config.types import ProxyConfig
from proxy.engine.conntrack_requests import after_changes, after_start
from proxy.engine.data_plane import DataPlane
from proxy.engine.family import Applied, FamilyProxy
from proxy.engine.node_settings import NodeView
from proxy.engine.publisher import Publisher
from proxy.engine.repairs import RepairPacing
from proxy.engine.start_gate import StartGate
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.model.addresses import IPFamily, unpack_address
from proxy.model.events import Removed, Replaced, Resource, SourceEvent, Unreadable, Upserted
from proxy.model.objects import EndpointSlice, Service
from proxy.model.services import ServiceName
from proxy.model.store import ClusterStore, Delta
from proxy.plan.planner import Planner
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

RESTATE_PERIOD_S = 3600.0
_MOST_EVENTS_AT_ONCE = 5000
_SOURCE_EVENTS = (Upserted, Removed, Replaced, Unreadable)


class AddressesChanged:
    """An interface of the node gained or lost an address."""


class Stop:
    """The engine shall return."""


Item = SourceEvent | ForeignEdit | AddressesChanged | Stop


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel as the engine needs it: how to serve, and the node's own packed addresses."""

    plane: DataPlane
    addresses: Callable[[IPFamily], frozenset[bytes]]


class Engine:
    """Keeps one node's tables up to date; ``run`` is its thread, ``submit`` is for all others."""

    def __init__(
        self,
        config: ProxyConfig,
        node_name: str,
        store: ClusterStore,
        kernel: Kernel,
        publisher: Publisher,
        *,
        wait_for_node: bool = True,
        on_starting: Callable[[NodeView], None] = lambda _: None,
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        self.families: dict[IPFamily, FamilyProxy] = {}
        self.last_result: dict[str, dict[str, object]] = {}
        self.lock = threading.RLock()  # held while state changes; debug pages take it to read
        self._config = config
        self._node_name = node_name
        self._store = store
        self._kernel = kernel
        self._publisher = publisher
        self._gate = StartGate(config, node_name, wait_for_node=wait_for_node)
        self._on_starting = on_starting
        self._on_started = on_started
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._started = False
        self._stopping = False
        self._restate_at = float("inf")
        self._oldest = float("inf")  # arrival of the oldest event that is not written yet
        self._repairs = {family: RepairPacing() for family in kernel.plane.families}
        self._view = NodeView(node_name, None, {})

    def submit(self, item: Item) -> None:
        """Queue an event; thread-safe and quick."""
        self._queue.put(item)

    def stop(self) -> None:
        """Make ``run`` return after what it is doing; rules stay in the kernel."""
        self._queue.put(Stop())

    def run(self) -> None:
        """Work until stopped; raises FatalError when the configuration cannot work here."""
        while not self._stopping:
            items = self._next_items()
            with self.lock:
                self._take(items)
                items.clear()  # a listing is large
                if self._stopping:
                    return
                if self._started:
                    self._synchronise()
                    self._do_what_is_due()
                elif self._gate.is_open(self._store):
                    self._start()

    # -- events ------------------------------------------------------------------------------

    def _next_items(self) -> list[Item]:
        items: list[Item] = []
        timeout = self._pause()
        with contextlib.suppress(queue.Empty):
            items.append(self._queue.get(timeout=timeout))
            while len(items) < _MOST_EVENTS_AT_ONCE:
                items.append(self._queue.get_nowait())
        return items

    def _pause(self) -> float:
        times = [self._restate_at]
        if not self._started:
            times.append(self._gate.deadline)
        times.append(self._publisher.repair_log.due())
        for family, proxy in self.families.items():
            times.append(proxy.reconciler.next_due())
            times.append(self._repairs[family].due)
        return min(max(0.0, min(times) - time.monotonic()), 3600.0)

    def _take(self, items: Iterable[Item]) -> None:
        services = slices = 0
        for item in items:
            if isinstance(item, _SOURCE_EVENTS):
                service, endpoint_slice = _counts(item)
                services += service
                slices += endpoint_slice
                if isinstance(item, Upserted) and item.received:
                    self._oldest = min(self._oldest, item.received)
                self._store.apply(item)
            elif isinstance(item, ForeignEdit):
                self._note_edit(item)
            elif isinstance(item, AddressesChanged):
                self._refresh_view()
            else:
                self._stopping = True
        if services or slices:
            # kube-proxy counts Service events once for each family, endpoint events once.
            self._publisher.counted(services * len(self._kernel.plane.families), slices)

    def _note_edit(self, edit: ForeignEdit) -> None:
        proxy = self.families.get(edit.family)
        if proxy is None or self._kernel.plane.is_own(edit):
            return
        repairs = self._repairs[edit.family]
        if repairs.due == float("inf") and self._is_harmless(proxy):
            return
        self._publisher.repairing(edit)
        repairs.needed(time.monotonic())

    def _is_harmless(self, proxy: FamilyProxy) -> bool:
        """Whether a change that was seen in the kernel touched nothing of ours."""
        try:
            return proxy.reconciler.is_intact()
        except OSError as error:
            log.error("Cannot look what was changed", err=error, ipFamily=proxy.name)
            return False

    # -- start -------------------------------------------------------------------------------

    def _start(self) -> None:
        delta = self._store.commit()
        self._view = self._look_around()
        self._on_starting(self._view)
        plane = self._kernel.plane
        self._publisher.starting(plane.mode)
        self._publisher.node(self._view.info)
        self._publisher.queued(family.value for family in plane.families)
        for family in plane.families:
            settings = plane.settings(self._config, self._view, family)
            planner = Planner(self._view.location, self._view.node_address(self._config, family))
            reconciler = plane.reconciler(family, settings, planner)
            proxy = FamilyProxy(family, self._store, planner, reconciler)
            self._first_synchronisation(proxy)
            self.families[family] = proxy
        self._started = True
        self._restate_at = _next_restate()
        self._oldest = float("inf")
        self._publisher.problems(delta, self._store.faulty)
        self._publisher.conflicts(self.families.values())
        self._on_started()

    def _first_synchronisation(self, proxy: FamilyProxy) -> None:
        started = time.perf_counter()
        services = list(self._store.service_names())
        proxy.plan(services)
        plans = list(proxy.planner.all_effective())
        try:
            applied = proxy.restate()
            if proxy.reconciler.found_something:
                self._prune(proxy)
        except OSError as error:
            applied = proxy.give_up(error)
        self._published(proxy, applied, time.perf_counter() - started)
        if applied.result.error and (lacking := self._kernel.plane.explain(proxy.family)):
            log.error("The kernel refuses the rules", err=lacking, ipFamily=proxy.name)
        self._publisher.health_ports(proxy, services)
        settings = proxy.reconciler.settings
        self._publisher.stale_flows(
            after_start(
                proxy.family,
                plans,
                proxy.serving,
                self._node_port_texts(proxy),
                settings.service_cidrs,
            )
        )

    # -- work --------------------------------------------------------------------------------

    def _synchronise(self) -> None:
        delta = self._store.commit()
        if not delta:
            return
        self._publisher.problems(delta, self._store.faulty)
        if delta.node_changed or delta.service_cidrs_changed:
            self._refresh_view()
        touched = delta.touched
        if not touched:
            return
        for proxy in self.families.values():
            self._synchronise_family(proxy, touched, delta)
        self._publisher.settled()
        self._oldest = float("inf")
        self._publisher.conflicts(self.families.values())

    def _synchronise_family(
        self, proxy: FamilyProxy, touched: set[ServiceName], delta: Delta
    ) -> None:
        started = time.perf_counter()
        changes = proxy.plan(touched)
        if changes:
            self._publisher.queued((proxy.name,))
            applied = proxy.write(changes)
            self._published(proxy, applied, time.perf_counter() - started)
            self._clean_flows(proxy, applied)
            if not applied.result.error:
                self._publisher.written(proxy.name, time.monotonic() - self._oldest)
                for times in delta.endpoints.values():
                    self._publisher.programmed(proxy.name, times)
        self._publisher.health_ports(proxy, touched)

    def _clean_flows(self, proxy: FamilyProxy, applied: Applied) -> None:
        names = self._node_port_texts(proxy)
        self._publisher.stale_flows(
            after_changes(proxy.family, applied.before, applied.after, proxy.serving, names)
        )

    def _node_port_texts(self, proxy: FamilyProxy) -> frozenset[str]:
        accepted = proxy.reconciler.settings.node_port_addresses
        if accepted is None:
            accepted = self._view.addresses.get(proxy.family, frozenset())
        return frozenset(map(unpack_address, accepted))

    def _do_what_is_due(self) -> None:
        self._publisher.repair_log.tell()
        now = time.monotonic()
        periodic = now >= self._restate_at
        for family, proxy in self.families.items():
            repairs = self._repairs[family]
            repairing = now >= repairs.due
            hourly = periodic and proxy.reconciler.restates_hourly
            if hourly or repairing or proxy.reconciler.restate_is_due:
                if repairing:
                    repairs.done(now)
                self._restate(proxy, prune=hourly or repairing)
            elif retries := proxy.reconciler.due_retries():
                started = time.perf_counter()
                applied = proxy.write(retries)
                self._published(proxy, applied, time.perf_counter() - started)
                self._clean_flows(proxy, applied)
            elif now >= proxy.reconciler.upkeep_due() and (what := proxy.reconciler.upkeep()):
                self._note_edit(ForeignEdit(family, (what,), (), "verification", ""))
        if periodic:
            self._restate_at = _next_restate()

    def _restate(self, proxy: FamilyProxy, *, prune: bool = False) -> None:
        started = time.perf_counter()
        try:
            applied = proxy.restate()
            if prune:
                self._prune(proxy)
        except OSError as error:
            applied = proxy.give_up(error)
        self._published(proxy, applied, time.perf_counter() - started)
        self._clean_flows(proxy, applied)

    def _prune(self, proxy: FamilyProxy) -> None:
        if proxy.reconciler.in_sync and (why := proxy.reconciler.prune()):
            self._publisher.prune_failed(proxy, why)

    # -- the node ----------------------------------------------------------------------------

    def _look_around(self) -> NodeView:
        addresses = {
            family: self._kernel.addresses(family) for family in self._kernel.plane.families
        }
        return NodeView(self._node_name, self._store.node, addresses, self._store.service_cidrs)

    def _refresh_view(self) -> None:
        if not self._started:
            return
        before = self._view
        try:
            self._view = self._look_around()
        except OSError as error:
            log.error("Cannot read the node's addresses; those known before stay", err=error)
            return
        if before == self._view:
            return
        self._publisher.node(self._view.info)
        for proxy in self.families.values():
            self._settle_in(proxy, before)

    def _settle_in(self, proxy: FamilyProxy, before: NodeView) -> None:
        reconciler = proxy.reconciler
        settings = self._kernel.plane.settings(self._config, self._view, proxy.family)
        if not reconciler.can_resettle(settings):
            log.info("What tells pods' traffic apart has changed", ipFamily=proxy.name)
            reconciler.settings = settings
            self._restate(proxy)
        elif not reconciler.in_sync:
            reconciler.settings = settings  # written by the restatement that is due
        elif result := proxy.resettle(settings):
            self._published(proxy, Applied(result, {}, {}), result.kernel_s)
        address = self._view.node_address(self._config, proxy.family)
        moved = self._view.location != before.location
        if moved or address != before.node_address(self._config, proxy.family):
            log.info("The node's zone or address has changed", zone=self._view.location.zone)
            started = time.perf_counter()
            if changes := proxy.move(self._view.location, address):
                applied = proxy.write(changes)
                self._published(proxy, applied, time.perf_counter() - started)
                self._clean_flows(proxy, applied)

    def _published(self, proxy: FamilyProxy, applied: Applied, duration_s: float) -> None:
        result = applied.result
        self.last_result[proxy.name] = {
            "finished": time.time(),
            "full": result.full,
            "durationSeconds": duration_s,
            "kernelSeconds": result.kernel_s,
            "requests": result.requests,
            "error": result.error,
            "refused": {str(name): why for name, why in result.refused.items()},
        }
        self._publisher.synced(proxy, applied, duration_s)


def _counts(event: SourceEvent) -> tuple[int, int]:
    if isinstance(event, Upserted):
        return int(isinstance(event.obj, Service)), int(isinstance(event.obj, EndpointSlice))
    return int(event.resource is Resource.SERVICE), int(event.resource is Resource.ENDPOINT_SLICE)


def _next_restate() -> float:
    # Spread, so that the nodes of a cluster do not all restate at once.
    return time.monotonic() + RESTATE_PERIOD_S * random.uniform(0.9, 1.1)  # noqa: S311
