"""
The bytes of nf_tables netlink: attributes, messages and the numbers behind the names.

Numbers are those of ``linux/netfilter/nf_tables.h`` and ``nfnetlink.h``. Elements are encoded with
``struct`` because they are many; a generic message class costs some hundred microseconds each.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator

NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN = 0x10
NFNL_MSG_BATCH_END = 0x11

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

NFPROTO_IPV4 = 2
NFPROTO_IPV6 = 10

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
NFGENMSG = struct.Struct(">BBH")  # nfgenmsg: family, version, resource id
_ATTR = struct.Struct("=HH")
_BE32 = struct.Struct(">I")
MESSAGE_HEADER_LENGTH = HEADER.size + NFGENMSG.size


class Msg(enum.IntEnum):
    """nf_tables message types (``enum nf_tables_msg_types``)."""

    NEWTABLE = 0
    GETTABLE = 1
    DELTABLE = 2
    NEWCHAIN = 3
    GETCHAIN = 4
    DELCHAIN = 5
    NEWRULE = 6
    GETRULE = 7
    DELRULE = 8
    NEWSET = 9
    GETSET = 10
    DELSET = 11
    NEWSETELEM = 12
    GETSETELEM = 13
    DELSETELEM = 14
    NEWGEN = 15
    GETGEN = 16


def attr(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    padding = b"\0" * (-len(payload) & 3)
    return _ATTR.pack(len(payload) + 4, kind) + payload + padding


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds other attributes."""
    return attr(kind | NLA_F_NESTED, b"".join(attributes))


def u32(kind: int, value: int) -> bytes:
    """Return a big-endian 32-bit attribute, the order nf_tables uses for numbers."""
    return attr(kind, _BE32.pack(value & 0xFFFFFFFF))


def string(kind: int, value: str) -> bytes:
    """Return a NUL-terminated string attribute."""
    return attr(kind, value.encode() + b"\0")


def message(kind: Msg, family: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return one nf_tables request with its netlink and nfnetlink headers."""
    return (
        HEADER.pack(
            MESSAGE_HEADER_LENGTH + len(body),
            NFNL_SUBSYS_NFTABLES << 8 | kind,
            NLM_F_REQUEST | flags,
            sequence,
            0,
        )
        + NFGENMSG.pack(family, 0, 0)
        + body
    )


def batch_marker(kind: int, sequence: int) -> bytes:
    """Return the message that opens or closes a transaction."""
    return HEADER.pack(MESSAGE_HEADER_LENGTH, kind, NLM_F_REQUEST, sequence, 0) + NFGENMSG.pack(
        0, 0, NFNL_SUBSYS_NFTABLES
    )


def iterate_attributes(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, payload) for each attribute in *data*; a damaged tail ends the iteration."""
    view = memoryview(data)
    offset = 0
    while offset + 4 <= len(view):
        length, kind = _ATTR.unpack_from(view, offset)
        if length < 4 or offset + length > len(view):
            return
        yield kind & NLA_TYPE_MASK, view[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes | memoryview) -> dict[int, memoryview]:
    """Return the attributes of *data* by type; of repeated types the last one stays."""
    return dict(iterate_attributes(data))


def concatenate(parts: Iterable[bytes]) -> bytes:
    """Return a concatenated set key: each field padded to a multiple of four bytes."""
    return b"".join(part + b"\0" * (-len(part) & 3) for part in parts)
