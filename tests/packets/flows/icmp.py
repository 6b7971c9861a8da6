"""
ICMP and ICMPv6 errors, read from raw sockets.

A socket is not always told: while connect() is still at work the kernel ignores an error about
it and sends the SYN again a second later. The message itself is never missed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

_UNREACHABLE = {4: 3, 6: 1}  # type by IP family
# Codes by IP family: protocol, port and the prohibitions, not a lack of routes.
_REFUSALS = {4: frozenset({2, 3, 9, 10, 13}), 6: frozenset({1, 4, 5, 6})}
_PORTS_END = {4: 8 + 20 + 4, 6: 8 + 40 + 4}


@dataclass(frozen=True, slots=True)
class Unreachable:
    """
    An error about a packet that (``source``, ``source_port``) had sent.

    ``protocol`` is the packet's IP protocol number. ``is_refusal`` tells a rejected packet from
    one that found no way.
    """

    protocol: int
    source: str
    source_port: int
    is_refusal: bool


def ip4_payload(packet: bytes) -> bytes:
    """What follows the IPv4 header."""
    return packet[(packet[0] & 0x0F) * 4 :]


def parse_unreachable(family: int, message: bytes) -> Unreachable | None:
    """
    Read an ICMP message, without IP header; None if it is not such an error.

    Args:
        family: 4 or 6.
        message: The quoted packet must have no IPv6 extension headers.
    """
    if len(message) < _PORTS_END[family] or message[0] != _UNREACHABLE[family]:
        return None
    inner = message[8:]
    if family == 4:
        protocol, source, payload = inner[9], inner[12:16], ip4_payload(inner)
    else:
        protocol, source, payload = inner[6], inner[8:24], inner[40:]
    port = struct.unpack_from("!H", payload)[0]
    return Unreachable(protocol, str(ip_address(source)), port, message[1] in _REFUSALS[family])
