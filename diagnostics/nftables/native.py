"""
Rules that somebody added with nft to a chain of iptables.

iptables-nft lists them as far as it has words: ``ip saddr @bad drop`` becomes ``-j DROP``, a range
of addresses its last one (iptables 1.8.9). Of such rules only nft's own reading tells what they do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from diagnostics.nftables.data_types import Json
from diagnostics.nftables.model import Rule, Table

# A set by its name; "@th,0,16" is a place in a header.
_NAMED = re.compile(r"@(?!(?:ll|nh|th|ih),)\w|\bvmap\b")
_PORTS = frozenset({"sport", "dport"})
# What iptables-nft writes, and shows again as it was written.
_WRITTEN = frozenset(
    {"counter", "limit", "log", "xt", "opaque", "comment", "queue"}
    | {"accept", "drop", "jump", "goto", "return", "continue"}
)
_FIELDS = frozenset(
    {"saddr", "daddr", "protocol", "nexthdr", "frag-off", "ttl", "hoplimit", "type", "code"}
    | {"flags"} | _PORTS
)  # fmt: skip
_META = frozenset({"iifname", "oifname", "iif", "oif", "l4proto", "mark", "pkttype"})
_EXTENSIONS = ("xt", "opaque")


class NativeRules(Protocol):
    """Those of one table."""

    @property
    def table(self) -> Table:
        """The table as nft sees it, with its sets."""

    def of(self, chain: str, count: int) -> Mapping[int, Rule]:
        """Return the rules of a chain of *count* rules that iptables does not show whole."""


class TableNatives:
    """NativeRules of a table that was listed whole."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def of(self, chain: str, count: int) -> Mapping[int, Rule]:
        """Return the rules by their place from 0; {} when the two listings are of two times."""
        found = self.table.chains.get(chain)
        if found is None or len(found.rules) != count:
            return {}
        return {place: rule for place, rule in enumerate(found.rules) if is_native(rule)}


def is_native(rule: Rule) -> bool:
    """Return whether iptables cannot have written a rule, or would not show it whole."""
    if isinstance(rule.source, str):
        return bool(_NAMED.search(rule.source))
    if any(word in statement for statement in rule.source for word in _EXTENSIONS):
        return False
    return any(map(_is_foreign, rule.source))


def _is_foreign(statement: Json) -> bool:
    if not isinstance(statement, dict) or len(statement) != 1:
        return False
    name, body = next(iter(statement.items()))
    if name != "match" or not isinstance(body, dict):
        return name not in _WRITTEN
    left, right = body.get("left"), body.get("right")
    if isinstance(left, dict) and isinstance(left.get("&"), list):
        left = left["&"][0]
    field = _field(left)
    if not field:
        return True
    if isinstance(right, str):
        return right.startswith("@")
    if isinstance(right, dict) and not right.keys() & {"prefix", "|"}:
        return not (field in _PORTS and "range" in right)
    return field not in _PORTS and body.get("op") in ("<", ">", "<=", ">=")


def _field(left: Json) -> str:
    """Return the field that iptables has a word for, "" for any other."""
    if not isinstance(left, dict):
        return ""
    payload, meta = left.get("payload"), left.get("meta")
    if isinstance(payload, dict) and payload.get("field") in _FIELDS:
        return str(payload["field"])
    return str(meta["key"]) if isinstance(meta, dict) and meta.get("key") in _META else ""
