"""
The bytes of IPVS' generic netlink: changes of virtual and real servers, and their listings.

Numbers and layouts are those of ``linux/ip_vs.h``; numbers are in host order, except addresses,
ports and the IPv4 netmask. A node may have ten thousand virtual servers, so that listings, whose
attributes always come in the same order, are read with one pattern each; what does not match is
walked.
"""

from __future__ import annotations

import re
import struct
import sys
from functools import lru_cache

from proxy.model.addresses import IPFamily
from proxy.netfilter.ipvs import (
    FLAG_HASHED,
    FORWARD_MASQ,
    Action,
    Operation,
    RealKey,
    RealServer,
    ServerKey,
    VirtualServer,
)
from proxy.netfilter.wire import NLA_F_NESTED, attr, attributes, iterate_attributes, string

FAMILY_NAME = "IPVS"
GENERIC_HEADER = struct.Struct("=BBH")  # genlmsghdr: command, version, reserved

GET_SERVER, GET_REAL = 4, 8
SET_TIMEOUTS, GET_TIMEOUTS = 12, 13  # IPVS_CMD_*_CONFIG

SCHEDULER_BYTES = 15
"""The longest name of a scheduler."""

_VERSION = 1
_SERVER, _REAL = 1, 2
_TIMEOUTS = (4, 5, 6)  # TCP, TCP after FIN, UDP

_SERVER_FAMILY, _SERVER_PROTOCOL, _SERVER_ADDRESS, _SERVER_PORT, _SERVER_MARK = 1, 2, 3, 4, 5
_SERVER_SCHEDULER, _SERVER_FLAGS, _SERVER_TIMEOUT, _SERVER_NETMASK = 6, 7, 8, 9

_REAL_ADDRESS, _REAL_PORT, _REAL_FORWARD, _REAL_WEIGHT, _REAL_UPPER, _REAL_LOWER = 1, 2, 3, 4, 5, 6
_REAL_ACTIVE, _REAL_INACTIVE, _REAL_PERSISTENT, _REAL_FAMILY = 7, 8, 9, 11

_FORWARD_MASK = 0x7  # IP_VS_CONN_F_FWD_MASK
_ALL_FLAGS = 0xFFFFFFFF
_ADDRESS_UNION_BYTES = 16

_U16, _U32 = struct.Struct("=H"), struct.Struct("=I")
_FAMILY_NUMBERS = {4: 2, 16: 10}  # AF_INET, AF_INET6 by length of the packed address

# Attributes as (length, type, value) with their padding; %d is the length of an address.
_IDENTITIES = {size: struct.Struct(f"=HHH2xHHH2xHH{size}sHHH2x") for size in _FAMILY_NUMBERS}
_REALS = {size: struct.Struct(f"=HH{size}sHHH2xHHIHHIHHIHHIHHH2x") for size in _FAMILY_NUMBERS}


def generic_header(command: int) -> bytes:
    """Return the genlmsghdr that opens every IPVS request, and is all of one for everything."""
    return GENERIC_HEADER.pack(command, _VERSION, 0)


def encode_operation(operation: Operation) -> bytes:
    """
    Return the payload of one change.

    Flags replace all that the virtual server had; the persistence netmask is always one host, the
    forwarding method masquerading, without connection thresholds.
    """
    action, server, real, weight = operation
    identity = _identity(server.key)
    if action in (Action.NEW_SERVER, Action.SET_SERVER):
        identity += _settings(
            server.scheduler, server.flags, server.timeout_s, len(server.key.address)
        )
    payload = generic_header(action) + attr(_SERVER | NLA_F_NESTED, identity)
    return payload if real is None else payload + _encode_real(real, weight)


def real_servers_request(key: ServerKey) -> bytes:
    """Return the payload of a GET_REAL dump of one virtual server's real servers."""
    return generic_header(GET_REAL) + attr(_SERVER | NLA_F_NESTED, _identity(key))


def _identity(key: ServerKey) -> bytes:
    address, port, protocol = key
    size = len(address)
    return _IDENTITIES[size].pack(
        *(6, _SERVER_FAMILY, _FAMILY_NUMBERS[size]),
        *(6, _SERVER_PROTOCOL, protocol),
        *(4 + size, _SERVER_ADDRESS, address),
        *(6, _SERVER_PORT, _swapped(port)),
    )


@lru_cache(maxsize=256)
def _settings(scheduler: str, flags: int, timeout_s: int, address_bytes: int) -> bytes:
    """Return what is not identity: the same few for all virtual servers of a node."""
    netmask = b"\xff" * 4 if address_bytes == 4 else _U32.pack(128)
    return (
        string(_SERVER_SCHEDULER, scheduler)
        + attr(_SERVER_FLAGS, struct.pack("=II", flags, _ALL_FLAGS))
        + attr(_SERVER_TIMEOUT, _U32.pack(timeout_s))
        + attr(_SERVER_NETMASK, netmask)
    )


def _encode_real(key: RealKey, weight: int) -> bytes:
    address, port = key
    size = len(address)
    return attr(
        _REAL | NLA_F_NESTED,
        _REALS[size].pack(
            *(4 + size, _REAL_ADDRESS, address),
            *(6, _REAL_PORT, _swapped(port)),
            *(8, _REAL_FORWARD, FORWARD_MASQ),
            *(8, _REAL_WEIGHT, weight),
            *(8, _REAL_UPPER, 0),
            *(8, _REAL_LOWER, 0),
            *(6, _REAL_FAMILY, _FAMILY_NUMBERS[size]),
        ),
    )


def _swapped(port: int) -> int:
    """Return the number that is stored in host order as *port* is in network order."""
    if sys.byteorder == "big":
        return port
    return (port & 0xFF) << 8 | port >> 8


class ServerReader:
    """Reads listed virtual servers of one family."""

    def __init__(self, family: IPFamily) -> None:
        self._size = family.bits // 8
        self._number = _FAMILY_NUMBERS[self._size]
        self._match_usual = _usual_server(self._size).match

    def read(self, payload: memoryview) -> VirtualServer | None:
        """Return the server; None when it is of the other family, or known by a firewall mark."""
        usual = self._match_usual(payload)
        if usual is None:
            return self._walk(payload)
        protocol, address, port, scheduler, flags, timeout = usual.groups()
        return _server(address, port, protocol, scheduler, flags, timeout)

    def _walk(self, payload: memoryview) -> VirtualServer | None:
        nested = attributes(payload[GENERIC_HEADER.size :]).get(_SERVER, memoryview(b""))
        found: dict[int, memoryview] = {}
        for kind, value in iterate_attributes(nested):
            if kind == _SERVER_FAMILY and _U16.unpack(value)[0] != self._number:
                return None
            found[kind] = value
            if kind == _SERVER_TIMEOUT:  # the counters that follow are long
                break
        if _SERVER_FAMILY not in found or _SERVER_MARK in found:
            return None
        return _server(
            bytes(found[_SERVER_ADDRESS][: self._size]),
            bytes(found[_SERVER_PORT]),
            bytes(found[_SERVER_PROTOCOL]),
            bytes(found.get(_SERVER_SCHEDULER, b"")).rstrip(b"\0"),
            bytes(found[_SERVER_FLAGS][:4]),
            bytes(found[_SERVER_TIMEOUT]),
        )


def _server(
    address: bytes, port: bytes, protocol: bytes, scheduler: bytes, flags: bytes, timeout: bytes
) -> VirtualServer:
    return VirtualServer(
        ServerKey(address, port[0] << 8 | port[1], _U16.unpack(protocol)[0]),
        sys.intern(scheduler.decode(errors="backslashreplace")),
        _U32.unpack(flags)[0] & ~FLAG_HASHED,
        _U32.unpack(timeout)[0],
    )


def _usual_server(size: int) -> re.Pattern[bytes]:
    """Return a pattern for a virtual server that has no persistence engine."""
    return re.compile(
        b".{4}.."
        + b"(?:%b|%b)" % (_literal(_U16, _SERVER), _literal(_U16, _SERVER | NLA_F_NESTED))
        + _start(6, _SERVER_FAMILY)
        + _literal(_U16, _FAMILY_NUMBERS[size])
        + b".."
        + _start(6, _SERVER_PROTOCOL)
        + b"(..).."
        + _start(4 + _ADDRESS_UNION_BYTES, _SERVER_ADDRESS)
        + b"(.{%d}).{%d}" % (size, _ADDRESS_UNION_BYTES - size)
        + _start(6, _SERVER_PORT)
        + b"(..).."
        + b".."
        + _literal(_U16, _SERVER_SCHEDULER)
        + rb"([^\0]+)\0{1,4}"
        + _start(12, _SERVER_FLAGS)
        + b"(.{4}).{4}"
        + _start(8, _SERVER_TIMEOUT)
        + b"(.{4})",
        re.DOTALL,
    )


def read_real_server(payload: memoryview, family: IPFamily) -> RealServer | None:
    """
    Return a listed real server.

    *family* is that of its virtual server, which kernels before 3.18 do not repeat. None when it
    is of the other family (a tunnel), or no real server at all.
    """
    usual = _USUAL_REALS[family].match(payload)
    if usual is None:
        return _walk_real(payload, family)
    address, port, forward, weight, *counters = usual.groups()
    return _real(address, port, forward, weight, counters)


def _walk_real(payload: memoryview, family: IPFamily) -> RealServer | None:
    found = attributes(attributes(payload[GENERIC_HEADER.size :]).get(_REAL, b""))
    size = family.bits // 8
    number = found.get(_REAL_FAMILY)
    if _REAL_ADDRESS not in found or (
        number is not None and _U16.unpack(number)[0] != _FAMILY_NUMBERS[size]
    ):
        return None
    counters = (_REAL_ACTIVE, _REAL_INACTIVE, _REAL_PERSISTENT)
    return _real(
        bytes(found[_REAL_ADDRESS][:size]),
        bytes(found[_REAL_PORT]),
        bytes(found[_REAL_FORWARD]),
        bytes(found[_REAL_WEIGHT]),
        [bytes(found[kind]) for kind in counters],
    )


def _real(
    address: bytes, port: bytes, forward: bytes, weight: bytes, counters: list[bytes]
) -> RealServer:
    active, inactive, persistent = (_U32.unpack(counter)[0] for counter in counters)
    return RealServer(
        RealKey(address, port[0] << 8 | port[1]),
        _U32.unpack(weight)[0],
        _U32.unpack(forward)[0] & _FORWARD_MASK,
        active,
        inactive,
        persistent,
    )


def _usual_real(size: int) -> re.Pattern[bytes]:
    """Return a pattern for a real server, its groups in the order of ``_real``'s arguments."""
    return re.compile(
        b".{4}.."
        + b"(?:%b|%b)" % (_literal(_U16, _REAL), _literal(_U16, _REAL | NLA_F_NESTED))
        + _start(4 + _ADDRESS_UNION_BYTES, _REAL_ADDRESS)
        + b"(.{%d}).{%d}" % (size, _ADDRESS_UNION_BYTES - size)
        + _start(6, _REAL_PORT)
        + b"(..).."
        + _start(8, _REAL_FORWARD)
        + b"(.{4})"
        + _start(8, _REAL_WEIGHT)
        + b"(.{4})"
        + b"(?:.{24})?"  # since kernel 5.3 the three IPVS_DEST_ATTR_TUN_*
        + _start(8, _REAL_UPPER)
        + b".{4}"
        + _start(8, _REAL_LOWER)
        + b".{4}"
        + b"".join(
            _start(8, kind) + b"(.{4})" for kind in (_REAL_ACTIVE, _REAL_INACTIVE, _REAL_PERSISTENT)
        )
        + _start(6, _REAL_FAMILY)
        + _literal(_U16, _FAMILY_NUMBERS[size]),
        re.DOTALL,
    )


def _start(length: int, kind: int) -> bytes:
    """Return a pattern for an attribute's first four bytes."""
    return re.escape(struct.pack("=HH", length, kind))


def _literal(layout: struct.Struct, value: int) -> bytes:
    return re.escape(layout.pack(value))


_USUAL_REALS = {family: _usual_real(family.bits // 8) for family in IPFamily}


def timeouts_request(tcp_s: int, tcp_fin_s: int, udp_s: int) -> bytes:
    """Return the payload of SET_TIMEOUTS; the kernel keeps those that are 0."""
    return generic_header(SET_TIMEOUTS) + b"".join(
        attr(kind, _U32.pack(value))
        for kind, value in zip(_TIMEOUTS, (tcp_s, tcp_fin_s, udp_s), strict=True)
    )


def read_timeouts(payload: memoryview) -> tuple[int, int, int]:
    """Return (tcp_s, tcp_fin_s, udp_s) of the answer to GET_TIMEOUTS; 0 for a protocol it lacks."""
    found = attributes(payload[GENERIC_HEADER.size :])
    tcp_s, tcp_fin_s, udp_s = (
        _U32.unpack(found[kind])[0] if kind in found else 0 for kind in _TIMEOUTS
    )
    return tcp_s, tcp_fin_s, udp_s
