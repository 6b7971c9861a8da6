"""
What an nftables expression yields for a packet.

An expression has one value, several with a probability each (``numgen``), none, so that the rule
ends there (``NO_VALUE``), or one that only the kernel knows (``UNKNOWN``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

from diagnostics.nftables.constants import pack
from diagnostics.nftables.data_types import Json, key_types
from diagnostics.nftables.elements import Element, bits
from diagnostics.nftables.index import SetIndex, literal_index
from diagnostics.nftables.model import Table
from diagnostics.trace.facts import Facts, types_on
from diagnostics.trace.packet import PROTOCOLS, Address, Packet

Scalar = int | str | Address
Value = Scalar | tuple[Scalar, ...]


class Special(enum.Enum):
    """What is not a value."""

    NO_VALUE = "no value"
    UNKNOWN = "unknown"


NO_VALUE, UNKNOWN = Special.NO_VALUE, Special.UNKNOWN
Outcome = TypeVar("Outcome")
Values = list[tuple[Value | Special, Fraction]]
_ONE = Fraction(1)
_OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "&": int.__and__,
    "|": int.__or__,
    "^": int.__xor__,
    "<<": int.__lshift__,
    ">>": int.__rshift__,
}


# Of more than so many numbers rules use only parts; what these are is not followed.
_MOST_DRAWS = 1 << 12
# What spreads packets evenly, at random, in turn or by a hash of the packet.
_DRAWS = frozenset({"numgen", "jhash", "symhash"})


class Expressions:
    """Evaluates expressions of one table's rules."""

    def __init__(self, table: Table, facts: Facts) -> None:
        self._table = table
        self.facts = facts
        self._literals: dict[int, SetIndex] = {}

    def values(self, expression: Json, packet: Packet) -> Values:
        """Return the values of an expression with their probabilities."""
        if not isinstance(expression, dict) or not expression:
            return [(expression, _ONE)] if isinstance(expression, int | str) else _unknown()
        name, body = next(iter(expression.items()))
        if name == "concat":
            return self._concatenated(body, packet)
        if name in _DRAWS:
            return _drawn(body)
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
                (_joined(value, more), share if chance is _ONE else share * chance)
                for value, share in found
                for more, chance in self.values(part, packet)
            ]
        return found

    def elements(self, body: Json, packet: Packet) -> list[tuple[Element | Special, Fraction]]:
        """Return the elements of a map that a packet meets, with their probabilities."""
        found: list[tuple[Element | Special, Fraction]] = []
        for value, share in self.values(body["key"], packet):
            if isinstance(value, Special):
                found.append((value, share))
            else:
                found.append((self.lookup(body["data"], body["key"], value), share))
        return found

    def _mapped(self, body: Json, packet: Packet) -> Values:
        return merged(
            (element if isinstance(element, Special) else element.data, share)
            for element, share in self.elements(body, packet)
        )

    def _combined(self, act: Callable[[int, int], int], body: Json, packet: Packet) -> Values:
        kind = key_types(body[0])[0]
        return [
            (_calculated(act, left, right, kind), p if q is _ONE else p * q)
            for left, p in self._operand(body[0], packet)
            for right, q in self._operand(body[1], packet)
        ]

    def _operand(self, side: Json, packet: Packet) -> list[tuple[Json, Fraction]]:
        return [(side, _ONE)] if isinstance(side, list) else list(self.values(side, packet))

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
        flags = body["flags"]
        address = packet.src if "saddr" in flags else packet.dst
        if body.get("result") != "type":
            return self._fib_device(address, flags, packet)
        devices = [packet.iif] * ("iif" in flags) + [packet.oif] * ("oif" in flags)
        if devices:
            types = types_on(devices[0], address, self.facts)
        else:
            types = self.facts.address_types(address)
        return UNKNOWN if not types else next(iter(types)).lower()

    def _fib_device(self, address: Address, flags: Json, packet: Packet) -> Value | Special:
        """Return where packets to an address leave; "" for nowhere, as for the node's own."""
        if packet.iif == "lo":
            return "lo"  # nft_fib_is_loopback()
        if self.facts.is_local(address):
            return ""
        other = packet.dst if "saddr" in flags else packet.src
        mark = packet.mark if "mark" in flags else 0
        asked = replace(packet, src=other, dst=address, mark=mark, iif="")
        route, only = self.facts.route(address, asked), packet.iif if "iif" in flags else ""
        if route is None or only is None or not route.is_certain:
            return UNKNOWN
        leaves = not route.refusal and not route.is_local and only in ("", route.oif)
        return route.oif if leaves else ""


def merged(found: Iterable[tuple[Outcome, Fraction]]) -> list[tuple[Outcome, Fraction]]:
    """Return each outcome once, in the order of their first, with the sum of its probabilities."""
    listed = list(found)
    if len(listed) == 1:
        return listed
    shares: dict[str, tuple[Outcome, Fraction]] = {}
    for outcome, share in listed:
        key = repr(outcome)
        before = shares[key][1] if key in shares else Fraction(0)
        shares[key] = (outcome, before + share)
    return list(shares.values())


def how_drawn(expression: Json) -> str:
    """Say in words how an expression chooses, "" when it does not."""
    text = repr(expression)
    for sign, words in _DRAWN_HOW.items():
        if sign in text:
            return words
    return ""


_HASHED = "chosen by a hash: always the same for packets that share what is hashed"
_DRAWN_HOW = {
    "'jhash': {": _HASHED,
    "'symhash': {": _HASHED,
    "'mode': 'inc'": "taken in turn",
    "'mode': 'random'": "drawn at random",
}


def _drawn(body: Json) -> Values:
    count, offset = body.get("mod"), body.get("offset", 0)
    if not isinstance(count, int) or not isinstance(offset, int) or not 0 < count <= _MOST_DRAWS:
        return _unknown()
    return [(offset + number, Fraction(1, count)) for number in range(count)]


def _unknown() -> Values:
    return [(UNKNOWN, _ONE)]


def _joined(value: Value | Special, more: Value | Special) -> Value | Special:
    for part in (value, more):
        if isinstance(part, Special):
            return part
    assert isinstance(value, tuple)
    return (*value, *more) if isinstance(more, tuple) else (*value, more)  # type: ignore[arg-type]


def _calculated(
    act: Callable[[int, int], int], left: Json, right: Json, kind: str
) -> Value | Special:
    if NO_VALUE in (left, right):
        return NO_VALUE
    a, b = as_number(left, kind), as_number(right, kind)
    return UNKNOWN if a is None or b is None else act(a, b)


def as_number(value: Json, kind: str) -> int | None:
    """Return a constant, a list of flags or an address as a number, None for what is none."""
    if isinstance(value, list):
        return bits(value, kind)
    return pack(kind, value) if isinstance(value, int | str | Address) else None


def _payload(body: Json, packet: Packet) -> Value | Special:
    protocol, field = str(body.get("protocol")), str(body.get("field"))
    if "base" in body or protocol in _LINK_LAYER:
        return UNKNOWN
    if protocol in ("ip", "ip6"):
        return _address_field(field, packet) if protocol == _IP[packet.family] else NO_VALUE
    if protocol != "th" and PROTOCOLS.get(protocol.upper()) != packet.protocol:
        return NO_VALUE
    flags: Value = _SYN_ACK if packet.answers else "syn"
    ports: dict[str, Value | None] = {"dport": packet.dport, "sport": packet.sport, "flags": flags}
    found = ports.get(field)
    return UNKNOWN if found is None else found


_SYN_ACK = 0x12
_LINK_LAYER = frozenset({"ether", "vlan", "arp"})
_IP = {4: "ip", 6: "ip6"}


def _address_field(field: str, packet: Packet) -> Value | Special:
    fields: dict[str, Value] = {
        "saddr": packet.src,
        "daddr": packet.dst,
        "protocol": packet.protocol,
        "nexthdr": packet.protocol,
        "version": packet.family,
    }
    return fields.get(field, UNKNOWN)


def _meta(key: str, packet: Packet) -> Value | Special:
    version = packet.family
    if key in _OWNERS and packet.iif not in ("", "lo", None):
        return NO_VALUE  # a packet that was forwarded has no socket
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


_OWNERS = frozenset({"skuid", "skgid"})


_CONFIRMED_AND_ANSWERED = 8 | 2


def _ct(key: str, direction: str, packet: Packet) -> Value | Special:
    if packet.untracked:
        return "untracked" if key == "state" else NO_VALUE
    is_reply, packet = packet.answers is not None, replace(packet.opener, ct_mark=packet.ct_mark)
    address, port = packet.original
    known: dict[str, Value] = {
        "state": "established" if is_reply else "new",
        "status": packet.source_rewritten << 4
        | packet.is_translated << 5
        | is_reply * _CONFIRMED_AND_ANSWERED,
        "direction": "reply" if is_reply else "original",
        "mark": packet.ct_mark,
        "protocol": packet.protocol,
        "l3proto": f"ipv{packet.family}",
        "proto-dst": port,
        "ip daddr": address,
        "ip6 daddr": address,
        "ip saddr": packet.src,
        "ip6 saddr": packet.src,
    }
    if direction == "reply":
        # Answers come from where the packet goes now, and go to its source if that is kept.
        client: Value | Special = UNKNOWN if packet.source_rewritten else packet.src
        known |= {"ip saddr": packet.dst, "ip6 saddr": packet.dst, "proto-src": packet.dport}
        back = {"ip daddr": client, "ip6 daddr": client, "proto-dst": UNKNOWN}
        return back[key] if key in back else known.get(key, UNKNOWN)
    if key == "proto-src" and packet.sport is not None:
        return packet.sport
    return known.get(key, UNKNOWN)
