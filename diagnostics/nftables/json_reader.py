"""Reads what ``nft -j list ruleset`` prints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import msgspec

from diagnostics.nftables.collector import paused_collector
from diagnostics.nftables.data_types import Json, key_types
from diagnostics.nftables.model import Chain, NamedSet, NftRuleset, Rule, Table

_OBJECT = re.compile(r'\{\s*"(?:table|chain|rule|set|map)"\s*:\s*\{')
_ERRORS = (AttributeError, KeyError, TypeError, ValueError)


def read_json(data: str | bytes) -> NftRuleset:
    """
    Return the ruleset of ``nft -j list ruleset`` or ``list table``, of any version of nft.

    Never raises on bad input: of a dump that was cut, or that has other output around it, all whole
    objects are taken; ``gaps`` says what is missing.
    """
    reader = _Reader()
    with paused_collector():
        for item in _items(data, reader.gaps):
            reader.add(item)
    return reader.ruleset()


def _items(data: str | bytes, gaps: list[str]) -> Iterable[Json]:
    try:
        decoded = msgspec.json.decode(data)
        return decoded["nftables"] if isinstance(decoded["nftables"], list) else []
    except (msgspec.DecodeError, RecursionError, *_ERRORS):
        text = data.decode(errors="replace") if isinstance(data, bytes) else data
        return _whole_objects(text, gaps)


def _whole_objects(text: str, gaps: list[str]) -> Iterator[Json]:
    decoder, at, found = json.JSONDecoder(), 0, False
    while (match := _OBJECT.search(text, at)) is not None:
        try:
            item, at = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            gaps.append(f"an object at character {match.start()} is not whole")
            at = match.end()
        else:
            found = True
            yield item
    if not found:
        gaps.append("this is no output of nft -j")


@dataclass(slots=True)
class _Parts:
    """A table while its objects come in."""

    comment: str = ""
    flags: frozenset[str] = frozenset()
    chains: dict[str, Chain] = field(default_factory=dict)
    rules: dict[str, list[Rule]] = field(default_factory=dict)
    sets: dict[str, NamedSet] = field(default_factory=dict)


class _Reader:
    def __init__(self) -> None:
        self.gaps: list[str] = []
        self._tables: dict[tuple[str, str], _Parts] = {}
        self._kinds: dict[str, Callable[[Json], None]] = {
            "table": self._table,
            "chain": self._chain,
            "rule": self._rule,
            "set": self._set,
            "map": self._set,
        }

    def add(self, item: Json) -> None:
        """Take in one object; note it as a gap when it is none of nft's."""
        try:
            kind, body = next(iter(item.items()))
            if kind in self._kinds:
                self._kinds[kind](body)
        except (StopIteration, *_ERRORS):
            self.gaps.append(f"not understood: {str(item)[:100]}")

    def ruleset(self) -> NftRuleset:
        """Return all that was taken in."""
        tables = {key: _finished(key, parts) for key, parts in self._tables.items()}
        return NftRuleset(tables, tuple(self.gaps))

    def _parts(self, body: Json) -> _Parts:
        return self._tables.setdefault((_text(body["family"]), _text(body["table"])), _Parts())

    def _table(self, body: Json) -> None:
        key = _text(body["family"]), _text(body["name"])
        parts = self._tables.setdefault(key, _Parts())
        parts.comment, parts.flags = _optional(body, "comment"), _flags(body)

    def _chain(self, body: Json) -> None:
        hook = _optional(body, "hook") or None
        device = body.get("dev") or []
        priority = body.get("prio", 0)
        if not isinstance(priority, int):
            raise TypeError
        name = _text(body["name"])
        self._parts(body).chains[name] = Chain(
            name,
            hook,
            _optional(body, "type") or None,
            priority,
            (_optional(body, "policy") or "accept") if hook else None,
            ", ".join(map(str, device if isinstance(device, list) else [device])) or None,
            (),
            _optional(body, "comment"),
        )

    def _rule(self, body: Json) -> None:
        statements = body.get("expr", [])
        if not isinstance(statements, list):
            raise TypeError
        rules = self._parts(body).rules.setdefault(_text(body["chain"]), [])
        rules.append(
            Rule(
                _number(body.get("handle")),
                len(rules) + 1,
                _text(body["family"]),
                tuple(statements),
                _optional(body, "comment"),
            )
        )

    def _set(self, body: Json) -> None:
        name, elements = _text(body["name"]), body.get("elem") or ()
        if not isinstance(elements, (list, tuple)):
            raise TypeError
        data = _types(body["map"]) if "map" in body else ()
        self._parts(body).sets[name] = NamedSet(
            name,
            set_kind(data),
            _types(body["type"]),
            data,
            _flags(body),
            _number(body.get("timeout")),
            _number(body.get("size")),
            _optional(body, "comment"),
            tuple(elements),
        )


def set_kind(data_types: tuple[str, ...]) -> str:
    """Return ``set``, ``map`` or ``vmap`` by the data types."""
    if data_types == ("verdict",):
        return "vmap"
    return "map" if data_types else "set"


def _types(value: Json) -> tuple[str, ...]:
    """Return data types from ``"a"``, ``"a . b"``, ``["a", "b"]`` or ``{"typeof": expression}``."""
    if isinstance(value, dict):
        return key_types(value["typeof"])
    if isinstance(value, str):
        return tuple(value.split(" . "))
    return tuple(_text(part) for part in value)


def _number(value: Json) -> int | None:
    return value if isinstance(value, int) else None


def _flags(body: Json) -> frozenset[str]:
    flags = body.get("flags", [])
    return frozenset([flags] if isinstance(flags, str) else flags)


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _optional(body: Json, name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""


def _finished(key: tuple[str, str], parts: _Parts) -> Table:
    chains = dict(parts.chains)
    for name, rules in parts.rules.items():
        chain = chains.get(name) or Chain(name, None, None, 0, None, None, ())
        chains[name] = replace(chain, rules=tuple(rules))
    return Table(*key, chains, parts.sets, parts.comment, parts.flags)
