"""
What a rule may ask of a packet, one value per condition.

All conditions of a rule must hold. Each keeps ``text``, the exact words it was read from, so that
it can be cited. ``negated`` turns a condition around after all else about it was decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

Side = Literal["src", "dst"]
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Address:
    """
    ``-s`` or ``-d``: an address under a mask.

    Attributes:
        version: 4 or 6.
        value, mask: as numbers; the mask need not be a prefix.
    """

    text: str
    side: Side
    version: int
    value: int
    mask: int
    negated: bool = False

    def contains(self, address: IPv4Address | IPv6Address) -> bool:
        """Return whether an address lies in the network; negation is left to the caller."""
        return address.version == self.version and int(address) & self.mask == self.value

    @property
    def network(self) -> Network | None:
        """The network, or None when the mask is no prefix."""
        bits = 32 if self.version == 4 else 128
        prefix = self.mask.bit_count()
        if self.mask != ((1 << prefix) - 1) << (bits - prefix):
            return None
        if self.version == 4:
            return IPv4Network((self.value, prefix))
        return IPv6Network((self.value, prefix))


@dataclass(frozen=True, slots=True)
class AddressRange:
    """``-m iprange``: an address from *first* to *last*, both included."""

    text: str
    side: Side
    first: IPv4Address | IPv6Address
    last: IPv4Address | IPv6Address
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Interface:
    """``-i`` or ``-o``: an interface name; one that ends in ``+`` stands for all that begin so."""

    text: str
    side: Literal["in", "out"]
    name: str
    negated: bool = False

    def covers(self, name: str) -> bool:
        """Return whether an interface is meant; negation is left to the caller."""
        if self.name.endswith("+"):
            return name.startswith(self.name[:-1])
        return name == self.name


@dataclass(frozen=True, slots=True)
class Protocol:
    """``-p``: an IP protocol by number; 0 stands for all."""

    text: str
    number: int
    name: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Fragment:
    """``-f``: any but the first fragment of an IPv4 packet."""

    text: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A module named without conditions (``-m tcp``): holds for every packet of the protocol."""

    text: str
    module: str


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of ``-m tcp``, udp, udplite, sctp, dccp or multiport; "any": source or destination."""

    text: str
    side: Literal["src", "dst", "any"]
    ranges: tuple[tuple[int, int], ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class TcpFlags:
    """``--tcp-flags MASK SET`` and ``--syn``: of the flags in *mask* exactly *flags* are set."""

    text: str
    mask: frozenset[str]
    flags: frozenset[str]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class IcmpType:
    """``--icmp-type`` and ``--icmpv6-type``: name, ``type`` or ``type/code`` as written."""

    text: str
    value: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment without its quotes; always holds."""

    text: str
    comment: str


@dataclass(frozen=True, slots=True)
class ConntrackState:
    """``-m conntrack --ctstate`` and ``-m state --state``: one of these states."""

    text: str
    states: frozenset[str]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class ConntrackField:
    """Any other option of ``-m conntrack``: ctproto, ctstatus, ctdir, ctorigdst, ctexpire …"""

    text: str
    name: str
    value: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """``-m mark``: packet mark & mask == value."""

    text: str
    value: int
    mask: int
    negated: bool = False


@dataclass(frozen=True, slots=True)
class ConnMark:
    """``-m connmark``: connection mark & mask == value."""

    text: str
    value: int
    mask: int
    negated: bool = False


@dataclass(frozen=True, slots=True)
class AddrType:
    """``-m addrtype``: the address has one of these types, asked of one interface if *limit*."""

    text: str
    side: Side
    types: frozenset[str]
    negated: bool = False
    limit: Literal["in", "out"] | None = None


@dataclass(frozen=True, slots=True)
class Random:
    """``-m statistic --mode random``: the kernel's probability, a multiple of 2**-31."""

    text: str
    probability: Fraction
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Nth:
    """``-m statistic --mode nth``: packet number *packet* (from 0) of *every*."""

    text: str
    every: int
    packet: int
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Recent:
    """
    ``-m recent``: looks an address up in a list, or puts it there.

    Attributes:
        operation: set, rcheck, update or remove.
        seconds, hitcount: None when not asked for.
        mask: the part of the address that is kept, as written; None: all of it.
    """

    text: str
    operation: str
    name: str
    side: Side
    mask: str | None
    seconds: int | None
    hitcount: int | None
    reap: bool
    rttl: bool
    negated: bool = False


@dataclass(frozen=True, slots=True)
class IpSet:
    """``-m set``: an entry matches the packet's *dimensions*; *flags* are further options."""

    text: str
    name: str
    dimensions: tuple[Side, ...]
    flags: tuple[str, ...] = ()
    negated: bool = False


@dataclass(frozen=True, slots=True)
class PhysDev:
    """``-m physdev``: in and out name a bridge port; is-in, is-out, is-bridged do not."""

    text: str
    test: Literal["in", "out", "is-in", "is-out", "is-bridged"]
    name: str | None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Ipvs:
    """``-m ipvs``: ipvs, vproto, vaddr, vport, vdir, vmethod, vportctl and its value."""

    text: str
    field: str
    value: str | None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Nfacct:
    """``-m nfacct``: counts the packet under a name; always holds."""

    text: str
    name: str


@dataclass(frozen=True, slots=True)
class Limit:
    """``-m limit`` and ``-m hashlimit``: holds while the rate is not exceeded."""

    text: str
    module: Literal["limit", "hashlimit"]
    rate: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """A condition that cannot be decided or not be read; *module* is "" where none was named."""

    text: str
    module: str
    negated: bool = False


Match = (
    Address
    | AddressRange
    | Interface
    | Protocol
    | Fragment
    | Loaded
    | Ports
    | TcpFlags
    | IcmpType
    | Comment
    | ConntrackState
    | ConntrackField
    | Mark
    | ConnMark
    | AddrType
    | Random
    | Nth
    | Recent
    | IpSet
    | PhysDev
    | Ipvs
    | Nfacct
    | Limit
    | Opaque
)
