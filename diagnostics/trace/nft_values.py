"""
What an nftables expression yields for a packet.

An expression has one value, several with a probability each (``numgen``), none, so that the rule
ends there (``NO_VALUE``), or one that only the kernel knows (``UNKNOWN``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from fractions import Fraction

from diagnostics.nftables.data_types import Json, key_types
from diagnostics.nftables.elements import Element
from diagnostics.nftables.index import SetIndex, literal_index
from diagnostics.nftables.model import Table
from diagnostics.trace.facts import Facts
from diagnostics.trace.packet import PROTOCOLS, Address, Packet

Scalar = int | str | Address
Value = Scalar | tuple[Scalar, ...]


class Special(enum.Enum):
    """What is not a value."""

    NO_VALUE = "no value"
    UNKNOWN = "unknown"


NO_VALUE, UNKNOWN = Special.NO_VALUE, Special.UNKNOWN
Values = list[tuple[Value | Special, Fraction]]
_ONE = Fraction(1)
_OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "&": int.__and__,
    "|": int.__or__,
    "^": int.__xor__,
    "<<": int.__lshift__,
    ">>": int.__rshift__,
}


# What spreads packets evenly, at random, in turn or by a hash of the packet.
_DRAWS = frozenset({"numgen", "jhash", "symhash"})


class Expressions:
    """Evaluates expressions of one table's rules."""

    def __init__(self, table: Table, facts: Facts) -> None:
        self._table = table
        self._facts = facts
        self._literals: dict[int, SetIndex] = {}

    def values(self, expression: Json, packet: Packet) -> Values:
        """Return the values of an expression with their probabilities."""
        if not isinstance(expression, dict) or not expression:
            return [(expression, _ONE)] if isinstance(expression, int | str) else _unknown()
        name, body = next(iter(expression.items()))
        if name == "concat":
            return self._concatenated(body, packet)
        if name in _DRAWS and body.get("mod"):
            return _drawn(int(body["mod"]), int(body.get("offset", 0)))
        if name == "map":
            return self._mapped(body, packet)
        if name in _OPERATIONS:
            return self._combined(_OPERATIONS[name], body, packet)
        return [(self._field(name, body, packet), _ONE)]

    def lookup(self, data: Json, key: Json, value: Value) -> Element | Special:
        """Return the element of a set or map (``@name`` or anonymous) for a value of *key*."""
        index = self._index(data, key)
        if index is None:
            return UNKNOWN
        found = index.lookup(value if isinstance(value, tuple) else (value,))
        if found is None:
            return UNKNOWN if index.opaque else NO_VALUE
        return found

    def _index(self, data: Json, key: Json) -> SetIndex | None:
        if isinstance(data, str) and data.startswith("@"):
            named = self._table.sets.get(data[1:])
            return None if named is None else named.index
        if id(data) not in self._literals:
            self._literals[id(data)] = literal_index(data, key_types(key))
        return self._literals[id(data)]

    def _concatenated(self, parts: list[Json], packet: Packet) -> Values:
        found: Values = [((), _ONE)]
        for part in parts:
            found = [
                (_joined(value, more), share * chance)
                for value, share in found
                for more, chance in self.values(part, packet)
            ]
        return found

    def _mapped(self, body: Json, packet: Packet) -> Values:
        found: Values = []
        for value, share in self.values(body["key"], packet):
            if isinstance(value, Special):
                found.append((value, share))
                continue
            element = self.lookup(body["data"], body["key"], value)
            found.append((element if isinstance(element, Special) else element.data, share))
        return found

    def _combined(self, act: Callable[[int, int], int], body: Json, packet: Packet) -> Values:
        left, right = (self.values(side, packet) for side in body)
        return [
            (act(a, b) if isinstance(a, int) and isinstance(b, int) else UNKNOWN, p * q)
            for a, p in left
            for b, q in right
        ]

    def _field(self, name: str, body: Json, packet: Packet) -> Value | Special:
        if name == "payload":
            return _payload(body, packet)
        if name == "meta":
            return _meta(str(body.get("key")), packet)
        if name == "ct":
            return _ct(str(body.get("key")), str(body.get("dir", "original")), packet)
        if name == "fib":
            return self._fib(body, packet)
        return UNKNOWN

    def _fib(self, body: Json, packet: Packet) -> Value | Special:
        if body.get("result") != "type":
            return UNKNOWN
        address = packet.src if "saddr" in body["flags"] else packet.dst
        types = self._facts.address_types(address)
        return UNKNOWN if not types else next(iter(types)).lower()


def _drawn(count: int, offset: int) -> Values:
    return [(offset + number, Fraction(1, count)) for number in range(count)]


def _unknown() -> Values:
    return [(UNKNOWN, _ONE)]


def _joined(value: Value | Special, more: Value | Special) -> Value | Special:
    for part in (value, more):
        if isinstance(part, Special):
            return part
    assert isinstance(value, tuple)
    return (*value, *more) if isinstance(more, tuple) else (*value, more)  # type: ignore[arg-type]


def _payload(body: Json, packet: Packet) -> Value | Special:
    protocol, field = str(body.get("protocol")), str(body.get("field"))
    if protocol in ("ip", "ip6"):
        return _address_field(field, packet) if protocol == _IP[packet.family] else NO_VALUE
    if protocol != "th" and PROTOCOLS.get(protocol.upper()) != packet.protocol:
        return NO_VALUE
    ports: dict[str, Value | None] = {"dport": packet.dport, "sport": packet.sport, "flags": "syn"}
    found = ports.get(field)
    return UNKNOWN if found is None else found


_IP = {4: "ip", 6: "ip6"}


def _address_field(field: str, packet: Packet) -> Value | Special:
    fields: dict[str, Value] = {
        "saddr": packet.src,
        "daddr": packet.dst,
        "protocol": packet.protocol,
        "nexthdr": packet.protocol,
    }
    return fields.get(field, UNKNOWN)


def _meta(key: str, packet: Packet) -> Value | Special:
    version = packet.family
    known: dict[str, Value | None] = {
        "l4proto": packet.protocol,
        "mark": packet.mark,
        "iifname": packet.iif,
        "oifname": packet.oif,
        "iif": packet.iif,
        "oif": packet.oif,
        "nfproto": f"ipv{version}",
        "protocol": "ip" if version == 4 else "ip6",
    }
    found = known.get(key)
    return UNKNOWN if found is None else found


def _ct(key: str, direction: str, packet: Packet) -> Value | Special:
    address, port = packet.original
    known: dict[str, Value] = {
        "state": "new",
        "direction": "original",
        "mark": packet.ct_mark,
        "protocol": packet.protocol,
        "l3proto": f"ipv{packet.family}",
        "proto-dst": port,
        "ip daddr": address,
        "ip6 daddr": address,
        "ip saddr": packet.src,
        "ip6 saddr": packet.src,
    }
    if direction == "reply" and key not in ("state", "mark", "protocol", "l3proto"):
        return UNKNOWN
    return known.get(key, UNKNOWN)
