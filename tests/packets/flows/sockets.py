"""Sockets that may have any address as their own, and what they tell about a packet."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from ipaddress import ip_address
from typing import cast

from tests.packets.flows.scenario import Endpoint

IP_PKTINFO = 8  # linux/in.h; in the socket module only from Python 3.12
_IPV6_TRANSPARENT = 75  # linux/in6.h
_BACKLOG = 512

_IN_PKTINFO = struct.Struct("=i4s4s")  # interface, address to answer from, address sent to
_IN6_PKTINFO = struct.Struct("=16si")  # address, interface


def family_of(address: str) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def open_socket(
    family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0
) -> socket.socket:
    """A non-blocking socket that may use addresses which its host does not have."""
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            if kind != socket.SOCK_RAW:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
            made.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    except OSError:
        made.close()
        raise
    return made


def open_listener(protocol: str, at: Endpoint) -> socket.socket | None:
    """
    A TCP or UDP listener; None if another process already listens there.

    Args:
        protocol: TCP or UDP.
        at: The address may be a wildcard.
    """
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    made = open_socket(family_of(at.ip), kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((at.ip, at.port))
        if protocol == "TCP":
            made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        if error.errno == 98:  # EADDRINUSE
            return None
        raise
    return made


def close_at_once(connection: socket.socket) -> None:
    """Close a TCP connection with a reset, so that nothing of it lingers."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def receive_with_target(listener: socket.socket) -> tuple[bytes, Endpoint, str]:
    """
    Receive a datagram or raw packet.

    Returns:
        Its bytes; its sender; the address that it was sent to.

    Raises:
        BlockingIOError: There is none.
    """
    data, ancillary, _, sender = listener.recvmsg(65536, 256)
    target = "?"
    for level, kind, value in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            target = str(ip_address(_IN_PKTINFO.unpack(value[:12])[2]))
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            target = str(ip_address(_IN6_PKTINFO.unpack(value[:20])[0]))
    return data, Endpoint(sender[0], sender[1]), target


def send_from(listener: socket.socket, source: str, data: bytes, to: Endpoint) -> None:
    """Answer from the address that a datagram was sent to."""
    packed = ip_address(source).packed
    if listener.family == socket.AF_INET6:
        control = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(packed, 0))
    else:
        control = (socket.IPPROTO_IP, IP_PKTINFO, _IN_PKTINFO.pack(0, packed, packed))
    # A filter may drop the answer; the flow's outcome then says so.
    with suppress(PermissionError):
        listener.sendmsg([data], [control], 0, (to.ip, to.port))


def local_port(listener: socket.socket) -> int:
    """The port that a socket is bound to."""
    return cast("int", listener.getsockname()[1])
