"""
What a rule does with a packet that meets its conditions.

Each target keeps ``text``, the exact words it was read from.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address


@dataclass(frozen=True, slots=True)
class NoTarget:
    """The rule only counts; the next rule follows."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class Accept:
    """Leaves the hook's chain of this table; the packet goes on."""

    text: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The packet vanishes."""

    text: str


@dataclass(frozen=True, slots=True)
class Reject:
    """The packet is answered with an error; *how* is None for the default, port unreachable."""

    text: str
    how: str | None = None


@dataclass(frozen=True, slots=True)
class Return:
    """Back to the calling chain, or to the policy of a built-in one."""

    text: str


@dataclass(frozen=True, slots=True)
class Jump:
    """``-j``: a chain that returns here; or an unknown extension that was given no options."""

    text: str
    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    """``-g``: a chain that returns to the caller of this one."""

    text: str
    chain: str


@dataclass(frozen=True, slots=True)
class SetMark:
    """``MARK``: packet mark = (mark & keep) ^ flip."""

    text: str
    keep: int
    flip: int

    def apply(self, mark: int) -> int:
        """Return the new packet mark."""
        return (mark & self.keep) ^ self.flip


@dataclass(frozen=True, slots=True)
class SetConnMark:
    """``CONNMARK --set-…``: connection mark = (mark & keep) ^ flip."""

    text: str
    keep: int
    flip: int

    def apply(self, mark: int) -> int:
        """Return the new connection mark."""
        return (mark & self.keep) ^ self.flip


@dataclass(frozen=True, slots=True)
class SaveMark:
    """``CONNMARK --save-mark``: connection mark = (it & ~ctmask) ^ (packet mark & nfmask)."""

    text: str
    nfmask: int
    ctmask: int


@dataclass(frozen=True, slots=True)
class RestoreMark:
    """``CONNMARK --restore-mark``: packet mark = (it & ~nfmask) ^ (connection mark & ctmask)."""

    text: str
    nfmask: int
    ctmask: int


@dataclass(frozen=True, slots=True)
class NatRange:
    """
    Where NAT sends a packet.

    Attributes:
        first, last: addresses, both included; None: the address stays.
        ports: both included; None: the port stays.
        base: the destination port that becomes the first of *ports*, the next one the second.
    """

    first: IPv4Address | IPv6Address | None
    last: IPv4Address | IPv6Address | None
    ports: tuple[int, int] | None = None
    base: int | None = None


@dataclass(frozen=True, slots=True)
class Dnat:
    """``DNAT``: a new destination out of *ranges* (more than one only from ancient kernels)."""

    text: str
    ranges: tuple[NatRange, ...]
    random: bool = False
    persistent: bool = False


@dataclass(frozen=True, slots=True)
class Snat:
    """``SNAT``: a new source out of *ranges*."""

    text: str
    ranges: tuple[NatRange, ...]
    random: bool = False
    random_fully: bool = False
    persistent: bool = False


@dataclass(frozen=True, slots=True)
class Masquerade:
    """``MASQUERADE``: the address of the outgoing interface becomes the source."""

    text: str
    ports: tuple[int, int] | None = None
    random: bool = False
    random_fully: bool = False


@dataclass(frozen=True, slots=True)
class Redirect:
    """``REDIRECT``: the node itself (127.0.0.1 or ::1 in OUTPUT) becomes the destination."""

    text: str
    ports: tuple[int, int] | None = None
    random: bool = False


@dataclass(frozen=True, slots=True)
class Notrack:
    """``NOTRACK`` and ``CT --notrack``: no connection is made, so nothing is translated."""

    text: str


@dataclass(frozen=True, slots=True)
class Ct:
    """``CT``: zone, helper, timeout, events of the connection to be made; continues."""

    text: str


@dataclass(frozen=True, slots=True)
class Tproxy:
    """``TPROXY``: hands the packet to a local socket; the mark becomes (mark & keep) ^ flip."""

    text: str
    port: int
    address: IPv4Address | IPv6Address | None
    keep: int
    flip: int


@dataclass(frozen=True, slots=True)
class Queue:
    """``QUEUE`` and ``NFQUEUE``: a program decides."""

    text: str


@dataclass(frozen=True, slots=True)
class Continue:
    """``LOG``, ``TCPMSS``, ``SET`` …: does something, and the next rule follows."""

    text: str
    name: str


@dataclass(frozen=True, slots=True)
class OpaqueTarget:
    """A target that is not known or could not be read."""

    text: str
    name: str


Target = (
    NoTarget
    | Accept
    | Drop
    | Reject
    | Return
    | Jump
    | Goto
    | SetMark
    | SetConnMark
    | SaveMark
    | RestoreMark
    | Dnat
    | Snat
    | Masquerade
    | Redirect
    | Notrack
    | Ct
    | Tproxy
    | Queue
    | Continue
    | OpaqueTarget
)
