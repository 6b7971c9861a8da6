"""IP families and addresses, parsed once and kept in canonical text."""

from __future__ import annotations

import enum
import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network

_MAPPED_PREFIX = b"\0" * 10 + b"\xff\xff"


class IPFamily(enum.Enum):
    """One of the two address families; each is served by its own table."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"

    @property
    def bits(self) -> int:
        """Address length in bits."""
        return 32 if self is IPFamily.IPV4 else 128


def canonical_address(text: str) -> tuple[IPFamily, str] | None:
    """
    Return the family and canonical text of *text*, or None when it is no address.

    Leading zeros in IPv4 octets are accepted and read as decimal, as the API server of old
    did: ``010.001.0.1`` is ``10.1.0.1``. An IPv4-mapped IPv6 address is an IPv4 address,
    as it is for kube-proxy.
    """
    packed = pack_address(text)
    if packed is None:
        return None
    return (IPFamily.IPV4 if len(packed) == 4 else IPFamily.IPV6), unpack_address(packed)


def pack_address(text: str) -> bytes | None:
    """Return the 4 or 16 bytes of an address in network order, or None when it is no address."""
    if ":" in text:
        return _pack_ipv6(text)
    try:
        return socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return _pack_with_leading_zeros(text)


def _pack_with_leading_zeros(text: str) -> bytes | None:
    octets = text.split(".")
    if len(octets) != 4 or not all(octet.isascii() and octet.isdigit() for octet in octets):
        return None
    try:
        return bytes(map(int, octets))
    except ValueError:
        return None


def _pack_ipv6(text: str) -> bytes | None:
    try:
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return None
    if packed.startswith(_MAPPED_PREFIX):
        return packed[12:]
    return packed


def unpack_address(packed: bytes) -> str:
    """Return the canonical text of 4 or 16 address bytes."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


@lru_cache(maxsize=1024)
def parse_network(text: str) -> Network | None:
    """
    Return the CIDR *text* with its host bits masked, or None when it is no CIDR.

    Leading zeros are read as in ``canonical_address``; a netmask instead of a length is no CIDR.
    """
    address, _, length = text.partition("/")
    if not (length.isascii() and length.isdigit()) or "%" in address:
        return None
    if ":" not in address:
        packed = pack_address(address)
        if packed is None:
            return None
        address = unpack_address(packed)
    try:
        return ip_network(f"{address}/{length}", strict=False)
    except ValueError:
        return None


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks among *texts*, leaving out what is no CIDR."""
    return tuple(network for network in map(parse_network, texts) if network is not None)


def network_family(network: Network) -> IPFamily:
    """Return the family a network belongs to."""
    return IPFamily.IPV4 if network.version == 4 else IPFamily.IPV6
