"""Counts an nftables ruleset and says which of its chains, maps and rules do nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from diagnostics.nftables.data_types import Json
from diagnostics.nftables.elements import Element, Span
from diagnostics.nftables.model import Chain, NamedSet, NftRuleset, Rule, Table
from diagnostics.rules.model import ChainCount, Finding, Inventory, Kind, SetCount
from diagnostics.rules.naming import service_in_chain, service_in_comment
from diagnostics.rules.shadow import Taker, Takers
from proxy.backends.nftables.layout import LEARN_CHAIN, REJECT_CHAIN, SOURCES_CHAIN

_BACKEND = "nftables"
_PROXY = "kube-proxy"
# Chains that kube-proxy keeps whether or not a map leads to them.
# Fixed chains that only some Services need.
_MAY_BE_UNUSED = frozenset({"mark-for-masquerade", REJECT_CHAIN, SOURCES_CHAIN, LEARN_CHAIN})
_JUMPS = ("jump", "goto")
_ENDING = frozenset({"accept", "drop", "reject", "return", "goto", "dnat", "masquerade", "snat"})
# What does nothing to the packet, and what depends on the packet alone.
_NEUTRAL = frozenset({"counter", "comment"})
_CERTAIN_LEFT = frozenset({"payload", "meta", "fib", "&"})
# Everything before an ending statement but conditions may change what later rules see.
_CHANGEABLE = frozenset({"mark", "priority", "nftrace"})


def count_nftables(inventory: Inventory, ruleset: NftRuleset, skip: frozenset[str]) -> None:
    """
    Add a ruleset to an inventory.

    Args:
        inventory: What it is added to.
        ruleset: All of its tables.
        skip: Names of tables of families ip and ip6 that iptables shows better.
    """
    for table in ruleset.tables.values():
        if table.family in ("ip", "ip6") and table.name in skip:
            continue
        counter = _TableCount(inventory, table)
        counter.count()
        inventory.findings += counter.dangling()
        inventory.findings += counter.unused()
        inventory.findings += counter.shadowed()


class _TableCount:
    def __init__(self, inventory: Inventory, table: Table) -> None:
        self._inventory = inventory
        self._table = table
        self._elements = {name: found.elements for name, found in table.sets.items()}
        self._statements = {
            name: [_statements(rule) for rule in chain.rules]
            for name, chain in table.chains.items()
        }
        self._frontends = dict(self._name_frontends())

    def _name_frontends(self) -> Iterator[tuple[tuple[Span, ...], str]]:
        """Yield keys of verdict maps with the service port they lead to."""
        for name, found in self._table.sets.items():
            if found.kind == "vmap":
                for element in self._elements[name]:
                    service = _service_of(element)
                    if service and element.spans:
                        yield element.spans, service

    def count(self) -> None:
        """Count chains, rules and elements, by chain and set and by Service."""
        table, inventory = self._table, self._inventory
        for chain in table.chains.values():
            count = len(chain.rules)
            inventory.chains.append(
                ChainCount(_BACKEND, table.family, table.name, chain.name, count)
            )
            service = service_in_chain(chain.name)
            if service:
                inventory.credit(service, "chains")
            inventory.credit(service, "rules", count)
        for found in table.sets.values():
            elements = self._elements[found.name]
            row = SetCount(_BACKEND, table.family, table.name, found.name, len(elements))
            inventory.sets.append(row)
            for element in elements:
                inventory.credit(self._owner(element, found), "elements")

    def _owner(self, element: Element, found: NamedSet) -> str:
        service = _service_of(element)
        if service or not element.spans or found.kind == "set":
            return service
        # Behind a frontend's key stands the number of an endpoint.
        return self._frontends.get(element.spans[:-1], "")

    def dangling(self) -> Iterator[Finding]:
        """Yield rules and elements whose verdict names a chain, or a set, that does not exist."""
        chains, sets = self._table.chains, self._table.sets
        for chain in chains.values():
            for rule, statements in zip(chain.rules, self._statements[chain.name], strict=True):
                missing = [name for name in _targets(statements) if name not in chains]
                absent = [name for name in _references(statements) if name not in sets]
                service = service_in_chain(chain.name)
                place = self._place(chain.name, rule)
                if missing:
                    why = f"there is no chain {', '.join(missing)}"
                    yield Finding(Kind.DANGLING, place, why, rule.text, service)
                if absent:
                    why = f"there is no set or map {', '.join(absent)}"
                    yield Finding(Kind.MISSING_SET, place, why, rule.text, service)
        for name, found in sets.items():
            for element in self._elements[name] if found.kind == "vmap" else ():
                for target in _targets(element.data):
                    if target not in chains:
                        why = f"there is no chain {target}"
                        place = f"{self._place()} map {name}"
                        service = _service_of(element)
                        yield Finding(Kind.DANGLING, place, why, element.text, service)

    def unused(self) -> Iterator[Finding]:
        """Yield chains that no packet comes to, and filled sets that no rule asks."""
        reached = self._reached()
        for chain in self._table.chains.values():
            known = self._table.name == _PROXY and chain.name in _MAY_BE_UNUSED
            if chain.name not in reached and not known:
                is_endpoint = chain.name.startswith("endpoint-")
                kind = Kind.UNREACHABLE_ENDPOINT if is_endpoint else Kind.ORPHAN
                why = "no rule and no element that packets meet leads to it"
                if self._table.name == _PROXY and not chain.rules:
                    why += "; it is empty, as proxies leave chains that they are about to delete"
                service = service_in_chain(chain.name)
                yield Finding(kind, self._place(chain.name), why, "", service)
        asked = {
            name
            for statements in self._statements.values()
            for one in statements
            for name in _references(one)
        }
        for name in self._table.sets:
            if name not in asked and self._elements[name]:
                why = f"no rule asks it; it has {len(self._elements[name])} elements"
                yield Finding(Kind.UNUSED_SET, f"{self._place()} {name}", why)

    def _reached(self) -> frozenset[str]:
        waiting = [chain.name for chain in self._table.chains.values() if chain.hook]
        found, maps = set(waiting), set[str]()
        while waiting:
            for statements in self._statements.get(waiting.pop(), ()):
                targets = list(_targets(statements))
                for name in _references(statements):
                    if name not in maps:
                        maps.add(name)
                        targets += self._map_targets(name)
                for target in targets:
                    if target not in found:
                        found.add(target)
                        waiting.append(target)
        return frozenset(found)

    def _map_targets(self, name: str) -> list[str]:
        found = self._table.sets.get(name)
        if found is None or found.kind != "vmap":
            return []
        return [target for element in self._elements[name] for target in _targets(element.data)]

    def shadowed(self) -> Iterator[Finding]:
        """Yield rules behind one that has no further conditions and ends the chain."""
        for chain in self._table.chains.values():
            if len(chain.rules) > 1:
                yield from self._shadowed(chain)

    def _shadowed(self, chain: Chain) -> Iterator[Finding]:
        takers, changed = Takers(), False
        for rule, statements in zip(chain.rules, self._statements[chain.name], strict=True):
            conditions = frozenset(
                ("nft", json.dumps(one, sort_keys=True, default=str))
                for one in _matches(statements)
            )
            taker = takers.of(conditions)
            if taker is not None:
                why = f"rule {taker.number} before it takes every packet that it could match"
                service = service_in_chain(chain.name)
                place = self._place(chain.name, rule)
                yield Finding(Kind.SHADOWED, place, why, rule.text, service)
            elif _takes_all(statements) and not (changed and conditions):
                takers.add(Taker(rule.number, conditions))
            # What a rule that lets packets go on did to them is not followed: from here on only
            # rules without any condition take.
            if not _takes_all(statements) and not _is_check(statements):
                takers, changed = _unconditional(takers), True

    def _place(self, chain: str = "", rule: Rule | None = None) -> str:
        place = f"{self._table.family} {self._table.name} {chain}".rstrip()
        if rule is None:
            return place
        return f"{place} rule {rule.number}" + (f" handle {rule.handle}" if rule.handle else "")


def _unconditional(takers: Takers) -> Takers:
    found = takers.of(frozenset())
    kept = Takers()
    if found is not None:
        kept.add(found)
    return kept


def _statements(rule: Rule) -> Sequence[Json]:
    """Return a rule's statements as they were read: only names in them are looked for."""
    return rule.expressions if isinstance(rule.source, str) else rule.source


def _service_of(element: Element) -> str:
    found = service_in_comment(element.comment)
    if found:
        return found
    return next(filter(None, map(service_in_chain, _targets(element.data))), "")


def _targets(value: Json) -> Iterator[str]:
    """Yield the chains that verdicts anywhere in statements or data lead to."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in _JUMPS and isinstance(inner, Mapping) and "target" in inner:
                yield str(inner["target"])
            else:
                yield from _targets(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _targets(inner)


def _references(value: Json) -> Iterator[str]:
    """Yield the sets and maps that are asked or filled anywhere in statements."""
    if isinstance(value, str):
        if value.startswith("@"):
            yield value[1:]
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in ("flow", "comment", "log"):  # flowtables begin with @ as well
                yield from _references(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _references(inner)


def _name(statement: Json) -> str:
    return next(iter(statement), "") if isinstance(statement, Mapping) else ""


def _matches(statements: Sequence[Json]) -> list[Json]:
    return [one for one in statements if _name(one) not in _NEUTRAL | _ENDING]


def _takes_all(statements: Sequence[Json]) -> bool:
    """Return whether a rule surely ends the chain for every packet that has its conditions."""
    parts = [one for one in statements if _name(one) not in _NEUTRAL]
    if not parts or _name(parts[-1]) not in _ENDING:
        return False
    if _looks_up(parts[-1]):  # where a map has no such key, the next rule follows
        return False
    return all(_is_certain(one) for one in parts[:-1])


def _looks_up(value: Json) -> bool:
    """Return whether a map is asked anywhere in a statement."""
    if isinstance(value, Mapping):
        return "map" in value or any(map(_looks_up, value.values()))
    return isinstance(value, list | tuple) and any(map(_looks_up, value))


def _is_check(statements: Sequence[Json]) -> bool:
    """Return whether a rule does no more than ask, count and lead elsewhere by a plain verdict."""
    names = {_name(one) for one in statements} - _NEUTRAL - _ENDING
    return names <= {"match"}


def _is_certain(statement: Json) -> bool:
    if _name(statement) != "match":
        return False
    body = statement["match"]
    left = body.get("left") if isinstance(body, Mapping) else None
    if not isinstance(left, Mapping) or _name(left) not in _CERTAIN_LEFT:
        return False
    return not (_name(left) == "meta" and left["meta"].get("key") in _CHANGEABLE)
