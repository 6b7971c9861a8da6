"""
One family's kernel table, kept equal to the plans.

What the kernel refuses is put aside service port by service port: the rest is served, the refused
one keeps what it had, and is tried again with growing pauses. When it is not known what the kernel
holds, everything is stated anew in one transaction.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from proxy.backends.nftables import affinity, layout, requests
from proxy.backends.nftables.table import Batch, Existing, NftablesTable
from proxy.backends.settings import Settings
from proxy.engine.reconciler import Reconciler, SyncResult
from proxy.engine.start_order import BATCH_SIZE, batched, first_batches
from proxy.kernel.netlink import DumpInterrupted, NetlinkError
from proxy.kernel.nftables import NftPort, TransactionRejected
from proxy.model.services import ServicePortName
from proxy.plan.planner import Changes
from proxy.plan.service_plan import ServicePortPlan

# What the kernel answers when the table is not what we remember.
_STRANGE = frozenset({errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.ENOTEMPTY})


class NftReconciler(Reconciler):
    """Applies plans to one table."""

    def __init__(self, table: NftablesTable, port: NftPort, monotonic: Callable[[], float]) -> None:
        super().__init__(monotonic)
        self.table = table
        self._port = port

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.table.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.table.settings = settings

    def plan_of(self, name: ServicePortName) -> ServicePortPlan | None:
        """Return the plan the table holds for a service port."""
        return self.table.plan_of(name)

    def held(self) -> Sequence[ServicePortName]:
        """Return the service ports the table holds."""
        return tuple(self.table.placed)

    # -- writing -----------------------------------------------------------------------------

    def table_exists(self) -> bool:
        """Return whether the kernel has a table of our name, whoever made it."""
        return self._port.table_comment(layout.TABLE) is not None

    def change(self, changes: Mapping[ServicePortName, ServicePortPlan | None]) -> SyncResult:
        """Write changed service ports; needs a table that is in sync."""
        result = SyncResult()
        self._write_changes(dict(changes), result)
        return result

    def restate(self, plans: Sequence[ServicePortPlan]) -> SyncResult:
        """
        State the whole table anew, in the table that is there if that is possible.

        Where there is no table, nothing can be interrupted: what others need is written first, the
        rest in batches, which the kernel takes faster than everything at once.
        """
        if self.table_exists():
            self.found_something = True
            return self._restate(plans)
        first, rest = first_batches(plans)
        result = self._restate(first)
        for batch in rest:
            if self.in_sync:
                result.add(self.change({plan.name: plan for plan in batch}))
        return result

    def _restate(self, plans: Iterable[ServicePortPlan]) -> SyncResult:
        """
        Make one transaction of everything.

        In the table that is there, for only then is there no instant without hooks, also when it
        was kube-proxy's. First only elements that differ are written; when the kernel refuses
        that, all are flushed and written; and a table in which something of another kind has one
        of our names is replaced.
        """
        result = SyncResult(full=True)
        wanted = {plan.name: plan for plan in plans}
        aside: Changes = {}
        ways = [self._put_right, self._fill_anew, self._replace]
        self._begin_restatement()
        for _ in range(_RESTATE_ATTEMPTS):
            batch = ways[0](wanted.values())
            try:
                self._apply(batch, result)
            except TransactionRejected as rejected:
                if len(ways) > 1 and not _blames_only_services(batch, rejected):
                    ways.pop(0)
                    continue
                suspects = _origins(batch, rejected)
                if not suspects:
                    return self.restate_failed(rejected, result)
                # A request carries many elements; its service ports follow one by one.
                aside |= {name: wanted.pop(name) for name in suspects & wanted.keys()}
            except NetlinkError as error:
                if error.errno != errno.EMSGSIZE or len(wanted) <= BATCH_SIZE:
                    return self.restate_failed(error, result)
                # Without rights in the first user namespace the kernel takes a few megabytes at
                # once; what does not fit follows, and its Services are missing that long.
                aside |= {name: wanted.pop(name) for name in list(wanted)[BATCH_SIZE:]}
            else:
                return self._restated(batch, aside, result)
        return self.restate_failed(NetlinkError(errno.EIO, "too many refused requests"), result)

    def _put_right(self, plans: Iterable[ServicePortPlan]) -> Batch:
        existing: Existing = {}
        try:
            if self.table_exists():
                for name in self.table.sets.keys() - {layout.AFFINITY}:
                    existing[name] = dict(self._port.elements(layout.TABLE, name))
        except DumpInterrupted:
            return self._fill_anew(plans)
        return self.table.restate(plans, existing=existing)

    def _fill_anew(self, plans: Iterable[ServicePortPlan]) -> Batch:
        return self.table.restate(plans, existing=None)

    def _replace(self, plans: Iterable[ServicePortPlan]) -> Batch:
        return self.table.restate(plans, replace=True)

    def _restated(self, batch: Batch, aside: Changes, result: SyncResult) -> SyncResult:
        self._end_restatement(aside)
        for names in batched(aside):
            self._write_changes({name: aside[name] for name in names}, result)
        self._purge(batch, result)
        return result

    def can_resettle(self, settings: Settings) -> bool:
        """Return whether only node addresses or ServiceCIDRs differ."""
        before = self.table.settings
        easy = replace(
            before,
            node_port_addresses=settings.node_port_addresses,
            service_cidrs=settings.service_cidrs,
        )
        same_kind = (settings.node_port_addresses is None) == (before.node_port_addresses is None)
        return settings == easy and same_kind

    def resettle(self, settings: Settings) -> SyncResult:
        """Write changed node addresses or ServiceCIDRs."""
        result = SyncResult()
        batch = self.table.resettle(settings)
        try:
            self._apply(batch, result)
        except NetlinkError as error:
            self.table.settings = settings
            self._lose(error, result)
        return result

    def prune(self) -> str:
        """Delete chains and sets that nothing of ours uses; return "" or why that was refused."""
        in_use = self.table.chains_in_use()
        try:
            chains = sorted(self._port.chains(layout.TABLE) - in_use)
            sets = sorted(self._port.sets(layout.TABLE) - self.table.sets.keys())
            flushes = [requests.flush_rules(name) for name in chains]
            removals = [requests.delete_set(name) for name in sets]
            removals += [requests.delete_chain(name) for name in chains]
            if removals:
                self._port.apply([*flushes, *removals])
        except NetlinkError as error:
            # A kernel before 6.2 may still count references of deleted elements. What stays is
            # of no effect, and the next restatement tries again.
            return str(error)
        self.table.forget_chains(chains)
        return ""

    # -- inside ------------------------------------------------------------------------------

    def _write_changes(self, changes: Changes, result: SyncResult) -> None:
        if not changes:
            return
        batch = self.table.change(changes)
        try:
            self._apply(batch, result)
        except TransactionRejected as rejected:
            self._blame(changes, batch, rejected, result)
            return
        except NetlinkError as error:
            self._lose(error, result)
            return
        self._forget_failures(changes)
        self._purge(batch, result)

    def _blame(
        self,
        changes: Changes,
        batch: Batch,
        rejected: TransactionRejected,
        result: SyncResult,
    ) -> None:
        suspects = _origins(batch, rejected)
        # Right after a restatement our memory of the table is no excuse.
        if (rejected.errno in _STRANGE and not result.full) or not suspects:
            # Either our memory of the table is wrong, or nobody in particular is to blame.
            self._lose(rejected, result)
            return
        innocent = {name: plan for name, plan in changes.items() if name not in suspects}
        guilty = {name: plan for name, plan in changes.items() if name in suspects}
        if len(guilty) == 1:
            self._put_aside(guilty, str(rejected), result)
        else:
            for name, plan in guilty.items():
                self._write_changes({name: plan}, result)
        self._write_changes(innocent, result)

    def _apply(self, batch: Batch, result: SyncResult) -> None:
        if batch:
            result.kernel_s += self._port.apply(batch.requests)
            result.requests += len(batch.requests)
        # INVARIANT: the table's memory changes only after the kernel accepted the batch.
        self.table.commit(batch)

    def _purge(self, batch: Batch, result: SyncResult) -> None:
        """Forget clients whose endpoint left; those of other endpoints stay remembered."""
        if not batch.forgets_clients:
            return
        try:
            remembered = self._port.elements(layout.TABLE, layout.AFFINITY)
            for request in affinity.stale_entries(self.table, remembered):
                self._delete_entry(request, result)
        except NetlinkError as error:
            self._lose(error, result)
            result.error = f"cannot purge remembered clients: {error}"

    def _delete_entry(self, request: requests.Request, result: SyncResult) -> None:
        try:
            result.kernel_s += self._port.apply([request])
        except TransactionRejected as rejected:
            if rejected.errno != errno.ENOENT:  # it expired in between
                raise


_RESTATE_ATTEMPTS = 8


def _blames_only_services(batch: Batch, rejected: TransactionRejected) -> bool:
    """Return whether each refused request was caused by service ports."""
    return all(batch.requests[refusal.index].origins for refusal in rejected.refusals)


def _origins(batch: Batch, rejected: TransactionRejected) -> set[ServicePortName]:
    found: set[ServicePortName] = set()
    for refusal in rejected.refusals:
        found.update(batch.requests[refusal.index].origins)
    return found
