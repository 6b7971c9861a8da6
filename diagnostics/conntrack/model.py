"""One entry of the connection table in two depths: to count a million of them, and to show one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from diagnostics.readers.conntrack import Flow
from diagnostics.readers.problems import LineProblem
from proxy.conntrack.stale import Place

SEEN_REPLY, ASSURED, OFFLOADED = 1 << 1, 1 << 2, 1 << 14
"""Bits of an entry's status (``enum ip_conntrack_status`` of linux/netfilter)."""

_MOST_BYTES = (1 << 64) - 1

UNKNOWN_S = -1
"""Time left of an entry that does not tell it, because it was handed to hardware."""

PROTOCOL_NAMES = {
    1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 33: "DCCP", 47: "GRE", 58: "ICMPv6",
    132: "SCTP", 136: "UDPLite",
}  # fmt: skip
"""By the number that IANA assigned."""


def protocol_name(number: int) -> str:
    """Return ``TCP`` for 6; the number as text where it has no usual name."""
    return PROTOCOL_NAMES.get(number, str(number))


class Entry(NamedTuple):
    """
    What is counted of an entry; a named tuple because a walk makes a million of them.

    Attributes:
        client: packed address of who opened the connection.
        called: where it was opened to.
        target: where answers come from: after translation the endpoint, else ``called`` itself.
        status: SEEN_REPLY, ASSURED and OFFLOADED.
        state: number of the TCP state, see ``proxy.conntrack.entries``; 0 for other protocols.
        left_s: seconds until the kernel forgets it without another packet, or UNKNOWN_S.
        raw: the entry as it was read; valid until the next one is asked for.
    """

    protocol: int
    client: bytes
    called: Place
    target: Place
    status: int
    state: int
    left_s: int
    raw: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Detail:
    """An entry in full; ``age_s`` is None where the kernel keeps no timestamps."""

    flow: Flow
    age_s: float | None = None

    @property
    def bytes(self) -> int | None:
        """Bytes of both directions; None while accounting is off, or for no kernel's number."""
        total = 0
        for ends in (self.flow.original, self.flow.reply):
            if ends.bytes is None or ends.bytes > _MOST_BYTES:
                return None
            total += ends.bytes
        return total

    @property
    def rate(self) -> float | None:
        """Bytes per second since the entry was made, None when that is not known."""
        if self.bytes is None or not self.age_s:
            return None
        return self.bytes / self.age_s


class Table(Protocol):
    """A connection table that can be walked: the kernel's, or a dump of one."""

    problems: list[LineProblem]
    """What could not be read; complete after a walk."""

    notes: list[str]
    """What makes a walk inexact; complete after it."""

    def entries(self) -> Iterator[Entry]:
        """Walk the table."""

    def detail(self, raw: bytes) -> Detail | None:
        """Return the whole entry that ``Entry.raw`` was of."""


@dataclass(slots=True)
class NoTable:
    """A table that nobody may walk."""

    problems: list[LineProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def entries(self) -> Iterator[Entry]:
        """Yield nothing."""
        return iter(())

    def detail(self, raw: bytes) -> Detail | None:
        """Know nothing."""
        return None
