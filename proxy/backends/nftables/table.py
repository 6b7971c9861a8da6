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
    Placed,
    place,
    port_elements,
    shared_elements,
)
from proxy.backends.nftables.requests import Change, Request
from proxy.backends.nftables.settings import Settings
from proxy.model.services import ServicePortName
from proxy.netfilter.objects import Chain
from proxy.plan.service_plan import ServicePortPlan


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

    def restate(self, plans: Iterable[ServicePortPlan], *, replace: bool) -> Batch:
        """
        Return the transaction that states the whole table anew, atomically.

        Args:
            plans: all service ports.
            replace: delete a table of another layout first. Otherwise the table is kept, its
                rules and elements are flushed and filled again, and remembered clients stay.
        """
        batch = self._change({plan.name: plan for plan in plans}, {}, {}, set())
        skeleton = self._skeleton(replace=replace)
        batch.requests = skeleton + batch.requests
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
        batch = Batch()
        added: dict[str, list[Change]] = defaultdict(list)
        removed: dict[str, list[Change]] = defaultdict(list)
        new_chains: dict[str, Chain] = {}
        shared: dict[ElementKey, int] = defaultdict(int)
        origins: dict[ElementKey, ServicePortName] = {}
        for name, plan in changes.items():
            before = placed.get(name)
            after = place(plan, before) if plan is not None else None
            if before is None and after is None:
                continue
            batch.placed[name] = after
            old = port_elements(before, self.settings)[0] if before else {}
            new, needed = port_elements(after, self.settings) if after else ({}, [])
            for chain in needed:
                if chain.name not in chains:
                    new_chains[chain.name] = chain
            _difference(name, old, new, removed, added)
            for key in shared_elements(before.plan) if before else ():
                shared[key] -= 1
                origins[key] = name
            for key in shared_elements(after.plan) if after else ():
                shared[key] += 1
                origins[key] = name
        _settle_shared(shared, origins, counts, batch.counts, removed, added)
        for set_name in (layout.AFFINITY_LEARN, layout.AFFINITY_LEARN_NODEPORTS):
            batch.learned |= {change.key: False for change in removed.get(set_name, ())}
            batch.learned |= {change.key: True for change in added.get(set_name, ())}
        batch.forgets_clients = not all(batch.learned.values())
        batch.chains = set(new_chains)
        batch.requests = self._requests(new_chains.values(), removed, added)
        return batch

    def _requests(
        self,
        chains: Iterable[Chain],
        removed: Mapping[str, list[Change]],
        added: Mapping[str, list[Change]],
    ) -> list[Request]:
        made: list[Request] = []
        for chain in chains:
            made.append(requests.add_chain(chain))
            made += requests.add_rules(chain)
        for name, changes in removed.items():
            made += requests.delete_elements(self.sets[name], changes)
        for name, changes in added.items():
            made += requests.add_elements(self.sets[name], changes, self.settings.comments)
        return made

    def _fixed_chains(self) -> tuple[Chain, ...]:
        return (*layout.fixed_chains(self.settings), *layout.base_chains())

    def _skeleton(self, *, replace: bool) -> list[Request]:
        made = [requests.add_table()]
        if replace:
            made += [requests.delete_table(), requests.add_table()]
        for identifier, item in enumerate(self.sets.values(), start=1):
            made.append(requests.add_set(item, identifier))
        # Rules go before elements: a chain that elements still refer to may keep its name.
        made.append(requests.flush_rules())
        for name in self.sets:
            if name != layout.AFFINITY:
                made.append(requests.flush_set(name))
        chains = self._fixed_chains()
        made += [requests.add_chain(chain) for chain in chains]
        for chain in chains:
            made += requests.add_rules(chain)
        addresses = sorted(self.settings.node_port_addresses or ())
        accepted = [Change(address, b"", None) for address in addresses]
        made += requests.add_elements(self.sets[layout.NODEPORT_IPS], accepted, False)
        return made


def _difference(
    name: ServicePortName,
    old: Elements,
    new: Elements,
    removed: dict[str, list[Change]],
    added: dict[str, list[Change]],
) -> None:
    """Sort the difference of one service port's elements into *removed* and *added*."""
    for key, value in old.items():
        if new.get(key) != value:
            removed[key[0]].append(Change(key[1], value, name))
    for key, value in new.items():
        if old.get(key) != value:
            added[key[0]].append(Change(key[1], value, name))


def _settle_shared(
    shared: Mapping[ElementKey, int],
    origins: Mapping[ElementKey, ServicePortName],
    counts: Mapping[ElementKey, int],
    new_counts: dict[ElementKey, int],
    removed: dict[str, list[Change]],
    added: dict[str, list[Change]],
) -> None:
    for key, difference in shared.items():
        if not difference:
            continue
        before = counts.get(key, 0)
        new_counts[key] = before + difference
        if not before:
            added[key[0]].append(Change(key[1], b"", origins[key]))
        elif not new_counts[key]:
            removed[key[0]].append(Change(key[1], b"", origins[key]))
