"""
A netlink socket and nothing more: framing, acknowledgements, dumps and the kernel's error texts.

The hot paths (rule elements, connection tracking) encode their messages with ``struct``; a general
netlink library costs 15 MB and 0.1 s at start and some hundred microseconds per message.
Layout and constants: include/uapi/linux/netlink.h.

    OSError
    └── NetlinkError            the kernel refused a request, or the socket failed
        └── DumpInterrupted     the table changed during a dump, which may be incomplete
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from proxy.netfilter.wire import HEADER, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, attributes

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_DUMP_INTR = 0x10
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_NLMSGERR_ATTR_MSG = 1
_NLMSGERR_ATTR_OFFS = 2

_ERROR = struct.Struct("=i")
HEADER_SIZE = HEADER.size

RECEIVE_SIZE = 1 << 16
"""Bytes offered to one receive; the kernel fills at most 32 KiB of a dump into one datagram."""


class NetlinkError(OSError):
    """
    The kernel's refusal of one request.

    ``errno`` is positive; ``message`` is the kernel's own sentence (extended acknowledgement)
    or "" when it gave none; ``offset`` is where in the request it found the fault, in bytes from
    the request's netlink header, or None.
    """

    def __init__(self, number: int, message: str = "", offset: int | None = None) -> None:
        super().__init__(number, os.strerror(number) + (f": {message}" if message else ""))
        self.message = message
        self.offset = offset


class DumpInterrupted(NetlinkError):
    """A dump ran while the table changed under it: entries may be missing or repeated."""

    def __init__(self) -> None:
        super().__init__(errno.EINTR, "the table changed while it was read")


class Message(NamedTuple):
    """
    One netlink message; ``payload`` is what follows the 16-byte header, without padding.

    A named tuple because a dump makes a million of them, and it is built three times faster than
    a frozen dataclass.
    """

    type: int
    flags: int
    sequence: int
    portid: int
    payload: memoryview

    @property
    def error(self) -> NetlinkError | None:
        """The refusal reported by an NLMSG_ERROR or NLMSG_DONE; None for anything else."""
        if self.type not in (NLMSG_ERROR, NLMSG_DONE) or len(self.payload) < 4:
            return None
        code = -_ERROR.unpack_from(self.payload)[0]
        if code == 0:
            return None
        details = self._extended_ack()
        text, offset = details.get(_NLMSGERR_ATTR_MSG), details.get(_NLMSGERR_ATTR_OFFS)
        return NetlinkError(
            code,
            "" if text is None else bytes(text).rstrip(b"\0").decode(errors="backslashreplace"),
            struct.unpack("=I", offset)[0] if offset is not None and len(offset) == 4 else None,
        )

    def _extended_ack(self) -> dict[int, memoryview]:
        if not self.flags & NLM_F_ACK_TLVS:
            return {}
        start = 4
        if self.type == NLMSG_ERROR:
            start += HEADER_SIZE
            if not self.flags & NLM_F_CAPPED and len(self.payload) >= start:
                request_length = HEADER.unpack_from(self.payload, 4)[0]
                start = 4 + ((request_length + 3) & ~3)
        return attributes(self.payload[start:])


def encode_message(message_type: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """Return a whole message (header and payload, padded); the kernel fills in the port id."""
    padding = b"\0" * (-len(payload) & 3)
    return (
        HEADER.pack(HEADER_SIZE + len(payload), message_type, flags, sequence, 0)
        + payload
        + padding
    )


def split_messages(data: bytes | memoryview) -> Iterator[Message]:
    """Yield the messages of one datagram, in order; stops at one whose length cannot be right."""
    view = memoryview(data)
    offset, end = 0, len(view)
    while offset + HEADER_SIZE <= end:
        length, kind, flags, sequence, portid = HEADER.unpack_from(view, offset)
        if length < HEADER_SIZE or offset + length > end:
            return
        yield Message(kind, flags, sequence, portid, view[offset + HEADER_SIZE : offset + length])
        offset += (length + 3) & ~3


class NetlinkSocket:
    """
    A bound socket of one netlink protocol, with extended error texts switched on.

    Not safe for use by several threads at once. Every method that talks to the kernel raises
    NetlinkError; receiving may also raise TimeoutError or BlockingIOError when a time-out was set
    or the socket was made non-blocking.

    *protocol* is NETLINK_NETFILTER, NETLINK_ROUTE, …; *groups* are the multicast groups to join
    (numbers, not a mask); *buffer_bytes* is the wanted size of each kernel buffer: beyond the
    system's limit it needs CAP_NET_ADMIN, without which the socket gets the limit.
    """

    def __init__(
        self, protocol: int, groups: tuple[int, ...] = (), buffer_bytes: int = 1 << 20
    ) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
            )
        except OSError as error:
            raise _as_netlink_error(error) from error
        try:
            self._configure(groups, buffer_bytes)
        except OSError as error:
            self._socket.close()
            raise _as_netlink_error(error) from error
        self._sequence = 0
        self._closing = False
        self.portid: int = self._socket.getsockname()[0]

    def _configure(self, groups: tuple[int, ...], buffer_bytes: int) -> None:
        self.set_buffer_sizes(send=buffer_bytes, receive=buffer_bytes)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def set_buffer_sizes(self, *, send: int | None = None, receive: int | None = None) -> None:
        """Ask for kernel buffers of these sizes in bytes; None leaves one as it is."""
        for size, forced, polite in (
            (send, _SO_SNDBUFFORCE, socket.SO_SNDBUF),
            (receive, _SO_RCVBUFFORCE, socket.SO_RCVBUF),
        ):
            if size is None:
                continue
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, size)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, polite, size)

    def fileno(self) -> int:
        """Return the file descriptor, for selectors."""
        return self._socket.fileno()

    def set_timeout(self, timeout_s: float | None) -> None:
        """Limit each later receive to *timeout_s* seconds; None waits for ever, 0 never waits."""
        self._socket.settimeout(timeout_s)

    def next_sequence(self, count: int = 1) -> int:
        """Reserve *count* sequence numbers and return the first, 1..2³²-1; never 0."""
        first = self._sequence + 1
        if first + count > 0xFFFFFFFF:
            first = 1
        self._sequence = first + count - 1
        return first

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send one datagram of one or more whole messages to the kernel."""
        try:
            self._socket.send(data)
        except (TimeoutError, BlockingIOError):
            raise
        except OSError as error:
            raise _as_netlink_error(error) from error

    def receive(self) -> bytes:
        """
        Return the next datagram from the kernel: one or more whole messages.

        Raises NetlinkError with ENOBUFS when the kernel had to drop messages for this socket.
        """
        try:
            data, _, flags, _ = self._socket.recvmsg(RECEIVE_SIZE)
        except (TimeoutError, BlockingIOError):
            raise
        except OSError as error:
            raise _as_netlink_error(error) from error
        if self._closing:
            raise NetlinkError(errno.ESHUTDOWN)
        if flags & socket.MSG_TRUNC:
            raise NetlinkError(errno.EMSGSIZE, f"a datagram exceeds {RECEIVE_SIZE} bytes")
        return data

    def request(self, message_type: int, flags: int, payload: bytes) -> None:
        """Send one request and wait for its acknowledgement; a refusal raises NetlinkError."""
        sequence = self.next_sequence()
        self.send(
            encode_message(message_type, flags | NLM_F_REQUEST | NLM_F_ACK, sequence, payload)
        )
        for message in self._replies(sequence):
            if message.type == NLMSG_ERROR:
                if message.error is not None:
                    raise message.error
                return

    def request_many(
        self, message_type: int, flags: int, payloads: Sequence[bytes]
    ) -> list[NetlinkError | None]:
        """
        Send independent requests of one type in one datagram; return each one's refusal, or None.

        In the order given; one refusal does not stop the others. A few hundred at most: the
        datagram and all answers must fit the socket's buffers.
        """
        if not payloads:
            return []
        first = self.next_sequence(len(payloads))
        flags |= NLM_F_REQUEST | NLM_F_ACK
        self.send(
            b"".join(
                encode_message(message_type, flags, first + index, payload)
                for index, payload in enumerate(payloads)
            )
        )
        results: dict[int, NetlinkError | None] = {}
        while len(results) < len(payloads):
            for message in split_messages(self.receive()):
                index = message.sequence - first
                if message.type == NLMSG_ERROR and 0 <= index < len(payloads):
                    results[index] = message.error
        return [results[index] for index in range(len(payloads))]

    def dump(self, message_type: int, payload: bytes) -> Iterator[Message]:
        """
        Yield every message of a dump, in the kernel's order, as it arrives.

        Constant memory: at most one datagram is held. Raises NetlinkError for a refusal and, after
        the last message, DumpInterrupted when the kernel marked the dump as inconsistent. Finish
        or close the iteration before the socket is used for anything else.
        """
        interrupted = False
        sequence = self.next_sequence()
        self.send(encode_message(message_type, NLM_F_REQUEST | NLM_F_DUMP, sequence, payload))
        for message in self._replies(sequence):
            interrupted = interrupted or bool(message.flags & NLM_F_DUMP_INTR)
            if message.type in (NLMSG_DONE, NLMSG_ERROR):
                if message.error is not None:
                    raise message.error
                break
            if message.type != NLMSG_NOOP:
                yield message
        if interrupted:
            raise DumpInterrupted

    def _replies(self, sequence: int) -> Iterator[Message]:
        while True:
            for message in split_messages(self.receive()):
                if message.sequence == sequence:
                    yield message

    def shutdown(self) -> None:
        """Wake a thread that waits in receive (it gets an error), then close."""
        self._closing = True
        # Netlink knows no shutdown(2), and close(2) wakes nobody: a message to ourselves does.
        with contextlib.suppress(OSError):
            self._socket.sendto(encode_message(NLMSG_NOOP, 0, 0, b""), (self.portid, 0))
        self.close()

    def close(self) -> None:
        """Close the socket; closing twice is harmless."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _as_netlink_error(error: OSError) -> NetlinkError:
    if isinstance(error, NetlinkError):
        return error
    return NetlinkError(error.errno or errno.EIO)
