"""
One family's virtual servers with all that belongs to them, kept equal to the plans.

IPVS has no transactions: what is written first and last decides what a packet meets in between. A
new virtual server is complete before its address is bound, and an address is unbound before its
virtual server goes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence

from proxy.backends.iptables.fixed import ChainKey
from proxy.backends.iptables.names import NODEPORTS
from proxy.backends.iptables.restore import Section, render
from proxy.backends.ipvs import names
from proxy.backends.ipvs.names import DEVICE, SetKind, SetType
from proxy.backends.ipvs.settings import IpvsSettings
from proxy.backends.ipvs.state import IpvsChange, IpvsState, Step
from proxy.backends.settings import Settings
from proxy.backends.xtables import FILTER, NAT
from proxy.engine.iptables.jumps import missing_jumps, places
from proxy.engine.iptables.reconciler import TROUBLE
from proxy.engine.ipvs.draining import Draining
from proxy.engine.ipvs.found import difference, look
from proxy.engine.ipvs.ports import IpvsPorts
from proxy.engine.reconciler import Reconciler, SyncResult
from proxy.kernel.netlink import NetlinkError
from proxy.model.services import ServicePortName
from proxy.netfilter.ipset import SetEntry, SetHeader
from proxy.netfilter.ipvs import Action, Operation
from proxy.plan.service_plan import ServicePortPlan
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

VERIFY_S = 30.0
# The kernel lists real servers one virtual server at a time.
VERIFY_PORTS = 100
# What IPVS answers when it does not hold what we remember.
_STRANGE = frozenset({errno.EEXIST, errno.ENOENT, errno.ESRCH})
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL})


class IpvsReconciler(Reconciler):
    """Applies plans; *drain_limit_s* bounds graceful termination, 0 for no limit."""

    def __init__(
        self,
        settings: IpvsSettings,
        ports: IpvsPorts,
        *,
        drain_limit_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__(monotonic)
        self._state = IpvsState(settings)
        self._ports = ports
        self._draining = Draining(ports.servers, drain_limit_s)
        self._chains: dict[ChainKey, tuple[str, ...]] = {}
        self._verify_at = float("inf")
        self._unverified: list[ServicePortName] = []

    @property
    def settings(self) -> IpvsSettings:
        """The settings in force."""
        return self._state.settings

    @settings.setter
    def settings(self, settings: IpvsSettings) -> None:
        self._state.settings = settings

    def plan_of(self, name: ServicePortName) -> ServicePortPlan | None:
        """Return the plan the virtual servers stand for."""
        return self._state.plan_of(name)

    def held(self) -> Sequence[ServicePortName]:
        """Return the service ports that have virtual servers."""
        return self._state.held()

    # -- writing -----------------------------------------------------------------------------

    def change(self, changes: Mapping[ServicePortName, ServicePortPlan | None]) -> SyncResult:
        """Write changed service ports; needs to be in sync."""
        if not self.failures.keys().isdisjoint(changes):
            # It is not known how much of them the kernel took the last time.
            wanted = {**self._state.plans(), **changes}
            result = self.restate([plan for plan in wanted.values() if plan is not None])
            result.full = False  # what was not changed is held as before
            return result
        return self._write(self._state.change(changes))

    def can_resettle(self, settings: Settings) -> bool:
        """Say yes: only what differs is written, whatever has changed."""
        del settings
        return True

    def resettle(self, settings: IpvsSettings) -> SyncResult:
        """Write changed settings."""
        if self.failures:
            # It is not known how much of them the kernel took under the settings before.
            self.settings = settings
            return self.restate(list(self._state.plans().values()))
        result = self._write(self._state.resettle(settings))
        self.settings = settings  # also for the restatement that follows a failure
        return result

    def restate(self, plans: Sequence[ServicePortPlan]) -> SyncResult:
        """Read what the kernel holds, and write what differs."""
        result = SyncResult(full=True)
        self._begin_restatement()
        wanted = IpvsState(self.settings)
        change = wanted.change({plan.name: plan for plan in plans})
        chains = wanted.chains(change)
        wanted.commit(change)
        self._chains = {}
        try:
            existing = {table: self._ports.rules.chains(table) for table in (NAT, FILTER)}
            self._prepare()
            found = look(self._ports, self.settings.family)
            self.found_something = bool(found.servers or found.bound)
            self._draining.found({key: reals for key, (_, reals, _) in found.servers.items()})
            entries = {kind: set(found) for kind, found in change.entries_added.items()}
            steps = IpvsChange(plans=change.plans)
            made, _ = self._state.certain(())
            difference(found, wanted.servers(), entries, steps, self.settings, made)
            # While the rules of iptables mode translate, nothing reaches the virtual servers.
            taking_over = NODEPORTS in existing[NAT]
            self._perform(steps, chains, result, rules_first=not taking_over)
            self._ensure_jumps(result)
        except TROUBLE as error:
            return self.restate_failed(error, result)
        self._state = wanted
        self._verify_at = self._monotonic() + VERIFY_S
        self._end_restatement(result.refused)
        self._fail(result, change.plans)
        return result

    def upkeep_due(self) -> float:
        """Return when real servers that drain, or what the kernel holds, are to be looked at."""
        return min(self._draining.due, self._verify_at)

    def upkeep(self) -> str:
        """Delete real servers that have drained; return what others changed of what is ours."""
        result, now = SyncResult(), self._monotonic()
        try:
            if now >= self._draining.due:
                self._apply(((o, None) for o in self._draining.ended(now)), result, _GONE)
            if now >= self._verify_at:
                self._verify_at = now + VERIFY_S
                return self._damage()
        except TROUBLE as error:
            log.error("Cannot look after virtual servers; all will be written anew", err=error)
            self._lose(error, result)
        return ""

    def is_intact(self) -> bool:
        """
        Return whether all is there that can be looked at quickly.

        Our chains with as many rules as they should have, what leads to them, virtual servers
        and addresses.
        """
        return self.in_sync and all(map(self._is_intact, (NAT, FILTER))) and not self._damage()

    def _is_intact(self, table: str) -> bool:
        content = self._ports.rules.content(table)
        if content is None:
            return False
        wanted = {chain: len(rules) for (t, chain), rules in self._chains.items() if t == table}
        jumps = places(names.JUMPS, table)
        return wanted.items() <= content.rules.items() and jumps <= content.jumps

    # -- inside ------------------------------------------------------------------------------

    def _write(self, change: IpvsChange) -> SyncResult:
        result = SyncResult()
        try:
            same = self._state.keeps_rules(change)
            chains = self._chains if same else self._state.chains(change)
            self._perform(change, chains, result, rules_first=True)
        except TROUBLE as error:
            self._lose(error, result)
            return result
        self._state.commit(change)
        self._forget_failures(change.plans)
        self._fail(result, change.plans)
        return result

    def _fail(
        self, result: SyncResult, plans: Mapping[ServicePortName, ServicePortPlan | None]
    ) -> None:
        for name, why in list(result.refused.items()):
            self._put_aside({name: plans.get(name)}, why, result)

    def _perform(
        self,
        change: IpvsChange,
        chains: dict[ChainKey, tuple[str, ...]],
        result: SyncResult,
        *,
        rules_first: bool,
    ) -> None:
        result.requests += len(change)
        started = self._monotonic()
        for kind, entries in change.entries_added.items():
            self._change_entries(kind, entries, change, result, add=True)
        if rules_first:
            self._write_rules(chains, result)
        self._raise(change.raised, result)
        self._bind(change, result)
        if not rules_first:
            self._write_rules(chains, result)
        withdrawn = self._draining.withdraw((s.operation for s in change.withdrawn), started)
        self._apply(((operation, None) for operation in withdrawn), result, _GONE)
        self._unbind(change)
        for server in change.removed:
            self._draining.forget(server.key)
        removals = (Operation(Action.DELETE_SERVER, server) for server in change.removed)
        self._apply(((operation, None) for operation in removals), result, _GONE)
        for kind, entries in change.entries_removed.items():
            self._change_entries(kind, entries, change, result, add=False)
        result.kernel_s += self._monotonic() - started

    def _raise(self, steps: Iterable[Step], result: SyncResult) -> None:
        made: list[tuple[Operation, ServicePortName | None]] = []
        for operation, origin in steps:
            key, real = operation.server.key, operation.real
            if real is not None and self._draining.has(key, real):
                # It may have connections that deleting and adding it anew would cut.
                self._draining.restored(key, real)
                made.append((operation._replace(action=Action.SET_REAL), origin))
            else:
                made.append((operation, origin))
        self._apply(made, result, frozenset())

    def _apply(
        self,
        steps: Iterable[tuple[Operation, ServicePortName | None]],
        result: SyncResult,
        harmless: frozenset[int],
    ) -> None:
        made = list(steps)
        refusals = self._ports.servers.apply([operation for operation, _ in made])
        for (_, origin), refusal in zip(made, refusals, strict=True):
            if refusal is None or refusal.errno in harmless:
                continue
            if origin in result.refused:
                continue  # such as the real servers of a virtual server that was refused
            if origin is None or refusal.errno in _STRANGE:
                raise refusal
            result.refused[origin] = str(refusal)

    def _bind(self, change: IpvsChange, result: SyncResult) -> None:
        refusals = self._ports.links.add_addresses(DEVICE, change.bound)
        for address, refusal in zip(change.bound, refusals, strict=True):
            if refusal is not None:
                self._blame(names.IPVS_IPS, SetEntry(address), refusal, change, result)

    def _unbind(self, change: IpvsChange) -> None:
        for refusal in self._ports.links.delete_addresses(DEVICE, change.unbound):
            if refusal is not None:
                raise refusal

    def _blame(
        self,
        kind: SetKind,
        entry: SetEntry,
        refusal: NetlinkError,
        change: IpvsChange,
        result: SyncResult,
    ) -> None:
        """Note whose entry or address was refused; raise the refusal when nobody wants it."""
        origins = self._state.wanting(kind, entry, change)
        if not origins:
            raise refusal
        result.refused.update(dict.fromkeys(origins, str(refusal)))

    def _change_entries(
        self,
        kind: SetKind,
        entries: Sequence[SetEntry],
        change: IpvsChange,
        result: SyncResult,
        *,
        add: bool,
    ) -> None:
        if not entries:
            return
        header = set_header(kind, self.settings)
        act = self._ports.sets.add if add else self._ports.sets.delete
        for entry, refusal in zip(entries, act(header, entries), strict=True):
            if refusal is not None:
                self._blame(kind, entry, refusal, change, result)

    def _write_rules(self, chains: dict[ChainKey, tuple[str, ...]], result: SyncResult) -> None:
        sections: dict[str, Section] = {}
        for (table, chain), rules in chains.items():
            if self._chains.get((table, chain)) != rules:
                sections.setdefault(table, Section(table)).declare(chain)
        for (table, chain), rules in chains.items():
            if self._chains.get((table, chain)) != rules:
                for rule in rules:
                    sections[table].append(chain, rule)
        if sections:
            self._ports.rules.restore(render(sections.values()))
            result.requests += sum(len(section.lines) for section in sections.values())
        self._chains = chains

    def _ensure_jumps(self, result: SyncResult) -> None:
        if sections := missing_jumps(self._ports.rules, names.JUMPS):
            self._ports.rules.restore(render(sections))
            result.requests += sum(len(section.lines) for section in sections)

    def _prepare(self) -> None:
        self._ports.links.add_dummy(DEVICE)
        for kind in names.SETS:
            self._ports.sets.create(set_header(kind, self.settings))

    def _damage(self) -> str:
        there = self._ports.servers.servers(self.settings.family)
        servers, entries = self._state.certain(self.failures)
        if any(there.get(key) != server for key, server in servers.items()):
            return "virtual servers deleted or changed"
        addresses = {entry.address for kind, entry in entries if kind is names.IPVS_IPS}
        if addresses - self._ports.links.addresses_of(DEVICE, self.settings.family):
            return f"addresses removed from {DEVICE}"
        for kind in names.SETS:
            entries.difference_update(
                (kind, entry) for entry in self._ports.sets.entries(kind.name(self.settings.family))
            )
        if entries:
            return "entries removed from ipsets"
        return "real servers deleted or changed" if self._lacks_reals() else ""

    def _lacks_reals(self) -> bool:
        """Look at real servers of some service ports; if all is well, of others the next time."""
        if not self._unverified:
            self._unverified = list(self._state.held())
        for name in self._unverified[:VERIFY_PORTS]:
            if name in self.failures:
                continue
            for server, wanted in self._state.state_of(name).servers.values():
                found = {r.key: r.weight for r in self._ports.servers.real_servers(server)}
                if any(found.get(real) != 1 for real in wanted):
                    return True
        del self._unverified[:VERIFY_PORTS]
        return False


def set_header(kind: SetKind, settings: Settings) -> SetHeader:
    """Return the ipset of a kind in the family of *settings*."""
    bits = 0 if kind.type is SetType.PORT else settings.family.bits
    return SetHeader(kind.name(settings.family), kind.type.value, bits)
