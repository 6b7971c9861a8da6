"""What the registers of nf_tables hold while a rule is read, and what comparing it means."""

from __future__ import annotations

import sys
from ipaddress import ip_address, ip_network
from typing import Literal, NamedTuple

from diagnostics.live.kernel import Attributes
from diagnostics.live.packed import INTEGER, Undecoded, constant, flags
from diagnostics.nftables.data_types import Json
from proxy.netfilter.wire import attributes

REGISTER_BYTES = 4
_FIRST_SHORT, _SHORTS_IN_LONG = 8, 4
_ADDRESS_BYTES = {"ipv4_addr": 4, "ipv6_addr": 16}


class Loaded(NamedTuple):
    """
    What registers hold, from the first one on.

    ``value`` is an expression, or bytes that the rule itself put there; ``kind`` their data type.
    """

    value: Json | bytes
    kind: str
    length: int

    @property
    def registers(self) -> int:
        """How many registers of four bytes that takes."""
        return -(-self.length // REGISTER_BYTES)

    @property
    def is_part(self) -> bool:
        """Whether these are only the first bytes of an address, which nft loads for a prefix."""
        return self.length < _ADDRESS_BYTES.get(self.kind, 0)


def slot_of(register: int) -> int:
    """Return the number of a register of four bytes: 1 to 4 are long ones, 8 and up short ones."""
    return (register - 1) * _SHORTS_IN_LONG if register < _FIRST_SHORT else register - _FIRST_SHORT


def value_of(found: Attributes, kind: int) -> bytes:
    """Return the bytes in a data attribute, none where it is absent."""
    return bytes(attributes(found.get(kind, memoryview(b""))).get(1, b""))


def masked_value(source: Loaded, mask: bytes, xor: bytes) -> Json:
    """Return ``value & mask ^ xor`` in the operator that nft writes for it."""
    order = _order(source.kind)
    kept, changed = int.from_bytes(mask, order), int.from_bytes(xor, order)
    full = (1 << 8 * len(mask)) - 1
    if not changed:
        return {"&": [source.value, kept]}
    if kept == full:
        return {"^": [source.value, changed]}
    if kept == full & ~changed:
        return {"|": [source.value, changed]}
    return {"^": [{"&": [source.value, kept]}, changed]}


def _order(kind: str) -> Literal["big", "little"]:
    big = kind.endswith("_addr") or kind in ("inet_proto", "inet_service", "ether_type")
    return "big" if big else sys.byteorder


def comparison(source: Loaded, operation: str, data: bytes) -> Json:
    """Return the body of a ``match`` of registers with a constant; raises Undecoded."""
    if source.kind in _ADDRESS_BYTES:
        return _of_address(source, operation, data)
    left: Json = source.value
    word = next(iter(left))
    if source.kind in ("ct_state", "ct_status"):
        if word != "&" or operation != "!=" or any(data):
            raise Undecoded(f"cmp of {source.kind}")
        field, bits = left["&"]
        return {"op": "in", "left": field, "right": flags(source.kind, bits)}
    if word in ("|", "^", "map") or (word == "&" and source.kind not in ("mark", INTEGER)):
        raise Undecoded(f"cmp of a computed {source.kind}")
    return {"op": operation, "left": left, "right": constant(source.kind, data)}


def _of_address(source: Loaded, operation: str, data: bytes) -> Json:
    field: Json = source.value
    width = 8 * _ADDRESS_BYTES[source.kind]
    mask = (1 << width) - (1 << width - 8 * source.length)
    if "&" in field and not source.is_part:
        field, mask = field["&"]
    word = next(iter(field))
    if word in ("&", "|", "^", "map") or (mask + 1 != 1 << width and operation not in ("==", "!=")):
        raise Undecoded("cmp of a computed address")
    data = data.ljust(_ADDRESS_BYTES[source.kind], b"\0")
    return {"op": operation, "left": field, "right": _prefix(data, mask)}


def _prefix(address: bytes, mask: int) -> Json:
    width = 8 * len(address)
    free = (~mask & ((1 << width) - 1)).bit_length()
    if mask != ((1 << width) - 1) >> free << free:
        raise Undecoded("a mask that is no prefix")
    network = ip_network((ip_address(address), width - free), strict=False)
    if not free:
        return str(network.network_address)
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
