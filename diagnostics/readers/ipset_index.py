"""
The entries of one ipset, for lookups.

Entries that name single values are keys of a dictionary; networks are as well, in one dictionary
for each combination of prefix lengths, which are few; ranges are walked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from diagnostics.readers.problems import LineProblem, not_understood
from proxy.model.addresses import pack_address

_PROTOCOLS = {
    "icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58,
    "sctp": 132, "udplite": 136,
}  # fmt: skip
_ICMP = frozenset({1, 58})
_MOST_PROBLEMS = 100

Value = int | str | tuple[int, int]
Shape = tuple[int, ...]
"""Prefix length for each part that is an address or network, -1 for the others."""


@dataclass(frozen=True, slots=True)
class _Span:
    """A range of values, both ends included; of ports with their protocol."""

    first: Value
    last: Value

    def holds(self, value: Value) -> bool:
        if isinstance(value, tuple) and isinstance(self.first, tuple):
            return isinstance(self.last, tuple) and (
                value[0] == self.first[0] and self.first[1] <= value[1] <= self.last[1]
            )
        if isinstance(value, int) and isinstance(self.first, int) and isinstance(self.last, int):
            return self.first <= value <= self.last
        return self.first == value


@dataclass(slots=True)
class EntryIndex:
    """What ``build_index`` made; ``bits`` is the length of addresses, 0 when either may be."""

    parts: tuple[str, ...]
    bits: int
    shapes: dict[Shape, dict[tuple[Value, ...], bool]] = field(default_factory=dict)
    spans: list[tuple[_Span, ...]] = field(default_factory=list)
    icmp: bool = False
    known: bool = True
    problems: list[LineProblem] = field(default_factory=list)

    def contains(self, fields: Sequence[object]) -> bool | None:
        """As ``IpSet.contains``."""
        if not self.known or len(fields) < len(self.parts):
            return None
        values = []
        for part, given in zip(self.parts, fields, strict=False):
            value = _field(part, given, self.bits)
            if value is False:
                return False
            if value is None or isinstance(value, bool):
                return None if self.shapes or self.spans or self.problems else False
            values.append(value)
        return self._find(values)

    def _find(self, values: list[Value]) -> bool | None:
        for shape, entries in self.shapes.items():
            key = tuple(
                value
                if length < 0 or not isinstance(value, int)
                else _mask(value, length, self.bits)
                for value, length in zip(values, shape, strict=True)
            )
            found = entries.get(key)
            if found is not None:
                return found
        for spans in self.spans:
            if all(span.holds(value) for span, value in zip(spans, values, strict=True)):
                return True
        asks_icmp = any(isinstance(value, tuple) and value[0] in _ICMP for value in values)
        return None if self.problems or (self.icmp and asks_icmp) else False


def _mask(value: int, length: int, bits: int) -> int:
    return value >> (bits - length) << (bits - length) if length <= bits else value


def _field(part: str, given: object, bits: int) -> Value | bool | None:
    """Return a packet's field as entries have it; False: cannot match; None: not known."""
    if part in ("ip", "net"):
        if not isinstance(given, IPv4Address | IPv6Address):
            return None
        return int(given) if given.max_prefixlen == bits else False
    if part in ("port", "bitmap port"):
        return _port_field(part, given)
    if part == "mark":
        return given if isinstance(given, int) else None
    return given.lower() if isinstance(given, str) and given else None


def _port_field(part: str, given: object) -> Value | None:
    protocol, port = given if isinstance(given, tuple) and len(given) == 2 else (None, given)
    if not isinstance(port, int):
        return None
    if part == "bitmap port":
        return port
    return (protocol, port) if isinstance(protocol, int) else None


_Parse = Callable[[str], "tuple[Value, int] | _Span | None"]


def build_index(type_: str, options: Mapping[str, str], entries: Sequence[str]) -> EntryIndex:
    """
    Return the index of a set's entries.

    Args:
        type_: ``hash:ip,port``; a type that is not known makes every answer None.
        options: Those of the set; ``family`` and ``netmask`` matter.
        entries: As ``IpSet.entries``.
    """
    method, _, described = type_.partition(":")
    parts = tuple(described.split(","))
    bits = 128 if options.get("family") == "inet6" else 32
    parsers = [_parser(part, method, bits) for part in parts]
    index = EntryIndex(parts, bits)
    if method not in ("hash", "bitmap") or None in parsers:
        index.known = False
        return index
    if method == "bitmap" and parts == ("port",):
        index.parts = ("bitmap port",)  # it knows no protocol
    for number, entry in enumerate(entries, 1):
        _add(index, [parse for parse in parsers if parse], entry, number)
    index.shapes = dict(sorted(index.shapes.items(), reverse=True))
    if options.get("netmask", "").isdecimal():
        _widen(index, int(options["netmask"]))
    return index


def _widen(index: EntryIndex, netmask: int) -> None:
    """A hash:ip with a netmask masks what it is asked."""
    shapes: dict[Shape, dict[tuple[Value, ...], bool]] = {}
    for shape, entries in index.shapes.items():
        wider = tuple(netmask if length > netmask else length for length in shape)
        shapes.setdefault(wider, {}).update(entries)
    index.shapes = shapes


def _add(index: EntryIndex, parsers: list[_Parse], entry: str, number: int) -> None:
    described, _, options = entry.partition(" ")
    words = described.split(",")
    parsed = [parse(word) for parse, word in zip(parsers, words, strict=False)]
    if len(words) != len(parsers) or None in parsed:
        if "icmp" in described:
            index.icmp = True
        elif len(index.problems) < _MOST_PROBLEMS:
            index.problems.append(not_understood(number, "an ipset's entries", entry))
        return
    values, shape = [], []
    for one in parsed:
        if not isinstance(one, tuple):
            index.spans.append(tuple(_span(one, index.bits) for one in parsed if one))
            return
        values.append(one[0])
        shape.append(one[1])
    matches = not options or "nomatch" not in options.split('"')[0].split()
    index.shapes.setdefault(tuple(shape), {})[tuple(values)] = matches


def _span(one: tuple[Value, int] | _Span, bits: int) -> _Span:
    return one if isinstance(one, _Span) else _wide(*one, bits)


def _wide(value: Value, length: int, bits: int) -> _Span:
    if length < 0 or not isinstance(value, int):
        return _Span(value, value)
    return _Span(value, value + (1 << (bits - length)) - 1)


def _parser(part: str, method: str, bits: int) -> _Parse | None:
    if part in ("ip", "net"):
        return lambda word: _parse_address(word, bits)
    if part == "port":
        return _parse_bare_port if method == "bitmap" else _parse_port
    if part == "mark":
        return _parse_mark
    if part in ("mac", "iface"):
        return _parse_name
    return None


def _parse_address(word: str, bits: int) -> tuple[Value, int] | _Span | None:
    packed = pack_address(word)
    if packed is not None:  # nearly always
        return (int.from_bytes(packed, "big"), bits) if len(packed) * 8 == bits else None
    address, _, length = word.partition("/")
    packed = pack_address(address)
    if packed is None:
        first, dash, last = word.partition("-")
        ends = pack_address(first), pack_address(last)
        if not dash or ends[0] is None or ends[1] is None:
            return None
        return _Span(int.from_bytes(ends[0], "big"), int.from_bytes(ends[1], "big"))
    if len(packed) * 8 != bits:
        return None
    value = int.from_bytes(packed, "big")
    if not length.isdecimal() or int(length) > bits:
        return None
    return _mask(value, int(length), bits), int(length)


_PORT = re.compile(r"(?:([a-z0-9-]+):)?(\d+)(?:-(\d+))?")


@lru_cache(maxsize=4096)
def _parse_port(word: str) -> tuple[Value, int] | _Span | None:
    match = _PORT.fullmatch(word)
    if match is None:
        return None
    name = match[1] or "tcp"
    protocol = int(name) if name.isdecimal() else _PROTOCOLS.get(name)
    if protocol is None or protocol in _ICMP:
        return None
    first = int(match[2])
    if match[3]:
        return _Span((protocol, first), (protocol, int(match[3])))
    return (protocol, first), -1


def _parse_bare_port(word: str) -> tuple[Value, int] | _Span | None:
    match = _PORT.fullmatch(word)
    if match is None:
        return None
    if match[3]:
        return _Span(int(match[2]), int(match[3]))
    return int(match[2]), -1


def _parse_mark(word: str) -> tuple[Value, int] | None:
    try:
        return int(word, 0), -1
    except ValueError:
        return None


def _parse_name(word: str) -> tuple[Value, int] | None:
    return (word.lower(), -1) if word else None
