"""
One family's table: what the kernel holds, and the requests that lead from there to a new state.

INVARIANT: what ``NftablesTable`` remembers changes only in ``commit``, after the kernel accepted
the batch. A batch is computed from the difference between remembered and wanted service ports, so
its size is that of the change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proxy.backends.nftables import layout, requests
from proxy.backends.nftables.elements import (
    ElementKey,
    Elements,
    ElementValue,
    Placed,
    place,
    port_elements,
    shared_elements,
)
from proxy.backends.nftables.requests import Change, Request
from proxy.backends.settings import Settings
from proxy.model.services import ServicePortName
from proxy.netfilter.objects import Chain
from proxy.plan.service_plan import ServicePortPlan

# What sets hold in the kernel: packed key to data, verdict, end of a range, or b"".
Existing = dict[str, dict[bytes, ElementValue]]


@dataclass(slots=True)
class Batch:
    """
    One transaction, and what to remember once the kernel took it.

    Attributes:
        requests: in an order the kernel accepts: chains, deletions, additions.
        placed: service ports as they will be; None for those that go.
        counts: how many service ports need a shared element, where that changed.
        chains: shared chains that the batch adds.
        fresh: the batch states the whole table, whatever was there before.
        learned: frontend and endpoint pairs with session affinity, added (True) or gone (False).
        forgets_clients: such a pair is gone; remembered clients must be purged.
    """

    requests: list[Request] = field(default_factory=list)
    placed: dict[ServicePortName, Placed | None] = field(default_factory=dict)
    counts: dict[ElementKey, int] = field(default_factory=dict)
    chains: set[str] = field(default_factory=set)
    settings: Settings | None = None
    fresh: bool = False
    learned: dict[bytes, bool] = field(default_factory=dict)
    forgets_clients: bool = False

    def __bool__(self) -> bool:
        return bool(self.requests)


class NftablesTable:
    """The remembered content of one family's table."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sets = layout.sets(settings.family)
        self._placed: dict[ServicePortName, Placed] = {}
        self._counts: dict[ElementKey, int] = {}
        self._chains: set[str] = set()
        self._learned: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._placed)

    def plan_of(self, name: ServicePortName) -> ServicePortPlan | None:
        """Return the plan the kernel holds for a service port."""
        placed = self._placed.get(name)
        return placed.plan if placed else None

    @property
    def placed(self) -> Mapping[ServicePortName, Placed]:
        """What the kernel holds, by service port."""
        return self._placed

    @property
    def service_chains(self) -> frozenset[str]:
        """Names of the shared chains in the table."""
        return frozenset(self._chains)

    def learns(self, pair: bytes) -> bool:
        """Return whether clients of a frontend may be remembered with an endpoint (key + data)."""
        return pair in self._learned

    # -- batches -----------------------------------------------------------------------------

    def change(self, changes: Mapping[ServicePortName, ServicePortPlan | None]) -> Batch:
        """Return the transaction for changed service ports (None: gone)."""
        return self._change(changes, self._placed, self._counts, self._chains)

    def restate(
        self,
        plans: Iterable[ServicePortPlan],
        *,
        existing: Existing | None = None,
        replace: bool = False,
    ) -> Batch:
        """
        Return the transaction that states the whole table anew, atomically.

        Rules are flushed and written again, elements that differ are put right, remembered
        clients stay, and nothing is unhooked for a moment.

        Args:
            plans: all service ports.
            existing: what the kernel's sets hold; {} for a table that is not there yet. None when
                it is not known: every set but that of remembered clients is flushed and filled.
            replace: delete the table that is there first, whatever it is.
        """
        changes = {plan.name: plan for plan in plans}
        batch, difference = self._collect(changes, {}, {}, set(), remembered=self._placed)
        addresses = sorted(self.settings.node_port_addresses or ())
        accepted = [Change(address, b"", None) for address in addresses]
        difference.added[layout.NODEPORT_IPS] += accepted
        if existing and not replace:
            difference.leave_out(existing)
        flush = existing is None and not replace
        batch.requests = self._skeleton(replace=replace, flush=flush) + self._requests(difference)
        batch.fresh = True
        batch.forgets_clients = True
        return batch

    def resettle(self, settings: Settings) -> Batch:
        """Return the transaction for changed node addresses or ServiceCIDRs."""
        batch = Batch(settings=settings)
        before = self.settings.node_port_addresses or frozenset()
        after = settings.node_port_addresses or frozenset()
        item = self.sets[layout.NODEPORT_IPS]
        gone = [Change(address, b"", None) for address in sorted(before - after)]
        new = [Change(address, b"", None) for address in sorted(after - before)]
        batch.requests += requests.delete_elements(item, gone)
        batch.requests += requests.add_elements(item, new, False)
        if settings.service_cidrs != self.settings.service_cidrs:
            chain = layout.cluster_ips_check(settings)
            batch.requests.append(requests.flush_rules(chain.name))
            batch.requests += requests.add_rules(chain)
        return batch

    def commit(self, batch: Batch) -> None:
        """Remember what the kernel accepted."""
        if batch.settings is not None:
            self.settings = batch.settings
            return
        if batch.fresh:
            self._placed, self._counts = {}, {}
            self._chains, self._learned = set(), set()
        for name, placed in batch.placed.items():
            if placed is None:
                self._placed.pop(name, None)
            else:
                self._placed[name] = placed
        for key, count in batch.counts.items():
            if count:
                self._counts[key] = count
            else:
                self._counts.pop(key, None)
        self._chains |= batch.chains
        for pair, added in batch.learned.items():
            if added:
                self._learned.add(pair)
            else:
                self._learned.discard(pair)

    def forget_chains(self, names: Iterable[str]) -> None:
        """Forget chains that were deleted because nothing used them."""
        self._chains.difference_update(names)

    def chains_in_use(self) -> set[str]:
        """Return every chain the present service ports need; a pass over all of them."""
        fixed = {chain.name for chain in self._fixed_chains()}
        for placed in self._placed.values():
            fixed.update(chain.name for chain in port_elements(placed, self.settings)[1])
        return fixed

    # -- inside ------------------------------------------------------------------------------

    def _change(
        self,
        changes: Mapping[ServicePortName, ServicePortPlan | None],
        placed: Mapping[ServicePortName, Placed],
        counts: Mapping[ElementKey, int],
        chains: set[str],
    ) -> Batch:
        batch, difference = self._collect(changes, placed, counts, chains, remembered=placed)
        batch.requests = self._requests(difference)
        return batch

    def _collect(
        self,
        changes: Mapping[ServicePortName, ServicePortPlan | None],
        placed: Mapping[ServicePortName, Placed],
        counts: Mapping[ElementKey, int],
        chains: set[str],
        *,
        remembered: Mapping[ServicePortName, Placed],
    ) -> tuple[Batch, _Difference]:
        batch, difference = Batch(), _Difference()
        for name, plan in changes.items():
            before = placed.get(name)
            after = place(plan, remembered.get(name)) if plan is not None else None
            if before is None and after is None:
                continue
            batch.placed[name] = after
            old = port_elements(before, self.settings)[0] if before else {}
            new, needed = port_elements(after, self.settings) if after else ({}, [])
            difference.chains |= {c.name: c for c in needed if c.name not in chains}
            difference.of_port(name, old, new)
            difference.count(name, before.plan if before else None, after.plan if after else None)
        batch.counts = difference.settle_shared(counts)
        for set_name in (layout.AFFINITY_LEARN, layout.AFFINITY_LEARN_NODEPORTS):
            batch.learned |= {change.key: False for change in difference.removed[set_name]}
            batch.learned |= {change.key: True for change in difference.added[set_name]}
        batch.forgets_clients = not all(batch.learned.values())
        batch.chains = set(difference.chains)
        return batch, difference

    def _requests(self, difference: _Difference) -> list[Request]:
        made: list[Request] = []
        for chain in difference.chains.values():
            made.append(requests.add_chain(chain))
            made += requests.add_rules(chain)
        for name, changes in difference.removed.items():
            made += requests.delete_elements(self.sets[name], changes)
        for name, changes in difference.added.items():
            made += requests.add_elements(self.sets[name], changes, self.settings.comments)
        return made

    def _fixed_chains(self) -> tuple[Chain, ...]:
        return (*layout.fixed_chains(self.settings), *layout.base_chains())

    def _skeleton(self, *, replace: bool, flush: bool) -> list[Request]:
        made = [requests.add_table()]
        if replace:
            made += [requests.delete_table(), requests.add_table()]
        for identifier, item in enumerate(self.sets.values(), start=1):
            made.append(requests.add_set(item, identifier))
        made.append(requests.flush_rules())
        if flush:
            made += [requests.flush_set(name) for name in self.sets if name != layout.AFFINITY]
        chains = self._fixed_chains()
        made += [requests.add_chain(chain) for chain in chains]
        for chain in chains:
            made += requests.add_rules(chain)
        return made


class _Difference:
    """Elements to delete and to add by set, and chains to add by name, collected port by port."""

    def __init__(self) -> None:
        self.removed: dict[str, list[Change]] = defaultdict(list)
        self.added: dict[str, list[Change]] = defaultdict(list)
        self.chains: dict[str, Chain] = {}
        self._shared: dict[ElementKey, int] = defaultdict(int)
        self._origins: dict[ElementKey, ServicePortName] = {}

    def of_port(self, name: ServicePortName, old: Elements, new: Elements) -> None:
        """Take in the elements of one service port."""
        for key, value in old.items():
            if new.get(key) != value:
                self.removed[key[0]].append(Change(key[1], value, name))
        for key, value in new.items():
            if old.get(key) != value:
                self.added[key[0]].append(Change(key[1], value, name))

    def count(
        self, name: ServicePortName, old: ServicePortPlan | None, new: ServicePortPlan | None
    ) -> None:
        """Count the elements that one service port shares with others."""
        for plan, step in ((old, -1), (new, 1)):
            for key in shared_elements(plan) if plan else ():
                self._shared[key] += step
                self._origins[key] = name

    def settle_shared(self, counts: Mapping[ElementKey, int]) -> dict[ElementKey, int]:
        """Take in shared elements that nobody or somebody needs now; return changed counts."""
        settled = {}
        for key, step in self._shared.items():
            if not step:
                continue
            before = counts.get(key, 0)
            settled[key] = before + step
            change = Change(key[1], b"", self._origins[key])
            if not before:
                self.added[key[0]].append(change)
            elif not settled[key]:
                self.removed[key[0]].append(change)
        return settled

    def leave_out(self, existing: Existing) -> None:
        """Keep only what the kernel does not hold yet, and delete what it holds beside."""
        for name, known in existing.items():
            missing = []
            for change in self.added[name]:
                held = known.pop(change.key, None)
                if held is not None and held != change.value:
                    self.removed[name].append(Change(change.key, held, change.origin))
                if held != change.value:
                    missing.append(change)
            self.added[name] = missing
            self.removed[name] += [Change(key, value, None) for key, value in known.items()]
