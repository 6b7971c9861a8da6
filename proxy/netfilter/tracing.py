"""
The statements of rules that switch the kernel's packet tracing on, with their limits.

Numbers are those of ``linux/netfilter/nf_tables.h``. A rule stops at the first statement that does
not hold, so that limits stand behind the matches and before what they limit.
"""

from __future__ import annotations

import struct

from proxy.netfilter.fields import FIRST_REGISTER, TH_DPORT, expression
from proxy.netfilter.statements import Statement
from proxy.netfilter.wire import attr, nested, u32

NFT_TABLE_F_OWNER = 0x2
"""The table goes away with the socket that made it (since Linux 5.12), however its process ends."""

_TRANSPORT_HEADER = 2
_CMP_EQ = 0
_META_NFTRACE = 12
_TCP_FLAGS_OFFSET = 13
_FIN_SYN_RST_ACK, _SYN = 0x17, 0x02
_DAY_S = 86_400
_U64 = struct.Struct(">Q")
_MOST_COUNT = 100_000


def _value(kind: int, value: bytes) -> bytes:
    return nested(kind, attr(1, value))


def _is(value: bytes) -> bytes:
    return expression("cmp", u32(1, FIRST_REGISTER) + u32(2, _CMP_EQ) + _value(3, value))


def _transport(offset: int, length: int) -> bytes:
    place = u32(2, _TRANSPORT_HEADER) + u32(3, offset) + u32(4, length)
    return expression("payload", u32(1, FIRST_REGISTER) + place)


def source_port_is(port: int) -> Statement:
    """Return a match of the transport protocol's source port, 1..65535."""
    return Statement(f"th sport {port}", _transport(0, 2) + _is(port.to_bytes(2, "big")))


def destination_port_is(port: int) -> Statement:
    """Return a match of the transport protocol's destination port, 1..65535."""
    load = TH_DPORT.load(FIRST_REGISTER)
    return Statement(f"th dport {port}", load + _is(port.to_bytes(2, "big")))


def _masked(mask: int) -> bytes:
    register = u32(1, FIRST_REGISTER) + u32(2, FIRST_REGISTER)
    parts = _value(4, bytes((mask,))) + _value(5, b"\0")
    return expression("bitwise", register + u32(3, 1) + parts)


OPENS_TCP = Statement(
    "tcp flags & (fin | syn | rst | ack) == syn",
    _transport(_TCP_FLAGS_OFFSET, 1) + _masked(_FIN_SYN_RST_ACK) + _is(bytes((_SYN,))),
)
"""Matches the first packet of a TCP connection, and its repetitions."""

COUNTER = Statement("counter", expression("counter", b""))


def _limit(rate: int, unit_s: int, burst: int) -> bytes:
    amounts = attr(1, _U64.pack(rate)) + attr(2, _U64.pack(unit_s)) + u32(3, burst)
    return expression("limit", amounts + u32(4, 0))


def at_most_per_second(packets: int) -> Statement:
    """Return the statement that holds for so many packets a second."""
    text = f"limit rate {packets}/second burst {packets} packets"
    return Statement(text, _limit(packets, 1, packets))


def at_most(packets: int) -> Statement:
    """
    Return the statement that holds for so many packets, 1..100,000, and one more each day.

    The kernel counts quotas in bytes only; a bucket that is hardly refilled counts packets.
    """
    if not 1 <= packets <= _MOST_COUNT:
        raise ValueError(f"{packets} is not within 1..{_MOST_COUNT}")
    text = f"limit rate 1/day burst {packets} packets"
    return Statement(text, _limit(1, _DAY_S, packets))


TRACE = Statement(
    "meta nftrace set 1",
    expression("immediate", u32(1, FIRST_REGISTER) + _value(2, b"\1"))
    + expression("meta", u32(2, _META_NFTRACE) + u32(3, FIRST_REGISTER)),
)
"""From here on the kernel tells which rules the packet meets, on every hook."""
