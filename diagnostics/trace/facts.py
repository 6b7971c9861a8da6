"""What the walk must know of the node beside its rules; a fact that is not known is None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from diagnostics.trace.packet import Address, Packet


class Route(NamedTuple):
    """Where packets to a destination leave, and the node's own address they leave with."""

    oif: str
    source: Address | None


class IpSet(Protocol):
    """One ipset."""

    def contains(self, packet: Packet, dimensions: Sequence[str]) -> bool | None:
        """Return whether an entry matches the packet's dimensions; None when that is not known."""


class Facts(Protocol):
    """One node."""

    def is_local(self, address: Address) -> bool | None:
        """Return whether an address is one of the node's own."""

    def address_types(self, address: Address) -> frozenset[str] | None:
        """Return what iptables' addrtype calls an address: LOCAL, UNICAST, BROADCAST …"""

    def route(self, address: Address) -> Route | None:
        """Return the route to an address that is not local."""

    def ipset(self, name: str) -> IpSet | None:
        """Return an ipset by name."""

    def recent(self, name: str) -> frozenset[Address] | None:
        """Return the addresses that a ``-m recent`` list holds."""
