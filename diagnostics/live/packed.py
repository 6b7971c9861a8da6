"""
Values as nf_tables keeps them in registers and set elements, and as nft prints them.

Numbers of data types are libnftables' (``enum datatypes``, stored with every set that nft makes).
Addresses and ports are big-endian, marks and other plain numbers have the host's byte order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from diagnostics.live.kernel import KernelSet, number, text
from diagnostics.nftables.constants import CT_STATES, CT_STATUSES, canonical
from diagnostics.nftables.data_types import Json
from proxy.netfilter.wire import attributes

INTEGER = "integer"
VERDICT = "verdict"
_VERDICT_TYPE = 0xFFFFFF00
_TYPES = {
    2: "nf_proto",
    4: INTEGER,
    7: "ipv4_addr",
    8: "ipv6_addr",
    12: "inet_proto",
    13: "inet_service",
    19: "mark",
    41: "ifname",
}
_LENGTHS = {
    "nf_proto": 1,
    "ipv4_addr": 4,
    "ipv6_addr": 16,
    "inet_proto": 1,
    "inet_service": 2,
    "mark": 4,
    "ifname": 16,
    INTEGER: 4,
}
_BIG_ENDIAN = frozenset({"inet_proto", "inet_service", "ether_type", "nf_proto", "pkt_type"})
_FLAGS = {"ct_state": CT_STATES, "ct_status": CT_STATUSES}
_VERDICTS = {0: "drop", 1: "accept", -1: "continue", -3: "jump", -4: "goto", -5: "return"}

# Of a set's user data: how its key and data were written, as libnftables keeps it.
_KEY_TYPEOF, _EXPRESSION, _EXPRESSION_DATA = 3, 0, 1
_NUMGEN, _CONCAT = 23, 13


class Undecoded(Exception):
    """Something of nf_tables whose meaning is left to nft; the text names it."""


def types_of(type_number: int) -> tuple[str, ...]:
    """
    Return the names of the types in a set's type number, six bits each.

    Raises:
        Undecoded: One of them is none of those that are known here.
    """
    if type_number == _VERDICT_TYPE:
        return (VERDICT,)
    parts: list[str] = []
    while type_number:
        name = _TYPES.get(type_number & 0x3F)
        if name is None:
            raise Undecoded(f"data type {type_number & 0x3F}")
        parts.append(name)
        type_number >>= 6
    return tuple(reversed(parts))


def key_types_of(found: KernelSet) -> tuple[str, ...]:
    """Return the types of a set's key; Undecoded if their widths or byte orders are not known."""
    types = types_of(found.key_type)
    lengths = [_LENGTHS[kind] for kind in types]
    total = lengths[0] if len(types) == 1 else sum(map(_padded, lengths))
    if not types or total != found.key_length:
        raise Undecoded(f"the key of set {found.name}")
    if INTEGER in types and not _integers_are_drawn(types, found):
        raise Undecoded(f"the byte order of a number in the key of set {found.name}")
    return types


def _integers_are_drawn(types: Sequence[str], found: KernelSet) -> bool:
    """
    Tell whether numbers in a key come out of ``numgen``, so that the host's byte order is theirs.

    An anonymous set is only ever used by the rule that it belongs to, which loads the number.
    """
    if found.flags & 1:
        return types == (INTEGER,)
    written = _records(found.user_data).get(_KEY_TYPEOF, b"")
    if len(types) == 1:
        return _expression_type(written) == _NUMGEN
    if _expression_type(written) != _CONCAT:
        return False
    fields = _records(_records(written).get(_EXPRESSION_DATA, b""))
    return all(
        _expression_type(fields.get(index, b"")) == _NUMGEN
        for index, kind in enumerate(types)
        if kind == INTEGER
    )


def _records(data: bytes) -> dict[int, bytes]:
    """Return libnftnl's user data by type: a byte of type, a byte of length, the value."""
    found, at = {}, 0
    while at + 2 <= len(data):
        end = at + 2 + data[at + 1]
        found[data[at]] = data[at + 2 : end]
        at = end
    return found


def comment_of(user_data: bytes) -> str:
    """Return the comment in a rule's or an element's user data, "" for none."""
    comment = _records(user_data).get(0, b"")
    return comment.rstrip(b"\0").decode(errors="replace")


def _expression_type(written: bytes) -> int:
    return int.from_bytes(_records(written).get(_EXPRESSION, b""), sys.byteorder)


def _padded(length: int) -> int:
    return (length + 3) & ~3


def split(data: bytes, types: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield each type with its bytes; fields of a concatenation are padded to four bytes."""
    at = 0
    for kind in types:
        length = _LENGTHS[kind]
        yield kind, data[at : at + length]
        at += _padded(length)


def joined(data: bytes, types: Sequence[str]) -> Json:
    """Return a key or data of a set as nft prints it: a constant or ``{"concat": […]}``."""
    parts = [constant(kind, part) for kind, part in split(data, types)]
    return parts[0] if len(parts) == 1 else {"concat": parts}


def constant(kind: str, data: bytes) -> Json:
    """Return one value of a data type as nft prints it."""
    if kind in ("ipv4_addr", "ipv6_addr"):
        return str(ip_address(data))
    if kind == "ifname":
        name = data.partition(b"\0")[0].decode(errors="replace")
        return name if b"\0" in data or len(data) >= _LENGTHS["ifname"] else f"{name}*"
    value = int.from_bytes(data, "big" if kind in _BIG_ENDIAN else sys.byteorder)
    if kind in _FLAGS:
        return flags(kind, value)
    return canonical(kind, value)


def flags(kind: str, value: int) -> Json:
    """Return the names of bits; Undecoded for a bit without one."""
    names = [name for name, bit in _FLAGS[kind].items() if value & bit]
    if not names or sum(_FLAGS[kind][name] for name in names) != value:
        raise Undecoded(f"{kind} {value:#x}")
    return names[0] if len(names) == 1 else names


def packed(kind: str, value: int) -> bytes:
    """Return a value, an integer as ``constants.pack`` makes them, padded to whole registers."""
    wide = kind in ("ipv4_addr", "ipv6_addr", "ifname") or kind in _BIG_ENDIAN
    data = value.to_bytes(_LENGTHS[kind], "big" if wide else sys.byteorder)
    return data.ljust(_padded(len(data)), b"\0")


def packed_key(types: Sequence[str], values: Sequence[int]) -> bytes:
    """Return a key as a set has it."""
    fields = [packed(kind, value) for kind, value in zip(types, values, strict=True)]
    return fields[0][: _LENGTHS[types[0]]] if len(fields) == 1 else b"".join(fields)


def verdict(data: memoryview) -> Json:
    """Return the verdict in an attribute, ``{"goto": {"target": …}}`` or ``{"drop": None}``."""
    found = attributes(data)
    code = int.from_bytes(found.get(1, b""), "big", signed=True)
    word = _VERDICTS.get(code)
    if word is None:
        raise Undecoded(f"verdict {code}")
    return {word: {"target": text(found[2])} if word in ("jump", "goto") else None}


def element(data: bytes, key: Sequence[str], mapped: Sequence[str]) -> Json:
    """Return an element with its attributes as libnftables-JSON(5) writes it."""
    found = attributes(data)
    shown: Json = joined(bytes(attributes(found[1]).get(1, b"")), key) if 1 in found else "*"
    extras: dict[str, Json] = {}
    if comment := comment_of(bytes(found.get(6, b""))):
        extras["comment"] = comment
    for name, at in (("timeout", 4), ("expires", 5)):
        if at in found:
            extras[name] = number(found[at]) // 1000
    if extras:
        shown = {"elem": {"val": shown, **extras}}
    if not mapped:
        return shown
    value = attributes(found[2])
    carried = verdict(value[2]) if mapped == (VERDICT,) else joined(bytes(value[1]), mapped)
    return [shown, carried]
