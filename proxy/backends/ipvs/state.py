"""
One family's virtual servers, ipsets and addresses: what the kernel holds, and what leads from there
to a new state.

INVARIANT: what ``IpvsState`` remembers changes only in ``commit``. A change is as large as the
service ports it concerns; entries and addresses that several of them need are counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.backends.iptables.fixed import ChainKey
from proxy.backends.ipvs.names import IPVS_IPS, SetKind
from proxy.backends.ipvs.port_state import NOTHING, Entry, PortState, port_state
from proxy.backends.ipvs.rules import chains
from proxy.backends.ipvs.settings import IpvsSettings
from proxy.model.services import ServicePortName
from proxy.netfilter.ipset import SetEntry
from proxy.netfilter.ipvs import Action, Operation, RealKey, ServerKey, VirtualServer
from proxy.plan.service_plan import ServicePortPlan


class Step(NamedTuple):
    """An operation and the service port that asks for it."""

    operation: Operation
    origin: ServicePortName | None


@dataclass(slots=True)
class IpvsChange:
    """
    What to do, in the order of the attributes, and what to remember then.

    Attributes:
        entries_added: by set, before anything looks for them.
        raised: new or different virtual servers, each followed by its new real servers.
        bound: addresses that kube-ipvs0 gets; only now do packets reach a new virtual server.
        withdrawn: real servers that get no new connections any more.
        unbound: addresses that kube-ipvs0 loses.
        removed: virtual servers to delete.
        entries_removed: by set, when nothing looks for them any more.
    """

    entries_added: dict[SetKind, list[SetEntry]] = field(default_factory=lambda: defaultdict(list))
    raised: list[Step] = field(default_factory=list)
    bound: list[bytes] = field(default_factory=list)
    withdrawn: list[Step] = field(default_factory=list)
    unbound: list[bytes] = field(default_factory=list)
    removed: list[VirtualServer] = field(default_factory=list)
    entries_removed: dict[SetKind, list[SetEntry]] = field(
        default_factory=lambda: defaultdict(list)
    )
    plans: dict[ServicePortName, ServicePortPlan | None] = field(default_factory=dict)
    counts: dict[Entry, int] = field(default_factory=dict)
    unanswered: dict[ServicePortName, tuple[ServerKey, ...]] = field(default_factory=dict)
    settings: IpvsSettings | None = None

    def __len__(self) -> int:
        entries = sum(map(len, (*self.entries_added.values(), *self.entries_removed.values())))
        servers = len(self.raised) + len(self.withdrawn) + len(self.removed)
        return servers + len(self.bound) + len(self.unbound) + entries


Servers = dict[ServerKey, tuple[VirtualServer, tuple[RealKey, ...], ServicePortName]]


class IpvsState:
    """What one family holds in the kernel."""

    def __init__(self, settings: IpvsSettings) -> None:
        self.settings = settings
        self._plans: dict[ServicePortName, ServicePortPlan] = {}
        self._counts: dict[Entry, int] = {}
        self._sizes: dict[SetKind, int] = defaultdict(int)
        self._unanswered: dict[ServicePortName, tuple[ServerKey, ...]] = {}
        self._servers: dict[ServerKey, VirtualServer] = {}

    def plan_of(self, name: ServicePortName) -> ServicePortPlan | None:
        """Return the plan the kernel holds for a service port."""
        return self._plans.get(name)

    def held(self) -> Sequence[ServicePortName]:
        """Return the service ports the kernel holds."""
        return tuple(self._plans)

    def plans(self) -> dict[ServicePortName, ServicePortPlan]:
        """Return all plans the kernel holds."""
        return dict(self._plans)

    def chains(self, change: IpvsChange) -> dict[ChainKey, tuple[str, ...]]:
        """Return the iptables chains with their rules as they are to be after a change."""
        sizes = dict(self._sizes)
        for kind, step in self._size_steps(change):
            sizes[kind] = sizes.get(kind, 0) + step
        filled = [kind for kind, size in sizes.items() if size]
        unanswered = self._unanswered | change.unanswered
        keys = [key for name in sorted(unanswered) for key in unanswered[name]]
        return chains(change.settings or self.settings, filled, keys)

    def keeps_rules(self, change: IpvsChange) -> bool:
        """Return whether the iptables chains are the same after a change as before it."""
        if change.settings is not None:
            return False
        if any(self._unanswered.get(name, ()) != keys for name, keys in change.unanswered.items()):
            return False
        steps: dict[SetKind, int] = defaultdict(int)
        for kind, step in self._size_steps(change):
            steps[kind] += step
        sizes = self._sizes
        return all(bool(sizes[kind]) == bool(sizes[kind] + step) for kind, step in steps.items())

    def servers(self) -> Servers:
        """Return all virtual servers that are wanted; a pass over all service ports."""
        found: Servers = {}
        for name, plan in self._plans.items():
            _take_servers(found, name, port_state(plan, self.settings))
        return found

    def certain(
        self, refused: Iterable[ServicePortName]
    ) -> tuple[dict[ServerKey, VirtualServer], set[Entry]]:
        """
        Return the virtual servers and the entries of ipsets that must be there.

        Without those of service ports that were *refused*; a pass over all entries.
        """
        servers = dict(self._servers)
        entries = set(self._counts)
        for name in refused:
            state = self.state_of(name)
            for key in state.servers:
                servers.pop(key, None)
            entries -= state.entries
        return servers, entries

    def state_of(self, name: ServicePortName) -> PortState:
        """Return what a service port needs; nothing when it is not held."""
        plan = self._plans.get(name)
        return port_state(plan, self.settings) if plan is not None else NOTHING

    def wanting(self, kind: SetKind, entry: SetEntry, change: IpvsChange) -> list[ServicePortName]:
        """Return whose plans in a change ask for an entry; a pass over them, for a refusal only."""
        settings = change.settings or self.settings
        return [
            name
            for name, plan in change.plans.items()
            if plan is not None and (kind, entry) in port_state(plan, settings).entries
        ]

    # -- changes -----------------------------------------------------------------------------

    def change(self, changes: Mapping[ServicePortName, ServicePortPlan | None]) -> IpvsChange:
        """Return what to do for changed service ports (None: gone)."""
        return self._change(changes, self.settings)

    def resettle(self, settings: IpvsSettings) -> IpvsChange:
        """Return what to do for other settings; a pass over all service ports."""
        change = self._change(self._plans, settings)
        change.settings = settings
        return change

    def commit(self, change: IpvsChange) -> None:
        """Remember a change."""
        if change.settings is not None:
            self.settings = change.settings
        self._commit_plans(change)
        self._commit_servers(change)
        for kind, step in self._size_steps(change):
            self._sizes[kind] += step
        for key, count in change.counts.items():
            if count:
                self._counts[key] = count
            else:
                self._counts.pop(key, None)

    def _commit_plans(self, change: IpvsChange) -> None:
        for name, plan in change.plans.items():
            if plan is None:
                self._plans.pop(name, None)
            else:
                self._plans[name] = plan
            if keys := change.unanswered.get(name):
                self._unanswered[name] = keys
            else:
                self._unanswered.pop(name, None)

    def _commit_servers(self, change: IpvsChange) -> None:
        for operation, _ in change.raised:
            if operation.action in (Action.NEW_SERVER, Action.SET_SERVER):
                self._servers[operation.server.key] = operation.server
        for server in change.removed:
            self._servers.pop(server.key, None)

    def _size_steps(self, change: IpvsChange) -> Iterator[tuple[SetKind, int]]:
        for key, count in change.counts.items():
            yield key[0], (count > 0) - (key in self._counts)

    def _change(
        self, changes: Mapping[ServicePortName, ServicePortPlan | None], settings: IpvsSettings
    ) -> IpvsChange:
        change = IpvsChange(plans=dict(changes))
        steps: dict[Entry, int] = defaultdict(int)
        before: Servers = {}
        after: Servers = {}
        for name, plan in changes.items():
            held = self._plans.get(name)
            old = port_state(held, self.settings) if held is not None else NOTHING
            new = port_state(plan, settings) if plan is not None else NOTHING
            _take_servers(before, name, old)
            _take_servers(after, name, new)
            change.unanswered[name] = new.unanswered
            for entry in old.entries - new.entries:
                steps[entry] -= 1
            for entry in new.entries - old.entries:
                steps[entry] += 1
        self._settle_entries(steps, change)
        compare_servers(before, after, change)
        return change

    def _settle_entries(self, steps: Mapping[Entry, int], change: IpvsChange) -> None:
        for key, step in steps.items():
            if not step:
                continue
            count = self._counts.get(key, 0)
            change.counts[key] = count + step
            kind, entry = key
            if not count:
                change.entries_added[kind].append(entry)
            elif not count + step:
                change.entries_removed[kind].append(entry)
        change.bound += [entry.address for entry in change.entries_added.get(IPVS_IPS, ())]
        change.unbound += [entry.address for entry in change.entries_removed.get(IPVS_IPS, ())]


def _take_servers(found: Servers, name: ServicePortName, state: PortState) -> None:
    for key, (server, reals) in state.servers.items():
        found[key] = server, reals, name


def compare_servers(before: Servers, after: Servers, change: IpvsChange) -> None:
    """Add to *change* what leads from one set of virtual servers to another."""
    for key, (server, reals, origin) in after.items():
        old = before.get(key)
        known: Iterable[RealKey] = ()
        if old is None:
            change.raised.append(Step(Operation(Action.NEW_SERVER, server), origin))
        else:
            known = old[1]
            if old[0] != server:
                change.raised.append(Step(Operation(Action.SET_SERVER, server), origin))
        present, wanted = set(known), set(reals)
        for real in reals:
            if real not in present:
                change.raised.append(Step(Operation(Action.NEW_REAL, server, real), origin))
        for real in known:
            if real not in wanted:
                withdrawal = Operation(Action.DELETE_REAL, server, real, 0)
                change.withdrawn.append(Step(withdrawal, origin))
    change.removed += [old[0] for key, old in before.items() if key not in after]
