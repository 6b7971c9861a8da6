"""
Puts the kernel's trace messages together into packets.

The kernel numbers packets by where they are in memory, so that a number is used again, and a packet
that comes back on the loopback device has another. That a packet is through is told by nothing:
it is when no more is heard of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kpctl.live_trace.own_table import TABLE
from proxy.netfilter.trace_messages import Headers, TraceKind, TraceMessage

QUIET_S = 0.25
"""After so long without a word a packet counts as through; none is underway for a millisecond."""

_LOOPBACK = 1  # LOOPBACK_IFINDEX of the kernel


@dataclass(frozen=True, slots=True)
class TracedPacket:
    """What the kernel told of one packet, in order; never empty. ``at_s`` is when it began."""

    at_s: float
    messages: tuple[TraceMessage, ...]


@dataclass(slots=True)
class _Growing:
    at_s: float
    last_s: float
    messages: list[TraceMessage]
    headers: Headers | None = None
    oif: int = 0

    def add(self, message: TraceMessage, now_s: float) -> None:
        self.messages.append(message)
        if message.headers is not None:
            self.headers, self.oif = message.headers, message.oif
        self.last_s = now_s

    def done(self) -> TracedPacket:
        return TracedPacket(self.at_s, tuple(self.messages))


class Assembler:
    """
    Takes messages as they arrive and gives packets away when they are through.

    Times are seconds of any clock that never goes back, the same in all calls.
    """

    def __init__(self) -> None:
        self._growing: dict[int, _Growing] = {}
        self._done: list[_Growing] = []

    def add(self, message: TraceMessage, now_s: float) -> None:
        """Take one message."""
        known = self._growing.get(message.packet_id)
        looped = self._looped(message)
        if looped is not None:
            self._growing[message.packet_id] = looped
            looped.add(message, now_s)
        elif known is None or _begins(message):
            if known is not None:
                self._done.append(known)
            made = _Growing(now_s, now_s, [])
            made.add(message, now_s)
            self._growing[message.packet_id] = made
        else:
            known.add(message, now_s)

    def _looped(self, message: TraceMessage) -> _Growing | None:
        """Return the packet that left by the loopback device as this one comes in by it."""
        if message.iif != _LOOPBACK or message.oif or message.headers is None:
            return None
        for packet in self._growing.values():
            if packet.oif == _LOOPBACK and packet.headers == message.headers:
                return packet
        return None

    def through(self, now_s: float) -> Iterator[TracedPacket]:
        """Yield the packets that nothing was heard of for ``QUIET_S``, oldest first."""
        quiet = {id(p): p for p in self._growing.values() if now_s - p.last_s >= QUIET_S}
        self._growing = {
            number: packet for number, packet in self._growing.items() if id(packet) not in quiet
        }
        yield from _ordered([*self._done, *quiet.values()])
        self._done = []

    def rest(self) -> Iterator[TracedPacket]:
        """Yield all packets that were not given away yet, oldest first."""
        left = {id(packet): packet for packet in self._growing.values()}
        yield from _ordered([*self._done, *left.values()])
        self._growing, self._done = {}, []


def _ordered(packets: list[_Growing]) -> Iterator[TracedPacket]:
    for packet in sorted(packets, key=lambda one: one.at_s):
        yield packet.done()


def _begins(message: TraceMessage) -> bool:
    """Whether our own rule has just switched the tracing of a packet on."""
    return message.table == TABLE and message.kind is TraceKind.RULE and message.handle != 0
