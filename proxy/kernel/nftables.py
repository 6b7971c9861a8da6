"""
nf_tables transactions over netlink: all or nothing, and errors that say which request was refused.

    OSError
    └── NetlinkError             the transaction as a whole could not be made (rights, memory)
        └── TransactionRejected  one or more requests were refused; the kernel is as before
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from proxy.kernel.netlink import (
    NETLINK_NETFILTER,
    NLMSG_ERROR,
    DumpInterrupted,
    NetlinkError,
    NetlinkSocket,
    encode_message,
    split_messages,
)
from proxy.model.addresses import IPFamily
from proxy.netfilter.statements import Verdict
from proxy.netfilter.wire import (
    NFGENMSG,
    NFNL_MSG_BATCH_BEGIN,
    NFNL_MSG_BATCH_END,
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NLA_TYPE_MASK,
    NLM_F_ACK,
    NLM_F_REQUEST,
    Msg,
    attributes,
    batch_marker,
    iterate_attributes,
    message,
    string,
)

FAMILY_NUMBERS = {IPFamily.IPV4: NFPROTO_IPV4, IPFamily.IPV6: NFPROTO_IPV6}
NFT_SET_ANONYMOUS = 1
_REPLY_TIMEOUT_S = 30.0
_SEND_BUFFER_BYTES = 4 << 20
_DUMP_ATTEMPTS = 5


class KernelRequest(Protocol):
    """The part of a request the kernel sees."""

    @property
    def kind(self) -> Msg:
        """The message type."""

    @property
    def flags(self) -> int:
        """Netlink flags beside NLM_F_REQUEST."""

    @property
    def body(self) -> bytes:
        """Attributes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused request: its index in the transaction, and the kernel's reason."""

    index: int
    error: NetlinkError


class TransactionRejected(NetlinkError):
    """The kernel refused a transaction and changed nothing."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        first = refusals[0].error
        super().__init__(first.errno or errno.EIO, first.message, first.offset)
        self.refusals = tuple(refusals)


class NftPort(Protocol):
    """Transactions on one family's tables."""

    def apply(self, requests: Sequence[KernelRequest], /) -> float:
        """
        Make one transaction and return the seconds the kernel took.

        All or nothing: on TransactionRejected or NetlinkError the kernel is as before.
        """

    def table_comment(self, table: str, /) -> str | None:
        """Return a table's comment, "" when it has none, None when there is no such table."""

    def chains(self, table: str, /) -> frozenset[str]:
        """Return the names of a table's chains; empty when there is no such table."""

    def sets(self, table: str, /) -> frozenset[str]:
        """Return the names of a table's sets and maps; empty when there is no such table."""

    def elements(self, table: str, name: str, /) -> list[tuple[bytes, bytes | Verdict]]:
        """
        Return the elements of a set by packed key; empty when there is no such set.

        With each key its packed data, its verdict, the end of its range, or b"" for a plain set.
        """


class NetlinkNft:
    """The kernel's nf_tables for one family; not for use by several threads at once."""

    def __init__(self, family: IPFamily) -> None:
        self._family = FAMILY_NUMBERS[family]
        self._socket = NetlinkSocket(NETLINK_NETFILTER, buffer_bytes=_SEND_BUFFER_BYTES)
        self._socket.set_timeout(_REPLY_TIMEOUT_S)
        self._buffer_bytes = _SEND_BUFFER_BYTES

    @property
    def portid(self) -> int:
        """The sender's identity in the kernel's notifications."""
        return self._socket.portid

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def apply(self, requests: Sequence[KernelRequest]) -> float:
        """Make one transaction; see NftPort."""
        if not requests:
            return 0.0
        first = self._socket.next_sequence(len(requests) + 2)
        data = self._encode(requests, first)
        if len(data) * 2 > self._buffer_bytes:
            self._buffer_bytes = len(data) * 2
            self._socket.set_buffer_sizes(send=self._buffer_bytes)
        started = time.perf_counter()
        self._socket.send(data)
        duration = time.perf_counter() - started
        self._collect(first, len(requests))
        return duration

    def _encode(self, requests: Sequence[KernelRequest], first: int) -> bytes:
        parts = [batch_marker(NFNL_MSG_BATCH_BEGIN, first)]
        last = len(requests) - 1
        for index, request in enumerate(requests):
            flags = request.flags | (NLM_F_ACK if index == last else 0)
            sequence = first + 1 + index
            parts.append(message(request.kind, self._family, flags, sequence, request.body))
        parts.append(batch_marker(NFNL_MSG_BATCH_END, first + 1 + len(requests)))
        return b"".join(parts)

    def _collect(self, first: int, count: int) -> None:
        """Wait for the last request's acknowledgement; raise what was refused on the way."""
        refusals: list[Refusal] = []
        done = False
        while not done:
            for reply in split_messages(self._socket.receive()):
                index = reply.sequence - first - 1
                if reply.type != NLMSG_ERROR or not -1 <= index < count:
                    continue
                if reply.error is not None and index < 0:
                    raise reply.error
                if reply.error is not None:
                    refusals.append(Refusal(index, reply.error))
                done = done or index == count - 1
        if refusals:
            raise TransactionRejected(refusals)
        self._raise_late_refusal(first)

    def _raise_late_refusal(self, first: int) -> None:
        # A failure of the commit itself is answered after the requests were acknowledged.
        self._socket.set_timeout(0)
        try:
            for reply in split_messages(self._socket.receive()):
                if reply.sequence == first and reply.error is not None:
                    raise reply.error
        except BlockingIOError:
            pass
        finally:
            self._socket.set_timeout(_REPLY_TIMEOUT_S)

    def generation(self) -> int:
        """Return the number of the last transaction that anybody made on nf_tables here."""
        payload = NFGENMSG.pack(self._family, 0, 0)
        sequence = self._socket.next_sequence()
        kind = NFNL_SUBSYS_NFTABLES << 8 | Msg.GETGEN
        self._socket.send(encode_message(kind, NLM_F_REQUEST, sequence, payload))
        for reply in split_messages(self._socket.receive()):
            if reply.error is not None:
                raise reply.error
            return _number(attributes(reply.payload[NFGENMSG.size :]).get(1))
        return 0

    def table_comment(self, table: str) -> str | None:
        """Return a table's comment; see NftPort."""
        for found in self._dump(Msg.GETTABLE, b""):
            if _text(found.get(1)) == table:
                userdata = bytes(found.get(6, b""))
                return userdata[2:].rstrip(b"\0").decode() if userdata else ""
        return None

    def chains(self, table: str) -> frozenset[str]:
        """Return a table's chains; see NftPort."""
        found = self._dump(Msg.GETCHAIN, string(1, table))
        return frozenset(_text(c.get(3)) for c in found if _text(c.get(1)) == table)

    def sets(self, table: str) -> frozenset[str]:
        """Return a table's sets and maps; see NftPort. Anonymous ones belong to their rules."""
        found = self._dump(Msg.GETSET, string(1, table))
        return frozenset(
            _text(s.get(2))
            for s in found
            if _text(s.get(1)) == table and not _number(s.get(3)) & NFT_SET_ANONYMOUS
        )

    def elements(self, table: str, name: str) -> list[tuple[bytes, bytes | Verdict]]:
        """Return a set's elements; see NftPort."""
        elements = []
        for found in self._dump(Msg.GETSETELEM, string(1, table) + string(2, name)):
            for _, entry in iterate_attributes(found.get(3, memoryview(b""))):
                elements.append(_element(entry))
        return elements

    def _dump(self, kind: Msg, body: bytes) -> list[dict[int, memoryview]]:
        for attempt in range(_DUMP_ATTEMPTS):
            try:
                return list(self._dump_once(kind, body))
            except DumpInterrupted:
                if attempt == _DUMP_ATTEMPTS - 1:
                    raise
            except NetlinkError as error:
                if error.errno == errno.ENOENT:
                    return []
                raise
        return []

    def _dump_once(self, kind: Msg, body: bytes) -> Iterator[dict[int, memoryview]]:
        payload = NFGENMSG.pack(self._family, 0, 0) + body
        for reply in self._socket.dump(NFNL_SUBSYS_NFTABLES << 8 | kind, payload):
            yield attributes(reply.payload[NFGENMSG.size :])


_VALUE = 4  # bytes before the value in an attribute that holds nothing else


def _element(entry: memoryview) -> tuple[bytes, bytes | Verdict]:
    found = attributes(entry)
    key = bytes(found[1][_VALUE:])
    data = found.get(2)
    if data is None:
        end = found.get(10)
        return key, b"" if end is None else bytes(end[_VALUE:])
    if int.from_bytes(data[2:4], sys.byteorder) & NLA_TYPE_MASK == 1:
        return key, bytes(data[_VALUE:])
    return key, _verdict(bytes(data[_VALUE:]))


@lru_cache(maxsize=4096)
def _verdict(encoded: bytes) -> Verdict:
    found = attributes(encoded)
    return Verdict(int.from_bytes(found[1], "big", signed=True), _text(found.get(2)))


def _text(value: memoryview | None) -> str:
    return bytes(value).rstrip(b"\0").decode() if value is not None else ""


def _number(value: memoryview | None) -> int:
    return int.from_bytes(value, "big") if value is not None else 0
