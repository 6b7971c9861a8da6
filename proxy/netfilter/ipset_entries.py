"""
The bytes of ipset entries.

The kernel lists an entry with the attributes that it wants to add it, always in the same order,
so that one fixed layout for each type of set serves both directions; sets have tens of thousands
of entries. Numbers are those of ``linux/netfilter/ipset/ip_set.h``.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from proxy.netfilter.ipset import SetEntry
from proxy.netfilter.wire import NLA_F_NESTED, attributes, iterate_attributes

_DATA = 7
_KINDS = {"address": 1, "port": 4, "protocol": 7, "other": 20, "prefix": 21}  # IPSET_ATTR_*
_IPV4, _IPV6 = 1, 2  # IPSET_ATTR_IPADDR_*
_NETWORK_ORDER = 0x4000

# What entries of a type consist of, by SetEntry's names in the kernel's order.
_FIELDS = {
    "hash:ip": ("address",),
    "hash:ip,port": ("address", "port", "protocol"),
    "hash:ip,port,ip": ("address", "other", "port", "protocol"),
    "hash:ip,port,net": ("address", "other", "port", "prefix", "protocol"),
    "bitmap:port": ("port",),
}


@lru_cache(maxsize=16)
def layout_of(set_type: str, bits: int) -> EntryLayout:
    """Return how entries of a type are written; raises ValueError for a type not in use here."""
    if set_type not in _FIELDS:
        raise ValueError(f"entries of sets of type {set_type} cannot be read")
    return EntryLayout(_FIELDS[set_type], bits)


class EntryLayout:
    """How entries of one type look; *bits* is the length of its addresses, if it has any."""

    def __init__(self, fields: tuple[str, ...], bits: int) -> None:
        self._fields = fields
        self._positions = tuple(map(SetEntry._fields.index, fields))
        self._address_bytes = bits // 8
        layout = ">4s"
        added, listed = [], []
        for field in fields:
            header, value = self._attribute(field, _NETWORK_ORDER)
            layout += f"{len(header)}s{value}"
            added.append(header)
            # Listed addresses lack the bit that added ones must have.
            listed.append(self._attribute(field, 0)[0])
        self._struct = struct.Struct(layout)
        self._start = struct.pack("=HH", self._struct.size, _DATA | NLA_F_NESTED)
        self._added, self._listed = added, (self._start, *listed)

    def _attribute(self, field: str, address_order: int) -> tuple[bytes, str]:
        """Return what precedes a value, and the value's format with its padding."""
        kind = _KINDS[field]
        if field == "port":
            return struct.pack("=HH", 6, kind | _NETWORK_ORDER), "H2x"
        if field in ("protocol", "prefix"):
            return struct.pack("=HH", 5, kind), "B3x"
        size = self._address_bytes
        inner = (_IPV4 if size == 4 else _IPV6) | address_order
        return struct.pack("=HHHH", 8 + size, kind | NLA_F_NESTED, 4 + size, inner), f"{size}s"

    def encode(self, entry: SetEntry) -> bytes:
        """
        Return the attribute that adds or deletes an entry.

        Raises ValueError when an address is not of the set's family.
        """
        parts: list[object] = [self._start]
        for header, field, position in zip(self._added, self._fields, self._positions, strict=True):
            value = entry[position]
            # struct would cut an address that is too long, and fill one that is too short.
            if isinstance(value, bytes) and len(value) != self._address_bytes:
                raise ValueError(
                    f"{field} of {len(value)} bytes in a set of {self._address_bytes}-byte ones"
                )
            parts += (header, value)
        return self._struct.pack(*parts)

    def decode(self, data: memoryview) -> list[SetEntry]:
        """Return the entries of a listing's IPSET_ATTR_ADT."""
        entries = []
        if len(data) % self._struct.size == 0:
            for _, *row in self._struct.iter_unpack(data):
                entries.append(self._entry(row[1::2]))
                if (_, *row[::2]) != self._listed:
                    break
            else:
                return entries
        # Entries with time-outs, counters or comments are longer.
        return [self._walk(nested) for kind, nested in iterate_attributes(data) if kind == _DATA]

    def _entry(self, values: list[bytes | int]) -> SetEntry:
        found: list[bytes | int] = list(_EMPTY)
        for position, value in zip(self._positions, values, strict=True):
            found[position] = value
        return SetEntry._make(found)

    def _walk(self, entry: memoryview) -> SetEntry:
        found = attributes(entry)
        values: list[bytes | int] = []
        for field in self._fields:
            value = found[_KINDS[field]]
            if field in ("address", "other"):
                values.append(bytes(next(iter(attributes(value).values()))))
            else:
                values.append(int.from_bytes(value, "big"))
        return self._entry(values)


_EMPTY = SetEntry()
