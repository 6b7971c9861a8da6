"""Counts the iptables rules of one family and says which of them do nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from diagnostics.iptables import matches as m
from diagnostics.iptables import targets as t
from diagnostics.iptables.model import Chain, Ruleset, Table
from diagnostics.readers.ipset import IpSets
from diagnostics.rules.iptables_atoms import LEAVING, atoms_of, changes_marks
from diagnostics.rules.iptables_graph import BUILT_IN, Graph
from diagnostics.rules.known import KnownEndpoints
from diagnostics.rules.model import ChainCount, Finding, Inventory, Kind
from diagnostics.rules.naming import service_in_rule
from diagnostics.rules.shadow import Atoms, Taker, Takers
from proxy.backends.iptables.names import ENDPOINT, MARK_MASQ, is_service_chain
from proxy.backends.ipvs.names import LOAD_BALANCER_CHAIN, SOURCE_RANGES
from proxy.engine.cleanup.owned import IPTABLES, IPVS

_BACKEND = "iptables"
# Chains that programs keep to notice that somebody flushed the table.
_CANARY = re.compile(r"KUBE-\w+-CANARY")
# Helpers that are there whether or not a Service needs them.
_MAY_BE_UNUSED = frozenset({MARK_MASQ, LOAD_BALANCER_CHAIN, SOURCE_RANGES, "KUBE-MARK-DROP"})
_ABSENT = "there is no such chain, and no extension of that name is known"


def count_iptables(
    inventory: Inventory,
    ruleset: Ruleset,
    family: str,
    endpoints: KnownEndpoints | None = None,
    sets: IpSets | None = None,
) -> None:
    """
    Add the rules of a family to an inventory.

    Args:
        inventory: What it is added to.
        ruleset: All of its tables.
        family: ``ip`` or ``ip6``.
        endpoints: Of the API, None when they are not known.
        sets: The kernel's ipsets, None when they are not known.
    """
    for table in ruleset.tables.values():
        counter = _TableCount(inventory, table, family)
        counter.count()
        if table.complete:
            inventory.findings += counter.dangling()
            inventory.findings += counter.orphans()
        inventory.findings += counter.shadowed()
        inventory.findings += counter.unknown_endpoints(endpoints) if endpoints else ()
        inventory.findings += counter.missing_sets(sets) if sets else ()


class _TableCount:
    def __init__(self, inventory: Inventory, table: Table, family: str) -> None:
        self._inventory = inventory
        self._table = table
        self._family = family
        self._graph = Graph(table)
        self._services = self._name_chains()

    def _name_chains(self) -> dict[str, str]:
        """
        Return the service port of each of a proxy's chains, "" where nothing tells it.

        It is in comments of the chain, or of a rule that leads to it: on large clusters kube-proxy
        leaves most comments out.
        """
        chains = self._table.chains
        found = {
            chain.name: next(filter(None, map(service_in_rule, chain.raw)), "")
            for chain in chains.values()
            if is_service_chain(chain.name)
        }
        for name in list(found):
            above = name
            while above in found and not found[above] and self._graph.callers.get(above):
                call = self._graph.callers[above][0]
                found[name] = service_in_rule(chains[call.chain].raw[call.number - 1])
                found[name] = found[name] or found.get(call.chain, "")
                if found[name] or call.chain == above:
                    break
                above = call.chain
        return found

    def count(self) -> None:
        """Count chains and rules, by chain and by Service."""
        for chain in self._table.chains.values():
            row = ChainCount(_BACKEND, self._family, self._table.name, chain.name, len(chain.rules))
            self._inventory.chains.append(row)
            service = self._services.get(chain.name)
            if service is not None:
                self._inventory.credit(service, "chains")
                self._inventory.credit(service, "rules", len(chain.rules))
            else:
                self._count_rules(chain)

    def _count_rules(self, chain: Chain) -> None:
        if not chain.name.startswith("KUBE-"):
            self._inventory.unnamed["rules"] += len(chain.rules)
            return
        for raw in chain.raw:
            self._inventory.credit(service_in_rule(raw), "rules")

    def dangling(self) -> Iterator[Finding]:
        """Yield the jumps to chains that do not exist."""
        for call in self._graph.dangling():
            text = self._table.chains[call.chain].raw[call.number - 1]
            place = self._place(call.chain, call.number)
            service = service_in_rule(text)
            yield Finding(Kind.DANGLING, place, f"{call.target}: {_ABSENT}", text, service)

    def orphans(self) -> Iterator[Finding]:
        """Yield the chains that no packet comes to."""
        reached = self._graph.reached()
        for chain in self._table.chains.values():
            if chain.name in reached or self._may_be_unused(chain):
                continue
            callers = self._graph.callers.get(chain.name, ())
            why = "nothing jumps to it"
            if callers:
                names = ", ".join(sorted({call.chain for call in callers})[:3])
                why = f"only chains jump to it that no packet reaches: {names}"
            is_endpoint = chain.name.startswith(ENDPOINT)
            kind = Kind.UNREACHABLE_ENDPOINT if is_endpoint else Kind.ORPHAN
            service = self._services.get(chain.name, "")
            yield Finding(kind, self._place(chain.name), why, _target_text(chain), service)

    def _may_be_unused(self, chain: Chain) -> bool:
        if chain.name in _MAY_BE_UNUSED or _CANARY.fullmatch(chain.name):
            return True
        fixed = {(table, name) for rules in (IPTABLES, IPVS) for table, name in rules.chains}
        return not chain.rules and (self._table.name, chain.name) in fixed

    def shadowed(self) -> Iterator[Finding]:
        """Yield the rules that can never match."""
        contexts = self._graph.contexts()
        for chain in self._table.chains.values():
            if len(chain.rules) > 1:
                yield from self._shadowed(chain, contexts)

    def _shadowed(self, chain: Chain, contexts: Mapping[str, Atoms]) -> Iterator[Finding]:
        takers, epoch = Takers(), 0
        context = contexts.get(chain.name, frozenset())
        for rule in chain.rules:
            atoms, certain = atoms_of(rule, epoch)
            taker = takers.of(atoms | context)
            if taker is not None:
                same = taker.atoms == atoms
                why = f"rule {taker.number} before it {'is the same' if same else 'is wider'}"
                why = f"{why} and takes every packet that it could match"
                service = self._services.get(chain.name) or service_in_rule(rule.text)
                place = self._place(chain.name, rule.number)
                yield Finding(Kind.SHADOWED, place, why, rule.text, service)
            elif certain:
                for taken in self._taken_by(rule.target):
                    takers.add(Taker(rule.number, atoms | taken))
            epoch += changes_marks(rule.target)

    def _taken_by(self, target: t.Target) -> tuple[Atoms, ...]:
        """Return what a rule takes beyond its own conditions; () when packets may come back."""
        if isinstance(target, LEAVING):
            return (frozenset(),)
        return self._graph.taken(target.chain) if isinstance(target, t.Jump) else ()

    def unknown_endpoints(self, endpoints: KnownEndpoints) -> Iterator[Finding]:
        """Yield the destinations that no EndpointSlice of their Service has."""
        for chain in self._table.chains.values():
            if not chain.name.startswith(ENDPOINT):
                continue
            service = self._services.get(chain.name, "")
            for rule in chain.rules:
                place = _destination(rule.target)
                if place and not endpoints.has(service, *place):
                    where = self._place(chain.name, rule.number)
                    why = f"no EndpointSlice of {service} has this address and port"
                    yield Finding(Kind.UNKNOWN_ENDPOINT, where, why, rule.text, service)

    def missing_sets(self, sets: IpSets) -> Iterator[Finding]:
        """Yield the rules that ask ipsets which do not exist."""
        for chain in self._table.chains.values():
            for number, raw in enumerate(chain.raw, 1):
                if "--match-set" not in raw:
                    continue
                for match in chain.rules[number - 1].matches:
                    if isinstance(match, m.IpSet) and match.name not in sets.by_name:
                        why = f"there is no ipset {match.name}"
                        yield Finding(Kind.MISSING_SET, self._place(chain.name, number), why, raw)

    def _place(self, chain: str, number: int = 0) -> str:
        place = f"{self._family} {self._table.name} {chain}"
        return f"{place} rule {number}" if number else place


def _destination(target: t.Target) -> tuple[str, int] | None:
    if not isinstance(target, t.Dnat) or not target.ranges:
        return None
    to = target.ranges[0]
    return (str(to.first), to.ports[0]) if to.first and to.ports else None


def _target_text(chain: Chain) -> str:
    """Return where an endpoint's chain sends packets, "" for any other chain."""
    if chain.name in BUILT_IN or not chain.name.startswith(ENDPOINT):
        return ""
    for rule in chain.rules:
        place = _destination(rule.target)
        if place:
            address = ip_address(place[0])
            return (
                f"to [{address}]:{place[1]}" if address.version == 6 else f"to {address}:{place[1]}"
            )
    return ""
