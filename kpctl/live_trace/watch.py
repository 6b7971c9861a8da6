"""Follows packets that pass by, for a while."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Self

from kpctl.exit_codes import USAGE
from kpctl.live_trace.guard import Limits, require_few, require_harmless
from kpctl.live_trace.own_table import OwnTable
from kpctl.live_trace.packets import QUIET_S, Assembler, TracedPacket
from kpctl.live_trace.question import LiveTraceError, PacketFilter
from proxy.kernel.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket, split_messages
from proxy.netfilter.trace_messages import (
    TRACE_GROUP,
    TRACE_TYPE,
    TraceMessage,
    read_trace_message,
)

MOST_S = 3600.0
MOST_PACKETS = 100_000
_COUNTING_S = 1.0
_RECEIVE_BUFFER_BYTES = 4 << 20
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """
    How long to look.

    Attributes:
        for_s: seconds, at most ``MOST_S``.
        count: packets, 1..``MOST_PACKETS``.
    """

    for_s: float = 30.0
    count: int = 100

    def check(self) -> None:
        """Raise LiveTraceError for a watch without an end."""
        if not 0 < self.for_s <= MOST_S:
            raise LiveTraceError(
                f"--for {self.for_s:g}s is not within 0..{MOST_S:g} s", "watch again later", USAGE
            )
        if not 1 <= self.count <= MOST_PACKETS:
            raise LiveTraceError(
                f"--count {self.count} is not within 1..{MOST_PACKETS:,}", "choose fewer", USAGE
            )


class TraceSocket:
    """
    Where the kernel's trace messages arrive; tracing happens only while somebody listens.

    ``lost`` says whether the kernel had to drop messages.
    """

    def __init__(self) -> None:
        self.lost = False
        self._socket = NetlinkSocket(
            NETLINK_NETFILTER, groups=(TRACE_GROUP,), buffer_bytes=_RECEIVE_BUFFER_BYTES
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def receive(self, within_s: float) -> list[TraceMessage]:
        """Return the next messages; an empty list when none came in time."""
        self._socket.set_timeout(within_s)
        try:
            data = self._socket.receive()
        except (TimeoutError, BlockingIOError):
            return []
        except NetlinkError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self.lost = True
            return []
        messages = (m for m in split_messages(data) if m.type == TRACE_TYPE)
        return [read for m in messages if (read := read_trace_message(m.payload)) is not None]


def follow(socket: TraceSocket, for_s: float, count: int) -> Iterator[TracedPacket]:
    """
    Yield packets as they are through, until the time or the count is over.

    ``at_s`` of a packet is that of ``time.monotonic``. Packets that are underway when the time is
    over are waited for.
    """
    assembler = Assembler()
    deadline = time.monotonic() + for_s
    seen = 0
    while seen < count and (now := time.monotonic()) < deadline:
        for message in socket.receive(min(_POLL_S, deadline - now)):
            assembler.add(message, time.monotonic())
        for packet in assembler.through(time.monotonic()):
            seen += 1
            yield packet
            if seen == count:
                return
    if seen < count:
        yield from _underway(socket, assembler, count - seen)


def _underway(socket: TraceSocket, assembler: Assembler, count: int) -> Iterator[TracedPacket]:
    """Yield the packets that had begun; new ones are not taken."""
    deadline = time.monotonic() + QUIET_S
    while (now := time.monotonic()) < deadline:
        for message in socket.receive(deadline - now):
            assembler.add(message, time.monotonic())
    for number, packet in enumerate(assembler.rest()):
        if number == count:
            return
        yield packet


class Watch:
    """
    Packets that pass by.

    Args:
        packets: Which; must be narrow.
        options: How long.
        limits: What the node may be burdened with.

    After ``run``, ``per_second`` is how many matched in the second before, ``lost`` whether the
    kernel had more to tell than could be read.
    """

    def __init__(self, packets: PacketFilter, options: WatchOptions, limits: Limits) -> None:
        self.packets = packets
        self.per_second = 0.0
        self.lost = False
        self.options = options
        self._limits = limits

    def run(self, take: Callable[[TracedPacket], None]) -> None:
        """
        Give each packet to *take*; everything is removed when this returns or raises.

        Raises:
            LiveTraceError: It could hurt, or cannot be done.
            NetlinkError: The kernel refuses something unexpectedly.
        """
        self.options.check()
        require_harmless(self.packets, self._limits)
        with closing(OwnTable(self.packets.family)) as table, TraceSocket() as socket:
            self._estimate(table)
            table.trace(self.packets, self.options.count, self._limits.traced_per_s)
            try:
                for packet in follow(socket, self.options.for_s, self.options.count):
                    take(packet)
            finally:
                self.lost = socket.lost

    def _estimate(self, table: OwnTable) -> None:
        started = time.monotonic()
        table.count(self.packets)
        time.sleep(_COUNTING_S)
        self.per_second = table.counted() / (time.monotonic() - started)
        require_few(self.packets, self.per_second, self._limits)
