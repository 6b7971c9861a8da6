"""``ip -j route`` and ``ip -j rule``, or their plain text: routes by table and policy rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from diagnostics.readers.addresses import Address, json_rows, parse_address
from diagnostics.readers.problems import LineProblem, not_understood

Network = IPv4Network | IPv6Network

TYPES = frozenset(
    {"unicast", "local", "broadcast", "multicast", "anycast", "unreachable", "prohibit",
     "blackhole", "throw", "nat"}
)  # fmt: skip
_TABLES = {"255": "local", "254": "main", "253": "default"}
_FLAG_WORDS = frozenset(
    {"onlink", "dead", "linkdown", "pervasive", "offload", "trap", "rt_offload"}
)


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a route leads; ``device`` is "" for routes that lead nowhere (unreachable)."""

    device: str
    gateway: Address | None = None
    weight: int = 1


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """One route; ``type`` is ip-route(8)'s name, ``source`` the preferred one if it tells any."""

    network: Network
    hops: tuple[NextHop, ...]
    type: str = "unicast"
    table: str = "main"
    source: Address | None = None
    metric: int = 0
    dead: bool = False


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """
    One policy rule; None and "" match everything.

    ``other`` are selectors that a packet as we know it has not (uidrange, tos, l3mdev): such a
    rule can be neither followed nor ruled out.
    """

    priority: int
    action: str = "lookup"
    table: str = "main"
    source: Network | None = None
    destination: Network | None = None
    mark: int | None = None
    mask: int = 0xFFFFFFFF
    iif: str = ""
    oif: str = ""
    inverted: bool = False
    suppress_prefix: int = -1
    other: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteDump:
    """The routes of one dump."""

    routes: tuple[RouteEntry, ...]
    problems: tuple[LineProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleDump:
    """The policy rules of one dump."""

    rules: tuple[RuleEntry, ...]
    problems: tuple[LineProblem, ...] = ()


def parse_net(text: str, version: int = 4) -> Network | None:
    """Return the network of ``10.0.0.0/8``, ``10.0.0.1`` or ``default`` (of IP *version*)."""
    if text in ("default", "all", "any"):
        text = "0.0.0.0/0" if version == 4 else "::/0"
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def read_routes(text: str, version: int = 4) -> RouteDump:
    """
    Return the routes in *text*.

    Args:
        text: What ``ip -j route`` or ``ip route`` prints, of one table or of all.
        version: 4 or 6, for the word ``default`` where nothing else of the line tells.
    """
    if text.lstrip().startswith("["):
        return _read_json(text, version)
    return _read_text(text, version)


def _read_json(text: str, version: int) -> RouteDump:
    rows, problems = json_rows(text, "ip -j route")
    routes = []
    for row in rows:
        if not row:
            continue
        route = _route(row, version)
        if route is None:
            problems.append(LineProblem(0, f"a route without a destination: {str(row)[:80]}"))
        else:
            routes.append(route)
    return RouteDump(tuple(routes), tuple(problems))


def _route(row: Mapping[str, Any], version: int) -> RouteEntry | None:
    hops = row.get("nexthops")
    nexts = [hop for hop in hops if isinstance(hop, dict)] if isinstance(hops, list) else [row]
    via = [_hop(hop) for hop in nexts]
    source = parse_address(str(row.get("prefsrc", "")))
    known = [hop.gateway for hop in via if hop.gateway] + [source]
    version = next((address.version for address in known if address), version)
    network = parse_net(str(row.get("dst", "")), version)
    if network is None:
        return None
    kind = str(row.get("type", "unicast"))
    flags = row.get("flags")
    table = str(row.get("table", "main"))
    metric = row.get("metric", 0)
    return RouteEntry(
        network,
        tuple(hop for hop in via if hop.device),
        kind if kind in TYPES else "unicast",
        _TABLES.get(table, table),
        source,
        metric if isinstance(metric, int) else 0,
        isinstance(flags, list) and "dead" in flags,
    )


def _hop(row: Mapping[str, Any]) -> NextHop:
    via = row.get("via")
    gateway = via.get("host") if isinstance(via, dict) else row.get("gateway")
    weight = row.get("weight", 1)
    return NextHop(
        str(row.get("dev", "")),
        parse_address(str(gateway or "")),
        weight if isinstance(weight, int) else 1,
    )


def _read_text(text: str, version: int) -> RouteDump:
    rows: list[tuple[int, dict[str, Any]]] = []
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if words[0] == "nexthop":
            if rows:
                rows[-1][1].setdefault("nexthops", []).append(_pairs(words[1:]))
            else:
                problems.append(not_understood(number, "ip route", line))
            continue
        rows.append((number, _words_to_row(words)))
    routes = []
    for number, row in rows:
        route = _route(row, version)
        if route is None:
            problems.append(not_understood(number, "ip route", " ".join(map(str, row.values()))))
        else:
            routes.append(route)
    return RouteDump(tuple(routes), tuple(problems))


def _words_to_row(words: Sequence[str]) -> dict[str, Any]:
    """Turn the words of a line into what ``ip -j`` would have said."""
    row: dict[str, Any] = {}
    if words[0] in TYPES:
        row["type"], words = words[0], words[1:]
    return row | {"dst": words[0] if words else ""} | _pairs(words[1:])


def _pairs(words: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"flags": [word for word in words if word in _FLAG_WORDS]}
    names = {"via": "gateway", "dev": "dev", "table": "table", "src": "prefsrc"}
    rest = [word for word in words if word not in _FLAG_WORDS]
    position = 0
    while position < len(rest) - 1:
        word, value = rest[position], rest[position + 1]
        position += 2
        if word == "via" and value in ("inet", "inet6"):
            value = rest[position] if position < len(rest) else ""
            position += 1
        if word in ("metric", "weight"):
            row[word] = int(value) if value.isdecimal() else 0
        elif word in names:
            row[names[word]] = value
    return row


_RULE_LINE = re.compile(r"(\d+):\s+(.*)")
_KNOWN_RULE_WORDS = frozenset(
    {"from", "to", "fwmark", "iif", "oif", "lookup", "table", "suppress_prefixlength", "proto"}
)
_ACTIONS = frozenset({"unreachable", "prohibit", "blackhole", "nop"})


def read_rules(text: str, version: int = 4) -> RuleDump:
    """Return the policy rules in the output of ``ip -j rule`` or ``ip rule``."""
    if text.lstrip().startswith("["):
        rows, problems = json_rows(text, "ip -j rule")
        rules = [_json_rule(row, version) for row in rows if row]
        return RuleDump(_sorted(rules), tuple(problems))
    rules, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _RULE_LINE.fullmatch(line.strip())
        if match is None:
            problems.append(not_understood(number, "ip rule", line))
        else:
            rules.append(_text_rule(int(match[1]), match[2].split(), version))
    return RuleDump(_sorted(rules), tuple(problems))


def _sorted(rules: Sequence[RuleEntry]) -> tuple[RuleEntry, ...]:
    return tuple(sorted(rules, key=lambda rule: rule.priority))


_JSON_RULE_FIELDS = frozenset(
    {"priority", "src", "srclen", "dst", "dstlen", "fwmark", "fwmask", "iif", "oif", "table",
     "not", "action", "suppress_prefixlen", "protocol", "iif_detached", "oif_detached",
     "unresolved", "suppress_ifgroup"}
)  # fmt: skip


def _json_rule(row: Mapping[str, Any], version: int) -> RuleEntry:
    def network(field: str) -> Network | None:
        text = str(row.get(field, "all"))
        length = row.get(f"{field}len")
        return None if text == "all" else parse_net(f"{text}/{length}" if length else text, version)

    priority, suppress = row.get("priority"), str(row.get("suppress_prefixlen"))
    table = str(row.get("table", "main"))
    return RuleEntry(
        priority if isinstance(priority, int) else 0,
        str(row.get("action", "lookup")),
        _TABLES.get(table, table),
        network("src"),
        network("dst"),
        _number(row.get("fwmark")),
        _number(row.get("fwmask")) or 0xFFFFFFFF,
        str(row.get("iif", "")),
        str(row.get("oif", "")),
        "not" in row,
        int(suppress) if suppress.isdecimal() else -1,
        tuple(sorted(map(str, row.keys() - _JSON_RULE_FIELDS))),
    )


def _number(value: object) -> int | None:
    try:
        return None if value is None else int(str(value), 0)
    except ValueError:
        return None


def _text_rule(priority: int, words: Sequence[str], version: int) -> RuleEntry:
    inverted = "not" in words
    words = [word for word in words if word != "not"]
    action = next((word for word in words if word in _ACTIONS), "lookup")
    rest = [word for word in words if word not in _ACTIONS and not word.startswith("[")]
    pairs = dict(zip(rest[::2], rest[1::2], strict=False))
    table = pairs.get("lookup", pairs.get("table", "main"))
    mark, _, mask = pairs.get("fwmark", "").partition("/")
    suppress = pairs.get("suppress_prefixlength", "")
    return RuleEntry(
        priority,
        action,
        _TABLES.get(table, table),
        None if pairs.get("from", "all") == "all" else parse_net(pairs["from"], version),
        None if pairs.get("to", "all") == "all" else parse_net(pairs["to"], version),
        _number(mark or None),
        _number(mask or None) or 0xFFFFFFFF,
        pairs.get("iif", ""),
        pairs.get("oif", ""),
        inverted,
        int(suppress) if suppress.isdecimal() else -1,
        tuple(sorted(pairs.keys() - _KNOWN_RULE_WORDS)),
    )
