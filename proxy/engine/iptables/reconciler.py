"""
One family's iptables rules, kept equal to the plans.

A change is one run of iptables-restore that names only the chains it touches. Everything is stated
bottom-up: fixed chains, the chains of service ports, and last the shared chains that lead to them,
each of these in one transaction, so that each service port changes over at one instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Protocol, TypeVar

from proxy.backends.iptables import names
from proxy.backends.iptables.restore import Line, Section, place_of, render
from proxy.backends.iptables.rules import SharedRule
from proxy.backends.iptables.ruleset import Chunk, IptablesRules, Placed, RuleChange, removals
from proxy.backends.iptables.settings import IptablesSettings
from proxy.backends.settings import Settings
from proxy.backends.xtables import FILTER, MANGLE, NAT
from proxy.engine.iptables.jumps import RuleReader, missing_jumps, places
from proxy.engine.reconciler import Reconciler, SyncResult
from proxy.engine.start_order import first_batches
from proxy.kernel.command import CommandError
from proxy.kernel.iptables import RestoreRejected
from proxy.kernel.legacy_entries import TableContent
from proxy.model.services import ServicePortName
from proxy.plan.planner import Changes
from proxy.plan.service_plan import ServicePortPlan

# What an iptables port raises: refusals, unreadable tables; missing, failing or hanging programs.
TROUBLE = (OSError, CommandError)
LARGE_CLUSTER_ENDPOINTS = 1000
_MOST_REFUSALS = 64
_TABLES = (NAT, FILTER, MANGLE)
K = TypeVar("K")
V = TypeVar("V")


class RulesPort(RuleReader, Protocol):
    """An iptables port as the reconciler needs it."""

    def restore(self, text: str, /) -> float:
        """Run ``iptables-restore --noflush``; return seconds. Raises RestoreRejected."""

    def chains(self, table: str, /) -> frozenset[str]:
        """Return the names of a table's chains."""

    def content(self, table: str, /) -> TableContent | None:
        """Return the number of rules of each chain; None when that cannot be had cheaply."""


class IptablesReconciler(Reconciler):
    """
    Applies plans to the tables of one family.

    *chains_at_once* limits one transaction; *endpoint_total* counts all endpoints of the family.
    """

    def __init__(
        self,
        rules: IptablesRules,
        port: RulesPort,
        *,
        chains_at_once: int,
        endpoint_total: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__(monotonic)
        self._chains_at_once = chains_at_once
        self.rules = rules
        self._port = port
        self._endpoint_total = endpoint_total

    @property
    def settings(self) -> IptablesSettings:
        """The settings in force."""
        return self.rules.settings

    @settings.setter
    def settings(self, settings: IptablesSettings) -> None:
        self.rules.settings = settings

    def plan_of(self, name: ServicePortName) -> ServicePortPlan | None:
        """Return the plan the rules stand for."""
        return self.rules.plan_of(name)

    def held(self) -> Sequence[ServicePortName]:
        """Return the service ports that have rules."""
        return self.rules.held()

    def rule_totals(self) -> Mapping[str, int]:
        """Return how many rules our chains hold, by table."""
        return self.rules.rule_totals()

    def is_intact(self) -> bool:
        """Return whether our chains have as many rules as they should, and are jumped to."""
        return self.in_sync and all(map(self._is_intact, _TABLES))

    def _is_intact(self, table: str) -> bool | None:
        """Return whether what is ours is in a table; None where that cannot be told."""
        content = self._port.content(table)
        if content is None:
            return None
        jumps = places(_JUMPS, table)
        return self.rules.agrees(table, content.rules) and content.jumps >= jumps

    @property
    def restates_hourly(self) -> bool:
        """Whether that is cheap; kube-proxy draws the line at the same size."""
        return not self.is_large

    @property
    def is_large(self) -> bool:
        """Whether kube-proxy would leave out the comments of endpoints' rules."""
        return self._endpoint_total() > LARGE_CLUSTER_ENDPOINTS

    # -- changes -----------------------------------------------------------------------------

    def change(self, changes: Mapping[ServicePortName, ServicePortPlan | None]) -> SyncResult:
        """Write changed service ports; needs to be in sync."""
        result = SyncResult()
        self._change(dict(changes), result)
        return result

    def _change(self, left: Changes, result: SyncResult) -> None:
        """Write changed service ports; half by half if nobody says whose line is refused."""
        for _ in range(_MOST_REFUSALS):
            change = self.rules.change(left, endpoint_comments=not self.is_large)
            try:
                self._restore(change.sections, result)
            except RestoreRejected as rejected:
                suspects = self._suspects(change, rejected, result)
                if not suspects:
                    self._lose(rejected, result)
                    return
                if len(suspects) > 1:
                    break
                name = suspects[0]
                self._put_aside({name: left.pop(name)}, rejected.message, result)
            except TROUBLE as error:
                self._lose(error, result)
                return
            else:
                self.rules.commit(change.placed)
                self._forget_failures(left)
                return
        for half in _halves(left):
            if self.in_sync:
                self._change(half, result)

    def _suspects(
        self, change: RuleChange, rejected: RestoreRejected, result: SyncResult
    ) -> Sequence[ServicePortName]:
        """Return whose line may have been refused, all being as before; nobody if it is not."""
        place = place_of(change.sections, rejected.line) if rejected.line else None
        if rejected.transient or place is None or place.line.text.startswith(("-D", "-X")):
            return ()  # our memory of the rules is wrong, or nobody in particular is to blame
        before = change.sections[: place.section]
        if not all(line.text.startswith("-A") for section in before for line in section.lines):
            return ()
        try:
            self._restore(map(_undo, before), result)
        except TROUBLE:
            return ()
        return tuple(change.placed) if place.line.origin is None else (place.line.origin,)

    # -- everything --------------------------------------------------------------------------

    def restate(self, plans: Sequence[ServicePortPlan]) -> SyncResult:
        """State everything anew; what is there serves on until it is replaced."""
        result = SyncResult(full=True)
        self._begin_restatement()
        refused: dict[ServicePortName, str] = {}
        try:
            existing = {table: self._port.chains(table) for table in _TABLES}
            fresh = names.SERVICES not in existing[NAT]
            self.found_something = not fresh
            self._restore(self.rules.skeleton(existing), result)
            first, rest = first_batches(plans) if fresh else ([], iter([plans]))
            if first:
                self._state(first, refused, result)
            self._restore(missing_jumps(self._port, _JUMPS), result)
            ordered = [*first, *(plan for batch in rest for plan in batch)]
            placed = self._state(ordered, refused, result)
        except TROUBLE as error:
            return self.restate_failed(error, result)
        self.rules.replace(placed)
        self._end_restatement(refused)
        wanted = {plan.name: plan for plan in plans}
        for name, why in refused.items():
            self._put_aside({name: wanted[name]}, why, result)
        return result

    def prune(self) -> str:
        """Delete chains of service ports that are not ours; return "" or why that was refused."""
        try:
            stale = self.rules.stale_chains({NAT: self._port.chains(NAT)})
            for section in removals(stale, self._chains_at_once):
                self._port.restore(render([section]))
            # Who compares extents is not told of what others did while we wrote.
            if False in map(self._is_intact, _TABLES):
                self._lose(OSError("the rules were changed while they were restated"), SyncResult())
        except TROUBLE as error:
            return str(error)
        return ""

    def can_resettle(self, settings: Settings) -> bool:
        """Return whether only the addresses that accept NodePorts differ, or ServiceCIDRs."""
        return settings == replace(
            self.settings,
            node_port_addresses=settings.node_port_addresses,
            service_cidrs=settings.service_cidrs,
        )

    def resettle(self, settings: IptablesSettings) -> SyncResult:
        """Write other addresses that accept NodePorts."""
        result = SyncResult()
        sections = self.rules.resettle(settings)
        self.rules.settings = settings
        try:
            self._restore(sections, result)
        except TROUBLE as error:
            self._lose(error, result)
        return result

    # -- inside ------------------------------------------------------------------------------

    def _state(
        self,
        plans: Iterable[ServicePortPlan],
        refused: dict[ServicePortName, str],
        result: SyncResult,
    ) -> dict[ServicePortName, Placed]:
        """Write service ports' own chains and then the shared ones; return what the rules hold."""
        placed: dict[ServicePortName, Placed] = {}
        shared: dict[ServicePortName, tuple[SharedRule, ...]] = {}
        wanted = (plan for plan in plans if plan.name not in refused)
        size = self._chains_at_once
        for chunk in self.rules.chunks(wanted, endpoint_comments=not self.is_large, size=size):
            self._write_chunk(chunk, refused, result)
            placed |= chunk.placed
            shared |= chunk.shared
        for name in refused:
            self._keep(name, placed, shared)
        self._dispatch(placed, shared, refused, result)
        return placed

    def _write_chunk(
        self, chunk: Chunk, refused: dict[ServicePortName, str], result: SyncResult
    ) -> None:
        """Write own chains; half by half if nobody says whose line is refused."""
        for _ in range(_MOST_REFUSALS):
            try:
                self._restore([chunk.section], result)
                return
            except RestoreRejected as rejected:
                culprit = _origin([chunk.section], rejected)
                if culprit is None and len(chunk.placed) == 1:
                    culprit = next(iter(chunk.placed))
                if rejected.transient or not (culprit or rejected.at_commit):
                    raise
                if culprit is None:
                    break
                refused[culprit] = rejected.message
                chunk.leave_out(culprit)
        for half in chunk.halves():
            self._write_chunk(half, refused, result)
        for name in chunk.placed.keys() & refused.keys():
            chunk.leave_out(name)

    def _dispatch(
        self,
        placed: dict[ServicePortName, Placed],
        shared: dict[ServicePortName, tuple[SharedRule, ...]],
        refused: dict[ServicePortName, str],
        result: SyncResult,
    ) -> None:
        """Write the shared chains, without service ports whose rules are refused."""
        for attempt in count():
            sections = self.rules.dispatch(shared, replacing=self.found_something)
            try:
                self._restore(sections, result)
                return
            except RestoreRejected as rejected:
                culprit = _origin(sections, rejected)
                culprits = [culprit] if culprit else []
                if rejected.at_commit or attempt >= _MOST_REFUSALS:
                    culprits = self._tried(shared, result)
                    self._restore(_tables_with(names.CANARY), result)
                if rejected.transient or not culprits:
                    raise
                for name in culprits:
                    refused[name] = rejected.message
                    del placed[name], shared[name]

    def _tried(
        self, shared: Mapping[ServicePortName, tuple[SharedRule, ...]], result: SyncResult
    ) -> list[ServicePortName]:
        """Return whose shared rules are refused, by trying them in chains nothing leads to."""
        rules = [(name, rule) for name, found in shared.items() for rule in found]
        sections = _tables_with(names.CANARY)
        for section in sections:
            for name, (table, _, rule) in rules:
                if table == section.table:
                    section.append(names.CANARY, rule, name)
        try:
            self._restore(sections, result)
        except RestoreRejected as rejected:
            if rejected.transient:
                raise
            if len(shared) == 1:
                return list(shared)
            return [name for half in _halves(shared) for name in self._tried(half, result)]
        return []

    def _keep(
        self,
        name: ServicePortName,
        placed: dict[ServicePortName, Placed],
        shared: dict[ServicePortName, tuple[SharedRule, ...]],
    ) -> None:
        """Let a refused service port go on with the rules it had."""
        before = self.rules.placed(name)
        if before is not None:
            placed[name] = before
            shared[name] = self.rules.shared_rules(name)

    def _restore(self, sections: Iterable[Section], result: SyncResult) -> None:
        filled = [section for section in sections if section]
        if filled:
            result.kernel_s += self._port.restore(render(filled))
            result.requests += sum(len(section.lines) for section in filled)
            for section in filled:
                result.rules[section.table] += section.rule_count


_JUMPS = (*names.JUMPS, *names.KUBELET_JUMPS)


def _origin(sections: Sequence[Section], rejected: RestoreRejected) -> ServicePortName | None:
    place = place_of(sections, rejected.line) if rejected.line else None
    return place.line.origin if place and not rejected.transient else None


def _tables_with(chain: str) -> list[Section]:
    """Return sections that make or empty a chain in the tables of shared chains."""
    sections = [Section(NAT), Section(FILTER)]
    for section in sections:
        section.declare(chain)
    return sections


def _halves(items: Mapping[K, V]) -> Iterator[dict[K, V]]:
    keys = list(items)
    for part in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
        yield {key: items[key] for key in part}


def _undo(section: Section) -> Section:
    """Return the section that takes back rules which were appended."""
    return Section(
        section.table,
        [Line(f"-D{line.text[2:]}", line.origin) for line in section.lines],
    )
