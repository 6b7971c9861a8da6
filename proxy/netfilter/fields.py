"""
The packet fields our rules look at: each knows its netlink expression, its nft words and its type.

A field loads its value into registers; concatenations load several side by side. The ``typeof``
description is what lets ``nft list`` print elements as addresses, protocols and ports.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from proxy.model.addresses import IPFamily, unpack_address
from proxy.netfilter.wire import attr, nested, string, u32

# nft's own data type numbers (libnftables ``enum datatypes``), stored with a set for listings.
TYPE_INTEGER = 4
TYPE_STRING = 5
TYPE_IPV4 = 7
TYPE_IPV6 = 8
TYPE_INET_PROTO = 12
TYPE_INET_SERVICE = 13

PROTOCOL_NAMES = {6: "tcp", 17: "udp", 132: "sctp"}
PROTOCOL_NUMBERS = {name.upper(): number for number, name in PROTOCOL_NAMES.items()}

_UDATA_META, _UDATA_PAYLOAD, _UDATA_NUMGEN, _UDATA_CONCAT = 9, 7, 23, 13
_PROTO_TH, _PROTO_IP, _PROTO_IP6 = 11, 12, 13

FIRST_REGISTER = 8  # NFT_REG32_00; sixteen registers of four bytes follow
REGISTER_COUNT = 16


@dataclass(frozen=True, slots=True)
class Field:
    """
    One value that a rule loads or matches.

    Attributes:
        text: the words nft uses for it, e.g. ``ip daddr``.
        length: bytes it occupies before padding.
        expression: name of the kernel expression that loads it.
        parameters: that expression's attributes without the destination register.
        register_attribute: attribute number of the destination register.
        data_type: nft data type number.
        typeof: user data that names the field to ``nft list``.
    """

    text: str
    length: int
    expression: str
    parameters: bytes
    register_attribute: int
    data_type: int
    typeof: bytes

    @property
    def registers(self) -> int:
        """Number of four-byte registers the value occupies."""
        return (self.length + 3) // 4

    def load(self, register: int) -> bytes:
        """Return the kernel expression that loads the field into *register*."""
        return expression(self.expression, u32(self.register_attribute, register) + self.parameters)

    def render(self, value: bytes) -> str:
        """Return the nft text of a stored value of this field (unpadded bytes)."""
        if self.data_type in (TYPE_IPV4, TYPE_IPV6):
            return unpack_address(value)
        if self.data_type == TYPE_INET_PROTO:
            return PROTOCOL_NAMES.get(value[0], str(value[0]))
        if self.data_type == TYPE_INET_SERVICE:
            return str(int.from_bytes(value, "big"))
        return str(int.from_bytes(value, "little"))


def expression(name: str, parameters: bytes) -> bytes:
    """Return one element of a rule's expression list."""
    return nested(1, string(1, name), nested(2, parameters))


def _udata(kind: int, payload: bytes) -> bytes:
    return bytes((kind, len(payload))) + payload


def _udata_u32(kind: int, value: int) -> bytes:
    return _udata(kind, struct.pack("=I", value))


def _typeof(expression_type: int, payload: bytes) -> bytes:
    return _udata_u32(0, expression_type) + _udata(1, payload)


def _payload(
    text: str, base: int, offset: int, length: int, data_type: int, proto: int, template: int
) -> Field:
    return Field(
        text=text,
        length=length,
        expression="payload",
        parameters=u32(2, base) + u32(3, offset) + u32(4, length),
        register_attribute=1,
        data_type=data_type,
        typeof=_typeof(_UDATA_PAYLOAD, _udata_u32(0, proto) + _udata_u32(1, template)),
    )


def _meta(text: str, key: int, length: int, data_type: int) -> Field:
    return Field(
        text=text,
        length=length,
        expression="meta",
        parameters=u32(2, key),
        register_attribute=1,
        data_type=data_type,
        typeof=_typeof(_UDATA_META, _udata_u32(0, key)),
    )


IPV4_SADDR = _payload("ip saddr", 1, 12, 4, TYPE_IPV4, _PROTO_IP, 11)
IPV4_DADDR = _payload("ip daddr", 1, 16, 4, TYPE_IPV4, _PROTO_IP, 12)
IPV6_SADDR = _payload("ip6 saddr", 1, 8, 16, TYPE_IPV6, _PROTO_IP6, 8)
IPV6_DADDR = _payload("ip6 daddr", 1, 24, 16, TYPE_IPV6, _PROTO_IP6, 9)
_CT_STATE, _CT_STATUS, _CT_PROTO_DST = 0, 2, 12
_CT_SRC_IPV4, _CT_DST_IPV4, _CT_SRC_IPV6, _CT_DST_IPV6 = 19, 20, 21, 22
_ORIGINAL = b"\0"  # IP_CT_DIR_ORIGINAL
_META_MARK, _META_IIFNAME, _META_L4PROTO = 3, 6, 16
IFNAMSIZ = 16

TH_DPORT = _payload("th dport", 2, 2, 2, TYPE_INET_SERVICE, _PROTO_TH, 2)
TRANSPORT_DPORT = {
    name: _payload(f"{name} dport", 2, 2, 2, TYPE_INET_SERVICE, _PROTO_TH, 2)
    for name in PROTOCOL_NAMES.values()
}
L4PROTO = _meta("meta l4proto", _META_L4PROTO, 1, TYPE_INET_PROTO)
MARK = _meta("meta mark", _META_MARK, 4, TYPE_INTEGER)
IIFNAME = _meta("iifname", _META_IIFNAME, IFNAMSIZ, TYPE_STRING)


def _conntrack(text: str, key: int, length: int, data_type: int, direction: bytes = b"") -> Field:
    return Field(
        text=text,
        length=length,
        expression="ct",
        parameters=u32(2, key) + (attr(3, direction) if direction else b""),
        register_attribute=1,
        data_type=data_type,
        typeof=b"",
    )


CT_STATE = _conntrack("ct state", _CT_STATE, 4, TYPE_INTEGER)
CT_STATUS = _conntrack("ct status", _CT_STATUS, 4, TYPE_INTEGER)
CT_ORIGINAL_DPORT = _conntrack(
    "ct original proto-dst", _CT_PROTO_DST, 2, TYPE_INET_SERVICE, _ORIGINAL
)
_CT_ORIGINAL_DADDR = {
    IPFamily.IPV4: _conntrack("ct original ip daddr", _CT_DST_IPV4, 4, TYPE_IPV4, _ORIGINAL),
    IPFamily.IPV6: _conntrack("ct original ip6 daddr", _CT_DST_IPV6, 16, TYPE_IPV6, _ORIGINAL),
}


_CT_ORIGINAL_SADDR = {
    IPFamily.IPV4: _conntrack("ct original ip saddr", _CT_SRC_IPV4, 4, TYPE_IPV4, _ORIGINAL),
    IPFamily.IPV6: _conntrack("ct original ip6 saddr", _CT_SRC_IPV6, 16, TYPE_IPV6, _ORIGINAL),
}


def ct_original_saddr(family: IPFamily) -> Field:
    """Return the client's address, before any translation."""
    return _CT_ORIGINAL_SADDR[family]


def ct_original_daddr(family: IPFamily) -> Field:
    """Return the address the client called, before any translation."""
    return _CT_ORIGINAL_DADDR[family]


def address_type(direction: str) -> Field:
    """Return the routing table's type of the packet's ``saddr`` or ``daddr``."""
    flags = {"saddr": 1, "daddr": 2}[direction]
    return Field(
        text=f"fib {direction} type",
        length=4,
        expression="fib",
        parameters=u32(2, 3) + u32(3, flags),
        register_attribute=1,
        data_type=TYPE_INTEGER,
        typeof=b"",
    )


def saddr(family: IPFamily) -> Field:
    """Return the source address field of *family*."""
    return IPV4_SADDR if family is IPFamily.IPV4 else IPV6_SADDR


def daddr(family: IPFamily) -> Field:
    """Return the destination address field of *family*."""
    return IPV4_DADDR if family is IPFamily.IPV4 else IPV6_DADDR


def random_index(modulus: int) -> Field:
    """Return a number in ``0..modulus-1``, drawn anew for each packet; host byte order."""
    return Field(
        text=f"numgen random mod {modulus}",
        length=4,
        expression="numgen",
        parameters=u32(2, modulus) + u32(3, 1) + u32(4, 0),
        register_attribute=1,
        data_type=TYPE_INTEGER,
        typeof=_typeof(_UDATA_NUMGEN, _udata_u32(0, 1) + _udata_u32(1, modulus) + _udata_u32(2, 0)),
    )


Key = tuple[Field, ...]


def key_text(key: Key) -> str:
    """Return a key as nft writes it: fields joined by dots."""
    return " . ".join(field.text for field in key)


def key_length(key: Key) -> int:
    """Return the bytes of a key in registers, each field padded to four."""
    if len(key) == 1:
        return key[0].length
    return 4 * sum(field.registers for field in key)


def key_type(key: Key) -> int:
    """Return nft's data type number of a key: six bits per field."""
    number = 0
    for field in key:
        number = number << 6 | field.data_type
    return number


def key_typeof(key: Key) -> bytes:
    """Return the user data that describes a key to ``nft list``."""
    if len(key) == 1:
        return key[0].typeof
    return _typeof(_UDATA_CONCAT, b"".join(_udata(i, f.typeof) for i, f in enumerate(key)))


def load_key(key: Key, register: int = FIRST_REGISTER) -> bytes:
    """Return the expressions that load a key into consecutive registers."""
    loads = []
    for field in key:
        loads.append(field.load(register))
        register += field.registers
    if register > FIRST_REGISTER + REGISTER_COUNT:
        raise ValueError(f"key {key_text(key)} does not fit the kernel's sixteen registers")
    return b"".join(loads)


def render_key(key: Key, value: bytes) -> str:
    """Return a stored key or data value as nft writes it."""
    parts, offset = [], 0
    for field in key:
        parts.append(field.render(value[offset : offset + field.length]))
        offset += 4 * field.registers
    return " . ".join(parts)


def comment_userdata(text: str) -> bytes:
    """Return user data that ``nft list`` prints as a comment; cut to 127 bytes."""
    return _udata(0, text.encode()[:127] + b"\0")
