"""
Entries as ctnetlink lists them, of both families and all protocols.

Nearly all have one of two layouts, which a regular expression takes apart in a tenth of the time
that a walk over the attributes needs; the others are walked. Numbers are those of
``linux/netfilter/nfnetlink_conntrack.h``.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable

from diagnostics.conntrack.model import (
    ASSURED,
    OFFLOADED,
    SEEN_REPLY,
    UNKNOWN_S,
    Detail,
    Entry,
)
from diagnostics.readers.conntrack import Flow, FlowTuple
from proxy.conntrack.entries import TCP_STATES
from proxy.model.addresses import unpack_address
from proxy.netfilter.wire import NFGENMSG, NFPROTO_IPV4, NFPROTO_IPV6, NLA_F_NESTED, attributes

Attributes = dict[int, memoryview]

TUPLE_ORIG, TUPLE_REPLY, STATUS, PROTOINFO, TIMEOUT, MARK = 1, 2, 3, 4, 7, 8
COUNTERS_ORIG, COUNTERS_REPLY, USE, ID, ZONE, TIMESTAMP = 9, 10, 11, 12, 18, 20
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_PACKETS, _BYTES, _START = 1, 2, 1
_PROTOINFO_TCP, _PROTOINFO_SCTP, _STATE = 1, 3, 1
_SCTP_STATES = (
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
)
_STATES = {_PROTOINFO_TCP: TCP_STATES, _PROTOINFO_SCTP: _SCTP_STATES}
_HW_OFFLOADED = 1 << 15
_FLAGS = ((ASSURED, "ASSURED"), (OFFLOADED, "OFFLOAD"), (_HW_OFFLOADED, "HW_OFFLOAD"))
_BE32 = struct.Struct(">I")
_U32 = b"(.{4})"


def entry_reader() -> Callable[[memoryview], Entry | None]:
    """
    Return a function that reads what is counted of a listed entry's payload.

    It returns None for an entry that lacks a direction.
    """
    usual = {NFPROTO_IPV4: _usual(4).match, NFPROTO_IPV6: _usual(16).match}
    number = _BE32.unpack

    def read(payload: memoryview) -> Entry | None:
        match = usual.get(payload[0])
        found = match(payload) if match else None
        if found is None:
            return _walk(payload)
        client, address, protocol, port, target, target_port, status, left, state = found.groups()
        return Entry(
            protocol[0],
            client,
            address + port,
            target + target_port,
            number(status)[0],
            state[0] if state else 0,
            number(left)[0] if left else UNKNOWN_S,
            payload,
        )

    return read


def _field(kind: int, length: int, pattern: bytes) -> bytes:
    return re.escape(struct.pack("=HH", length + 4, kind)) + pattern + b"\0" * (-length & 3)


def _usual(size: int) -> re.Pattern[bytes]:
    """Return a pattern for entries with ports and without a zone; *size* is that of addresses."""
    address, port = b"(.{%d})" % size, b"(..)"
    skipped = b".{%d}" % size
    kinds = (1, 2) if size == 4 else (3, 4)

    def tuple_(kind: int, parts: tuple[bytes, bytes, bytes, bytes, bytes]) -> bytes:
        source, destination, protocol, source_port, destination_port = parts
        ips = _field(kinds[0], size, source) + _field(kinds[1], size, destination)
        ports = _field(_PROTO_NUM, 1, protocol)
        ports += _field(_SOURCE_PORT, 2, source_port)
        ports += _field(_DESTINATION_PORT, 2, destination_port)
        ips_length = 2 * (4 + size)
        body = _field(_TUPLE_IP | NLA_F_NESTED, ips_length, ips)
        body += _field(_TUPLE_PROTO | NLA_F_NESTED, 24, ports)
        return _field(kind | NLA_F_NESTED, 4 + ips_length + 28, body)

    state = _field(_STATE, 1, b"(.)")
    # A nest's length varies with what else it holds, so that only its kind is compared.
    tcp = b".." + re.escape(struct.pack("=H", _PROTOINFO_TCP | NLA_F_NESTED)) + state
    return re.compile(
        b".{%d}" % NFGENMSG.size
        + tuple_(TUPLE_ORIG, (address, address, b"(.)", b"..", port))
        + tuple_(TUPLE_REPLY, (address, skipped, b".", port, b".."))
        + _field(STATUS, 4, _U32)
        + b"(?:%s)?" % _field(MARK, 4, b".{4}")
        + _field(ID, 4, b".{4}")
        + _field(USE, 4, b".{4}")
        + b"(?:%s)?" % _field(TIMEOUT, 4, _U32)
        + b"(?:..%s%s)?" % (re.escape(struct.pack("=H", PROTOINFO | NLA_F_NESTED)), tcp),
        re.DOTALL,
    )


def _walk(payload: memoryview) -> Entry | None:
    fields = attributes(payload[NFGENMSG.size :])
    original, reply = _ends(fields.get(TUPLE_ORIG)), _ends(fields.get(TUPLE_REPLY))
    if original is None or reply is None:
        return None
    protocol, client, _, address, port = original
    _, target, target_port, _, _ = reply
    left = _number(fields.get(TIMEOUT)) if TIMEOUT in fields else UNKNOWN_S
    kind, state = _state(fields.get(PROTOINFO))
    return Entry(
        protocol,
        client,
        address + port,
        target + target_port,
        _number(fields.get(STATUS)),
        state if kind == _PROTOINFO_TCP else 0,
        left,
        payload,
    )


def _ends(data: memoryview | None) -> tuple[int, bytes, bytes, bytes, bytes] | None:
    """Return protocol, source, its port, destination and its port; ports are 0 without any."""
    parts: Attributes = attributes(data) if data is not None else {}
    if _TUPLE_IP not in parts or _TUPLE_PROTO not in parts:
        return None
    addresses, protocol = attributes(parts[_TUPLE_IP]), attributes(parts[_TUPLE_PROTO])
    for source, destination in ((1, 2), (3, 4)):
        if source in addresses and destination in addresses:
            return (
                _number(protocol.get(_PROTO_NUM)),
                bytes(addresses[source]),
                bytes(protocol.get(_SOURCE_PORT, b"\0\0")),
                bytes(addresses[destination]),
                bytes(protocol.get(_DESTINATION_PORT, b"\0\0")),
            )
    return None


def read_detail(payload: bytes, now: float | None = None) -> Detail | None:
    """
    Return a listed entry in full, None when it lacks a direction.

    Args:
        payload: What follows the netlink header.
        now: Seconds since 1970; default: the clock.
    """
    fields = attributes(payload[NFGENMSG.size :])
    original = _flow_tuple(fields.get(TUPLE_ORIG), fields.get(COUNTERS_ORIG))
    reply = _flow_tuple(fields.get(TUPLE_REPLY), fields.get(COUNTERS_REPLY))
    ends = _ends(fields.get(TUPLE_ORIG))
    if original is None or reply is None or ends is None:
        return None
    status = _number(fields.get(STATUS))
    flags = {name for bit, name in _FLAGS if status & bit}
    flags |= set() if status & SEEN_REPLY else {"UNREPLIED"}
    kind, state = _state(fields.get(PROTOINFO))
    names = _STATES.get(kind, ())
    flow = Flow(
        protocol=ends[0],
        state=names[state] if state < len(names) else "",
        timeout_s=_number(fields[TIMEOUT]) if TIMEOUT in fields else None,
        original=original,
        reply=reply,
        flags=frozenset(flags),
        mark=_number(fields.get(MARK)),
        zone=_number(fields.get(ZONE)),
        identity=_number(fields[ID]) if ID in fields else None,
    )
    return Detail(flow, _age(fields.get(TIMESTAMP), time.time() if now is None else now))


def _flow_tuple(data: memoryview | None, counters: memoryview | None) -> FlowTuple | None:
    ends = _ends(data)
    if ends is None:
        return None
    _, source, source_port, destination, destination_port = ends
    counted: Attributes = attributes(counters) if counters is not None else {}
    return FlowTuple(
        unpack_address(source),
        unpack_address(destination),
        int.from_bytes(source_port, "big"),
        int.from_bytes(destination_port, "big"),
        _number(counted[_PACKETS]) if _PACKETS in counted else None,
        _number(counted[_BYTES]) if _BYTES in counted else None,
    )


def _state(data: memoryview | None) -> tuple[int, int]:
    """Return which protocol's state an entry has, and its number; (0, 0) without one."""
    for kind, nest in (attributes(data) if data is not None else {}).items():
        state = attributes(nest).get(_STATE)
        if kind in _STATES and state is not None:
            return kind, _number(state)
    return 0, 0


def _age(data: memoryview | None, now: float) -> float | None:
    start = attributes(data).get(_START) if data is not None else None
    return None if start is None else max(0.0, now - _number(start) / 1e9)


def _number(value: memoryview | None) -> int:
    return int.from_bytes(value, "big") if value is not None else 0
