"""
One family's rules: what the kernel holds, and the iptables-restore input that leads to a new state.

INVARIANT: what ``IptablesRules`` remembers changes only in ``commit``, after the kernel took the
sections. A change of one service port names only the chains it touches.

Sections for a change come in this order, so that at no instant a packet finds half a service port:

    filter   refusals that become necessary; without effect while nat still translates
    nat      everything that translates, in one transaction
    filter   refusals that are not needed any more
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from proxy.backends.iptables import names
from proxy.backends.iptables.fixed import fixed_chains, node_port_dispatch
from proxy.backends.iptables.restore import Section
from proxy.backends.iptables.rules import NOTHING, PortRules, SharedRule, port_rules
from proxy.backends.iptables.settings import IptablesSettings
from proxy.backends.iptables.tally import Tally, Totals, chain_sum, tally
from proxy.backends.xtables import FILTER, MANGLE, NAT
from proxy.model.services import ServicePortName
from proxy.plan.service_plan import ServicePortPlan

Chains = Mapping[str, frozenset[str]]  # chains that exist, by table


class Placed(NamedTuple):
    """A plan the kernel holds, whether its endpoints' rules carry comments, and their number."""

    plan: ServicePortPlan
    endpoint_comments: bool
    tally: Tally


@dataclass(slots=True)
class RuleChange:
    """Sections to restore, and service ports as they will be then; None for those that go."""

    sections: list[Section] = field(default_factory=list)
    placed: dict[ServicePortName, Placed | None] = field(default_factory=dict)


@dataclass(slots=True)
class Chunk:
    """
    Some service ports: a section with their own chains, and their rules in shared chains.

    A service port is never divided between two chunks.
    """

    section: Section = field(default_factory=lambda: Section(NAT))
    placed: dict[ServicePortName, Placed] = field(default_factory=dict)
    shared: dict[ServicePortName, tuple[SharedRule, ...]] = field(default_factory=dict)

    def add(self, placed: Placed, rules: PortRules) -> None:
        """Take in one service port."""
        name = placed.plan.name
        self.placed[name] = placed
        self.shared[name] = rules.shared
        for chain in rules.chains:
            self.section.declare(chain, name)
        for chain, texts in rules.chains.items():
            for text in texts:
                self.section.append(chain, text, name)

    def leave_out(self, name: ServicePortName) -> None:
        """Take a service port out again."""
        del self.placed[name], self.shared[name]
        self.section.lines = [line for line in self.section.lines if line.origin != name]

    def halves(self) -> Iterator[Chunk]:
        """Yield two chunks with half of the service ports each."""
        names = list(self.placed)
        for part in (names[: len(names) // 2], names[len(names) // 2 :]):
            chosen = set(part)
            lines = [line for line in self.section.lines if line.origin in chosen]
            yield Chunk(
                Section(self.section.table, lines),
                {name: self.placed[name] for name in part},
                {name: self.shared[name] for name in part},
            )


class IptablesRules:
    """The remembered rules of one family."""

    def __init__(self, settings: IptablesSettings) -> None:
        self.settings = settings
        self._placed: dict[ServicePortName, Placed] = {}
        self._totals = Totals()

    def plan_of(self, name: ServicePortName) -> ServicePortPlan | None:
        """Return the plan the kernel holds for a service port."""
        placed = self._placed.get(name)
        return placed.plan if placed else None

    def held(self) -> Sequence[ServicePortName]:
        """Return the service ports the kernel holds."""
        return tuple(self._placed)

    def replace(self, placed: Mapping[ServicePortName, Placed]) -> None:
        """Remember that the kernel holds this and nothing else."""
        self._placed = dict(placed)
        self._totals = Totals(item.tally for item in placed.values())

    def placed(self, name: ServicePortName) -> Placed | None:
        """Return what the kernel holds of a service port."""
        return self._placed.get(name)

    def commit(self, placed: Mapping[ServicePortName, Placed | None]) -> None:
        """Remember what the kernel took."""
        for name, item in placed.items():
            if before := self._placed.get(name):
                self._totals.subtract(before.tally)
            if item is None:
                self._placed.pop(name, None)
            else:
                self._placed[name] = item
                self._totals.add(item.tally)

    # -- counts ------------------------------------------------------------------------------

    def rule_totals(self) -> dict[str, int]:
        """Return how many rules our chains hold, by table; jumps into them are not counted."""
        own = {NAT: self._totals.own, FILTER: 0}
        return {table: own[table] + sum(self._counts(table).values()) for table in own}

    def agrees(self, table: str, counts: Mapping[str, int]) -> bool:
        """Return whether the chains of a table, with their numbers of rules, can be ours."""
        wanted = self._counts(table)
        firewall = wanted.pop(names.KUBELET_FIREWALL, 0)
        if table == FILTER and counts.get(names.KUBELET_FIREWALL, -1) < firewall:
            return False  # the kubelet may have put more there
        if any(counts.get(chain) != count for chain, count in wanted.items()):
            return False
        own = {chain: count for chain, count in counts.items() if names.is_service_chain(chain)}
        return names.CANARY in counts and (table != NAT or chain_sum(own) == self._totals.chains)

    def _counts(self, table: str) -> dict[str, int]:
        """Return how many rules the chains of a table that are not one service port's hold."""
        counts = self._totals.shared(table)
        for (where, chain), rules in fixed_chains(self.settings).items():
            if where == table:
                counts[chain] = len(rules)
        if table == NAT:
            counts[names.SERVICES] += len(node_port_dispatch(self.settings))
        return counts

    # -- changes -----------------------------------------------------------------------------

    def change(
        self,
        changes: Mapping[ServicePortName, ServicePortPlan | None],
        *,
        endpoint_comments: bool,
    ) -> RuleChange:
        """Return the sections for changed service ports (None: gone)."""
        change = RuleChange()
        refused, nat, released = _FilterAdditions(), _NatChange(), Section(FILTER)
        for name, plan in changes.items():
            before = self._placed.get(name)
            after, new = None, NOTHING
            if plan is not None:
                after, new = self._place(plan, endpoint_comments)
            change.placed[name] = after
            old = self._rules(before)
            nat.add(name, old, new)
            for chain, was, becomes in _by_chain(FILTER, old, new):
                refused.add(name, chain, becomes)
                for rule in was:
                    released.delete(chain, rule, name)
        change.sections = [s for s in (refused.section, nat.section(), released) if s]
        return change

    def resettle(self, settings: IptablesSettings) -> list[Section]:
        """Return the sections for other addresses that accept NodePorts."""
        section = Section(NAT)
        old, new = node_port_dispatch(self.settings), node_port_dispatch(settings)
        for rule in new:
            if rule not in old:
                section.append(names.SERVICES, rule)
        for rule in old:
            if rule not in new:
                section.delete(names.SERVICES, rule)
        return [section] if section else []

    # -- everything --------------------------------------------------------------------------

    def skeleton(self, existing: Chains) -> list[Section]:
        """Return the sections that make what every service port needs; nothing is emptied."""
        sections = []
        content = fixed_chains(self.settings)
        wanted = {
            MANGLE: (names.CANARY,),
            NAT: (*names.NAT_CHAINS, names.CANARY),
            FILTER: (*names.FILTER_CHAINS, names.KUBELET_FIREWALL, names.CANARY),
        }
        for table, chains in wanted.items():
            section = Section(table)
            for chain in chains:
                rules = content.get((table, chain))
                if rules is not None or chain not in existing.get(table, ()):
                    section.declare(chain)
                for rule in rules or ():
                    section.append(chain, rule)
            if section:
                sections.append(section)
        return sections

    def chunks(
        self, plans: Iterable[ServicePortPlan], *, endpoint_comments: bool, size: int
    ) -> Iterator[Chunk]:
        """Yield the own chains of service ports, *size* chains (or a few more) at a time."""
        chunk, count = Chunk(), 0
        for plan in plans:
            placed, rules = self._place(plan, endpoint_comments)
            chunk.add(placed, rules)
            count += len(rules.chains)
            if count >= size:
                yield chunk
                chunk, count = Chunk(), 0
        if chunk.placed:
            yield chunk

    def shared_rules(self, name: ServicePortName) -> tuple[SharedRule, ...]:
        """Return the rules of a service port in shared chains, as the kernel holds them."""
        return self._rules(self._placed.get(name)).shared

    def dispatch(
        self, shared: Mapping[ServicePortName, Iterable[SharedRule]], *, replacing: bool = True
    ) -> list[Section]:
        """
        Return the sections that replace all shared chains, in the order of a change's.

        Which refusals are there already is not known, so all are added first if *replacing* what
        somebody may still be served by.
        """
        added, nat, refusals = Section(FILTER), Section(NAT), Section(FILTER)
        for chain in (names.SERVICES, names.NODEPORTS):
            nat.declare(chain)
        for chain in _DISPATCH_FILTER:
            refusals.declare(chain)
        for name, rules in shared.items():
            for table, chain, rule in rules:
                if replacing and table == FILTER:
                    added.append(chain, rule, name)
                (nat if table == NAT else refusals).append(chain, rule, name)
        for rule in node_port_dispatch(self.settings):
            nat.append(names.SERVICES, rule)
        return [section for section in (added, nat, refusals) if section]

    def stale_chains(self, existing: Chains) -> list[str]:
        """Return chains of service ports in the nat table that are not ours; O(all of them)."""
        ours = {chain for item in self._placed.values() for chain in self._rules(item).chains}
        found = existing.get(NAT, frozenset())
        return sorted(c for c in found if names.is_service_chain(c) and c not in ours)

    def _place(self, plan: ServicePortPlan, endpoint_comments: bool) -> tuple[Placed, PortRules]:
        rules = port_rules(plan, self.settings, endpoint_comments=endpoint_comments)
        return Placed(plan, endpoint_comments, tally(rules)), rules

    def _rules(self, placed: Placed | None) -> PortRules:
        if placed is None:
            return NOTHING
        return port_rules(placed.plan, self.settings, endpoint_comments=placed.endpoint_comments)


_DISPATCH_FILTER = (
    names.SERVICES,
    names.EXTERNAL_SERVICES,
    names.NODEPORTS,
    names.PROXY_FIREWALL,
)


def removals(chains: Sequence[str], size: int) -> Iterator[Section]:
    """Yield sections that empty and delete chains which nothing else leads to, *size* at a time."""
    parts = [chains[first : first + size] for first in range(0, len(chains), size)]
    # All are emptied before the first is deleted, because they lead to each other.
    for act in (Section.declare, Section.remove):
        for part in parts:
            section = Section(NAT)
            for chain in part:
                act(section, chain)
            yield section


def _by_chain(
    table: str, old: PortRules, new: PortRules
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the shared chains of a table in which a service port's rules differ, old and new."""
    was, becomes = _grouped(table, old.shared), _grouped(table, new.shared)
    for chain in {**was, **becomes}:
        before, after = was.get(chain, []), becomes.get(chain, [])
        if before != after:
            yield chain, before, after


def _grouped(table: str, shared: Sequence[SharedRule]) -> dict[str, list[str]]:
    ordered = sorted((rule for rule in shared if rule.table == table), key=lambda r: r.chain)
    return {chain: [r.rule for r in found] for chain, found in groupby(ordered, lambda r: r.chain)}


class _FilterAdditions:
    def __init__(self) -> None:
        self.section = Section(FILTER)

    def add(self, name: ServicePortName, chain: str, rules: Iterable[str]) -> None:
        for rule in rules:
            self.section.append(chain, rule, name)


class _NatChange:
    """Collects one transaction of the nat table, line kinds in the order the table needs."""

    def __init__(self) -> None:
        self._declared = Section(NAT)
        self._deleted = Section(NAT)
        self._filled = Section(NAT)
        self._removed = Section(NAT)

    def add(self, name: ServicePortName, old: PortRules, new: PortRules) -> None:
        for chain, rules in new.chains.items():
            if old.chains.get(chain) != rules:
                self._declared.declare(chain, name)
                for rule in rules:
                    self._filled.append(chain, rule, name)
        for chain, was, becomes in _by_chain(NAT, old, new):
            self._dispatch(name, chain, was, becomes)
        for chain in old.chains.keys() - new.chains.keys():
            self._declared.declare(chain, name)
            self._removed.remove(chain, name)

    def _dispatch(
        self, name: ServicePortName, chain: str, was: list[str], becomes: list[str]
    ) -> None:
        for rule in was:
            self._deleted.delete(chain, rule, name)
        if chain == names.SERVICES:
            # The rules for NodePorts stay last.
            for rule in reversed(becomes):
                self._filled.insert(chain, rule, name)
        else:
            for rule in becomes:
                self._filled.append(chain, rule, name)

    def section(self) -> Section:
        parts = (self._declared, self._deleted, self._filled, self._removed)
        return Section(NAT, [line for part in parts for line in part.lines])
