"""The connection table of this network namespace, read through netlink; nothing is changed."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from diagnostics.conntrack.model import Detail, Entry
from diagnostics.conntrack.wire import entry_reader, read_detail
from diagnostics.readers.conntrack import Flow
from diagnostics.readers.problems import LineProblem
from proxy.conntrack.entries import Direction, get_request
from proxy.conntrack.messages import CT_GET
from proxy.kernel.conntrack import TableSocket, open_netfilter
from proxy.kernel.netlink import DumpInterrupted, NetlinkError, NetlinkSocket
from proxy.kernel.query import query
from proxy.netfilter.wire import NFGENMSG

_ANY_FAMILY = NFGENMSG.pack(0, 0, 0)


class LiveTable:
    """
    The kernel's table of both families.

    Args:
        open_socket: Gives the socket to ask.
    """

    def __init__(self, open_socket: Callable[[], TableSocket] = open_netfilter) -> None:
        self._open_socket = open_socket
        self.problems: list[LineProblem] = []
        self.notes: list[str] = []

    def entries(self) -> Iterator[Entry]:
        """Walk the table once; memory does not depend on its size. Raises NetlinkError."""
        read = entry_reader()
        self.notes = []
        with self._open_socket() as netlink:
            try:
                for message in netlink.dump(CT_GET, _ANY_FAMILY):
                    entry = read(message.payload)
                    if entry is not None:
                        yield entry
            except DumpInterrupted:
                self.notes.append(
                    "the table was resized while it was read: entries may be missing or be "
                    "counted twice"
                )

    def detail(self, raw: bytes) -> Detail | None:
        """Return a listed entry in full."""
        return read_detail(raw)


def direction_of(flow: Flow) -> Direction:
    """Return the packets that the client sends."""
    original = flow.original
    return Direction(
        original.source, original.source_port, original.destination, original.destination_port
    )


def find_entry(
    netlink: NetlinkSocket, protocol: int, packets: Direction
) -> tuple[bytes, Detail] | None:
    """
    Return the entry with these original packets, outside zones, as it is listed and in full.

    Raises:
        NetlinkError: The kernel refused for another reason than that there is none.
        ValueError: The addresses are no pair.
    """
    try:
        answers = query(netlink, CT_GET, get_request(protocol, packets))
    except NetlinkError as refusal:
        if refusal.errno == errno.ENOENT:
            return None
        raise
    for answer in answers:
        payload = bytes(answer.payload)
        if (detail := read_detail(payload)) is not None:
            return payload, detail
    return None


def bytes_now(flows: Sequence[Flow]) -> list[int | None]:
    """
    Return how many bytes each flow has carried by now; None for one that is gone or not counted.

    Raises NetlinkError.
    """
    with closing(open_netfilter()) as netlink:
        return [_bytes_of(netlink, flow) for flow in flows]


def _bytes_of(netlink: NetlinkSocket, flow: Flow) -> int | None:
    found = find_entry(netlink, flow.protocol, direction_of(flow))
    if found is None or found[1].flow.identity != flow.identity:
        return None
    return found[1].bytes
