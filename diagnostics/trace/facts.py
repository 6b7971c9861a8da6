"""What the walk must know of the node beside its rules; a fact that is not known is None."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from diagnostics.trace.packet import Address, Packet


class Route(NamedTuple):
    """
    Where packets to a destination leave, and the node's own address they leave with.

    ``refusal`` is blackhole, unreachable or prohibit where the route lets nothing through;
    ``is_local`` that the route leads to the node itself. Without ``is_certain`` a policy rule could
    not be decided, or there are several next hops.
    """

    oif: str
    source: Address | None
    refusal: str = ""
    is_local: bool = False
    is_certain: bool = True


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

    def route(self, address: Address, packet: Packet | None = None) -> Route | None:
        """Return the route to an address that is not local, as policy rules choose for a packet."""

    def device_addresses(self, device: str) -> tuple[Address, ...] | None:
        """Return the addresses of an interface in the kernel's order."""

    def ipset(self, name: str) -> IpSet | None:
        """Return an ipset by name."""

    def recent(self, name: str) -> frozenset[Address] | None:
        """Return the addresses that a ``-m recent`` list holds."""

    def setting(self, name: str) -> int | None:
        """Return a kernel setting that is a number: ``net.ipv4.ip_forward``."""


def redirected(packet: Packet, facts: Facts) -> Address:
    """
    Return where REDIRECT sends a packet: to the interface it came in on (nf_nat_redirect()).

    Packets of the node itself, and any whose interface is not known, go to the loopback address.
    """
    own = facts.device_addresses(packet.iif) if packet.iif else None
    fitting = [address for address in own or () if address.version == packet.family]
    loopback = ip_address("127.0.0.1" if packet.family == 4 else "::1")
    # Of IPv4 addresses simply the first one counts, 169.254.0.0/16 included.
    return next((a for a in fitting if a.version == 4 or not a.is_link_local), loopback)


def types_on(device: str | None, address: Address, facts: Facts) -> frozenset[str] | None:
    """
    Return what an address is to one interface (inet_dev_addr_type()); None: not known.

    The node's own addresses of other interfaces are UNICAST there.
    """
    types = facts.address_types(address)
    if types != frozenset({"LOCAL"}):
        return types
    own = facts.device_addresses(device) if device else None
    if own is None:
        return None
    return types if address in own else frozenset({"UNICAST"})
