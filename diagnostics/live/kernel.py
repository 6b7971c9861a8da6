"""
nf_tables as the kernel answers for one table, chain, set or element at a time.

nft 1.0 reads the elements of every anonymous set of a table before it lists a single chain of it;
the kernel finds a set by walking over all of them. Measured with 10,000 Services of kube-proxy's
nftables mode: 2.5 s for ``nft list chain``, 0.1 ms for the rules of the same chain from the kernel.
Numbers are those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from proxy.kernel.netlink import (
    NETLINK_NETFILTER,
    DumpInterrupted,
    Message,
    NetlinkError,
    NetlinkSocket,
)
from proxy.kernel.query import query
from proxy.netfilter.wire import (
    NFGENMSG,
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    Msg,
    attr,
    attributes,
    iterate_attributes,
    nested,
    string,
    u32,
)

T = TypeVar("T")
Attributes = dict[int, memoryview]

FAMILIES = {"inet": 1, "ip": NFPROTO_IPV4, "arp": 3, "netdev": 5, "bridge": 7, "ip6": NFPROTO_IPV6}
_WORDS = {number: word for word, number in FAMILIES.items()}
_CATCH_ALL = 2
_DORMANT = 1
_ATTEMPTS = 5
_REPLY_TIMEOUT_S = 30.0
# What a kernel without nf_tables, or without a family, answers.
_NO_NF_TABLES = frozenset(
    {errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT, errno.EAFNOSUPPORT}
)


class KernelTable(NamedTuple):
    """A table's family in nft's word, its name, and whether its base chains are not registered."""

    family: str
    name: str
    dormant: bool = False


class KernelSet(NamedTuple):
    """A set's properties in the kernel's numbers; lengths in bytes, ``timeout_ms`` of elements."""

    name: str
    flags: int
    key_type: int
    key_length: int
    data_type: int = 0
    data_length: int = 0
    timeout_ms: int = 0
    user_data: bytes = b""


class NftReader(Protocol):
    """One question a method; NetlinkError when the kernel refuses, or cannot be asked."""

    def tables(self) -> list[KernelTable]:
        """Return all tables; none where the kernel has no nf_tables."""

    def has_chain(self, table: KernelTable, chain: str, /) -> bool:
        """Return whether a table has a chain."""

    def rules(self, table: KernelTable, chain: str, /) -> list[bytes]:
        """Return the attributes of each rule of a chain, in their order."""

    def set(self, table: KernelTable, name: str, /) -> KernelSet | None:
        """Return the properties of a set, also of an anonymous one; None without such a set."""

    def elements(self, table: KernelTable, name: str, /) -> list[bytes]:
        """Return the attributes of each element of a set."""

    def element(self, table: KernelTable, name: str, key: bytes, /) -> bytes | None:
        """Return the attributes of the element that covers a packed key, None for none."""


class KernelNft:
    """The kernel of the calling thread's network namespace; a socket is opened for each answer."""

    def tables(self) -> list[KernelTable]:
        """Return all tables; see NftReader."""
        try:
            found = self._dump(0, Msg.GETTABLE, b"", _table)
        except NetlinkError as error:
            if error.errno in _NO_NF_TABLES:
                return []
            raise
        return [table for table in found if table is not None]

    def has_chain(self, table: KernelTable, chain: str) -> bool:
        """Return whether a table has a chain."""
        return self._ask(table, Msg.GETCHAIN, string(1, table.name) + string(3, chain)) is not None

    def rules(self, table: KernelTable, chain: str) -> list[bytes]:
        """Return the rules of a chain; see NftReader."""
        names = string(1, table.name) + string(2, chain)
        return self._dump(FAMILIES[table.family], Msg.GETRULE, names, _body)

    def set(self, table: KernelTable, name: str) -> KernelSet | None:
        """Return the properties of a set; see NftReader."""
        answer = self._ask(table, Msg.GETSET, string(1, table.name) + string(2, name))
        return None if answer is None else _set(attributes(answer))

    def elements(self, table: KernelTable, name: str) -> list[bytes]:
        """Return the elements of a set; see NftReader."""
        names = string(1, table.name) + string(2, name)
        answers = self._dump(FAMILIES[table.family], Msg.GETSETELEM, names, _body)
        return [element for answer in answers for element in _elements(answer)]

    def element(self, table: KernelTable, name: str, key: bytes) -> bytes | None:
        """Return the element that covers a key; see NftReader."""
        names = string(1, table.name) + string(2, name)
        # A kernel before 5.13 knows no catch-all and refuses the second question as malformed.
        for wanted, absent in (
            (nested(1, attr(1, key)), (errno.ENOENT,)),
            (u32(3, _CATCH_ALL), (errno.ENOENT, errno.EINVAL)),
        ):
            answer = self._ask(table, Msg.GETSETELEM, names + nested(3, nested(1, wanted)), absent)
            if answer is not None:
                return next(iter(_elements(answer)), None)
        return None

    def _ask(
        self,
        table: KernelTable,
        kind: Msg,
        body: bytes,
        absent: tuple[int, ...] = (errno.ENOENT,),
    ) -> bytes | None:
        with _socket() as netlink:
            payload = NFGENMSG.pack(FAMILIES[table.family], 0, 0) + body
            try:
                answers = query(netlink, NFNL_SUBSYS_NFTABLES << 8 | kind, payload)
            except NetlinkError as error:
                if error.errno in absent:
                    return None
                raise
        return _body(answers[0]) if answers else None

    def _dump(self, family: int, kind: Msg, body: bytes, take: Callable[[Message], T]) -> list[T]:
        payload = NFGENMSG.pack(family, 0, 0) + body
        for attempt in range(_ATTEMPTS):
            with _socket() as netlink:
                try:
                    return [
                        take(reply)
                        for reply in netlink.dump(NFNL_SUBSYS_NFTABLES << 8 | kind, payload)
                    ]
                except DumpInterrupted:
                    if attempt == _ATTEMPTS - 1:
                        raise
        return []


def _socket() -> NetlinkSocket:
    netlink = NetlinkSocket(NETLINK_NETFILTER)
    netlink.set_timeout(_REPLY_TIMEOUT_S)
    return netlink


def _body(reply: Message) -> bytes:
    return bytes(reply.payload[NFGENMSG.size :])


def _table(reply: Message) -> KernelTable | None:
    word = _WORDS.get(reply.payload[0])
    found = attributes(reply.payload[NFGENMSG.size :])
    if word is None:
        return None
    return KernelTable(word, text(found.get(1)), bool(number(found.get(2)) & _DORMANT))


def _set(found: Attributes) -> KernelSet:
    return KernelSet(
        text(found.get(2)),
        number(found.get(3)),
        number(found.get(4)),
        number(found.get(5)),
        number(found.get(6)),
        number(found.get(7)),
        number(found.get(11)),
        bytes(found.get(13, b"")),
    )


def _elements(answer: bytes) -> list[bytes]:
    found = attributes(answer).get(3, memoryview(b""))
    return [bytes(element) for _, element in iterate_attributes(found)]


def text(value: memoryview | None) -> str:
    """Return a NUL-terminated attribute, "" for none."""
    return bytes(value).partition(b"\0")[0].decode(errors="replace") if value is not None else ""


def number(value: memoryview | None) -> int:
    """Return a big-endian number of any width, 0 for none."""
    return int.from_bytes(value, "big") if value is not None else 0
