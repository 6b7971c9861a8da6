"""Reads what ``nft list ruleset`` and ``nft list table`` print, also with ``-a`` and ``-n``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from diagnostics.nftables.collector import paused_collector
from diagnostics.nftables.constants import priority_number
from diagnostics.nftables.data_types import key_types
from diagnostics.nftables.expressions import parse_key
from diagnostics.nftables.json_reader import set_kind
from diagnostics.nftables.model import Chain, NamedSet, NftRuleset, Rule, Table
from diagnostics.nftables.tokens import Unparsed, Words
from diagnostics.nftables.values import seconds

_TABLE = re.compile(r"table (?:(\w+) )?(\S+) \{")
_BLOCK = re.compile(r"(set|map|chain) (\S+) \{")
_OTHER_BLOCK = re.compile(r"(?:flowtable|counter|quota|limit|ct \w+|secmark|synproxy) .*\{")
_HOOK = re.compile(
    r'type (?P<type>\w+) hook (?P<hook>\w+)(?: device "?(?P<device>[^"\s]+)"?)?'
    r"(?: devices = \{(?P<devices>[^}]*)\})? priority (?P<priority>[^;]+);?"
    r"(?:\s*policy (?P<policy>\w+);?)?"
)
_COMMENT = re.compile(r'comment "([^"]*)"')
_LAST_COMMENT = re.compile(r'(?:^| )comment "([^"]*)"$')
_HANDLE = re.compile(r"\s*# handle (\d+)$", re.ASCII)
_QUOTED = re.compile(r'"[^"]*"')
# Lines outside of tables that scripts have and listings do not.
_SCRIPT_LINES = ("delete table", "flush ruleset", "table ", "destroy table")


def read_text(text: str) -> NftRuleset:
    """
    Return the ruleset of a listing; one table, several, or listings one after another.

    Never raises on bad input: ``gaps`` says which lines were not understood, or that the end is
    missing. A chain or set that comes twice counts as it came last.
    """
    with paused_collector():
        return _Reader(text).ruleset()


@dataclass(slots=True)
class _Parts:
    comment: str = ""
    flags: frozenset[str] = frozenset()
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, NamedSet] = field(default_factory=dict)


class _Reader:
    def __init__(self, text: str) -> None:
        self._lines = iter(text.split("\n"))
        self._number = 0
        self._gaps: list[str] = []
        self._tables: dict[tuple[str, str], _Parts] = {}

    def ruleset(self) -> NftRuleset:
        for line in self._stripped():
            match = _TABLE.match(line)
            if match is not None:
                key = match[1] or "ip", match[2]
                self._table(key[0], self._tables.setdefault(key, _Parts()))
            elif not line.startswith(_SCRIPT_LINES):
                self._gap(line)
        tables = {
            key: Table(*key, parts.chains, parts.sets, parts.comment, parts.flags)
            for key, parts in self._tables.items()
        }
        return NftRuleset(tables, tuple(self._gaps))

    def _stripped(self) -> Iterator[str]:
        """Yield lines with content, without white space around them."""
        for line in self._lines:
            self._number += 1
            stripped = line.strip()
            if stripped and not stripped.startswith("#"):
                yield stripped

    def _gap(self, line: str) -> None:
        self._gaps.append(f"line {self._number} is not understood: {line[:100]}")

    def _table(self, family: str, parts: _Parts) -> None:
        for line in self._stripped():
            if line == "}":
                return
            match = _BLOCK.match(line)
            if match is not None and match[1] == "chain":
                parts.chains[match[2]] = self._chain(match[2], family)
            elif match is not None:
                parts.sets[match[2]] = self._set(match[1], match[2])
            elif comment := _COMMENT.match(line):
                parts.comment = comment[1]
            elif line.startswith("flags "):
                parts.flags = _flags(line.removeprefix("flags "))
            elif _OTHER_BLOCK.match(line):
                self._skip_block(line)
            else:
                self._gap(line)
        self._gaps.append("the listing ends inside a table")

    def _skip_block(self, line: str) -> None:
        depth = _depth(line)
        while depth > 0 and (line := next(self._stripped(), "")):
            depth += _depth(line)

    def _chain(self, name: str, family: str) -> Chain:
        head: re.Match[str] | None = None
        comment = ""
        rules: list[Rule] = []
        for line in self._stripped():
            if line == "}":
                break
            if line.startswith("type ") and (match := _HOOK.match(line)):
                head = match
            elif not rules and (match := _COMMENT.match(line)):
                comment = match[1]
            else:
                rules.append(_rule(self._whole(line), len(rules) + 1, family))
        return _made_chain(name, head, family, tuple(rules), comment)

    def _whole(self, line: str) -> str:
        """Return a statement that may go on over more lines."""
        depth = _depth(line)
        if depth <= 0:
            return line
        parts = [line]
        while depth > 0 and (line := next(self._stripped(), "")):
            parts.append(line)
            depth += _depth(line)
        return " ".join(parts)

    def _set(self, block: str, name: str) -> NamedSet:
        found: dict[str, str] = {}
        for line in self._stripped():
            if line == "}":
                break
            word, _, rest = line.partition(" ")
            if word == "elements":
                found[word] = self._whole(line).partition("{")[2].removesuffix("}")
            else:
                found[word] = rest.strip().rstrip(";")
        return _made_set(block, name, found)


def _depth(line: str) -> int:
    """Return how many braces a line opens more than it closes."""
    if '"' in line:
        line = _QUOTED.sub("", line)
    return line.count("{") - line.count("}")


def _rule(line: str, number: int, family: str) -> Rule:
    handle = None
    if match := _HANDLE.search(line):
        line, handle = line[: match.start()], int(match[1])
    line, comment = line.rstrip(";"), ""
    if line.endswith('"') and (match := _LAST_COMMENT.search(line)):
        line, comment = line[: match.start()], match[1]
    return Rule(handle, number, family, line, comment)


def _made_chain(
    name: str, head: re.Match[str] | None, family: str, rules: tuple[Rule, ...], comment: str
) -> Chain:
    if head is None:
        return Chain(name, None, None, 0, None, None, rules, comment)
    devices = [part.strip(' "') for part in (head["devices"] or "").split(",") if part.strip()]
    return Chain(
        name,
        head["hook"],
        head["type"],
        priority_number(head["priority"], family),
        head["policy"] or "accept",
        head["device"] or ", ".join(devices) or None,
        rules,
        comment,
    )


def _flags(text: str) -> frozenset[str]:
    return frozenset(flag.strip() for flag in text.rstrip(";").split(",") if flag.strip())


def _made_set(block: str, name: str, found: dict[str, str]) -> NamedSet:
    declared = found.get("type") or found.get("typeof") or ""
    key, _, data = declared.partition(" : ")
    by_expression = "typeof" in found
    data_types = _types(data.removeprefix("interval "), by_expression) if block == "map" else ()
    size = found.get("size", "").partition("#")[0].strip()
    return NamedSet(
        name,
        set_kind(data_types),
        _types(key, by_expression),
        data_types,
        _flags(found.get("flags", "")),
        seconds(found.get("timeout", "")),
        int(size) if size.isdecimal() else None,
        found.get("comment", "").strip('"'),
        found.get("elements", ""),
    )


def _types(text: str, by_expression: bool) -> tuple[str, ...]:
    if not by_expression or text == "verdict":
        return tuple(part.strip() for part in text.split(" . "))
    words = Words(text)
    try:
        return key_types(parse_key(words))
    except (Unparsed, RecursionError):
        return ("integer",) * (text.count(" . ") + 1)
