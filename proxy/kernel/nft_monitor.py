"""
Who else changes our tables: nf_tables notifications, summed up per transaction.

The kernel tells each change to whoever listens, our own changes included; they are told apart by
their sender. At the end of a transaction the kernel names the process that made it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proxy.kernel.netlink import (
    NETLINK_NETFILTER,
    Message,
    NetlinkError,
    NetlinkSocket,
    split_messages,
)
from proxy.kernel.nftables import FAMILY_NUMBERS
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import NFGENMSG, NFNL_SUBSYS_NFTABLES, Msg, attributes

_NFNLGRP_NFTABLES = 7
_SO_ATTACH_FILTER = 26
_RECEIVE_BUFFER_BYTES = 16 << 20
_PROCESS_ID, _PROCESS_NAME = 2, 3
_SENDER, _SENDER_OFFSET = struct.Struct("=I"), 12  # nlmsg_pid of a datagram's first message
_PLACES_NAMED = 5

_WHAT = {
    Msg.NEWTABLE: "table added",
    Msg.DELTABLE: "table deleted",
    Msg.NEWCHAIN: "chain added",
    Msg.DELCHAIN: "chain deleted",
    Msg.NEWRULE: "rule added",
    Msg.DELRULE: "rule deleted",
    Msg.NEWSET: "set added",
    Msg.DELSET: "set deleted",
    Msg.NEWSETELEM: "element added",
    Msg.DELSETELEM: "element deleted",
}
_NAME_ATTRIBUTE = {Msg.NEWCHAIN: 3, Msg.DELCHAIN: 3}
_FAMILIES = {number: family for family, number in FAMILY_NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class ForeignEdit:
    """
    One transaction of somebody else that touched our table.

    Attributes:
        changes: what happened, e.g. ``chain deleted: 3``, most frequent first.
        places: names of the chains and sets concerned, at most a few.
        reason: one word for a metric label: table, chain, rule, set, element or unknown.
        process: name and pid of the program that did it, or "" when the kernel did not say.
        sender: netlink port id of the socket it was sent by, mostly the sender's pid; 0: not said.
    """

    family: IPFamily
    changes: tuple[str, ...]
    places: tuple[str, ...]
    reason: str
    process: str
    sender: int = 0


def unseen_edit(family: IPFamily) -> ForeignEdit:
    """Return the edit that stands for anything: nobody was told what happened."""
    return ForeignEdit(family, ("notifications were lost",), (), "unknown", "")


class TransactionMonitor:
    """
    Notifications of nf_tables in both families; blocking, for a thread of its own.

    Subclasses say which messages concern them.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(
            NETLINK_NETFILTER, groups=(_NFNLGRP_NFTABLES,), buffer_bytes=_RECEIVE_BUFFER_BYTES
        )
        self._seen: dict[IPFamily, Counter[Msg]] = {}
        self._places: dict[IPFamily, dict[str, None]] = {}

    def _is_own(self, sender: int) -> bool:
        """Whether all that *sender* does is ours."""
        raise NotImplementedError

    def _place(self, kind: Msg, found: Mapping[int, memoryview]) -> str | None:
        """Return where a message edits what is ours, "" for nowhere in particular; None: not."""
        raise NotImplementedError

    def edits(self) -> Iterator[ForeignEdit]:
        """
        Yield each foreign transaction that concerns us, for ever; ends when the socket is closed.

        When the kernel had to drop notifications, an edit with reason ``unknown`` is yielded for
        each family, because anything may have happened.
        """
        while True:
            try:
                data = self._socket.receive()
            except NetlinkError as error:
                if error.errno != errno.ENOBUFS:
                    return
                yield from self._unknown()
                continue
            # A datagram holds messages of one transaction only, so of one sender.
            if self._is_own(_SENDER.unpack_from(data, _SENDER_OFFSET)[0]):
                continue
            for message in split_messages(data):
                yield from self._take(message)

    def close(self) -> None:
        """Stop listening; ``edits`` ends."""
        self._socket.shutdown()

    def _take(self, message: Message) -> Iterator[ForeignEdit]:
        if message.type >> 8 != NFNL_SUBSYS_NFTABLES:
            return
        number = message.type & 0xFF
        if number == Msg.NEWGEN:
            yield from self._end_of_transaction(message)
            return
        family = _FAMILIES.get(message.payload[0])
        if family is None or number not in _WHAT:
            return
        kind = Msg(number)
        place = self._place(kind, attributes(message.payload[NFGENMSG.size :]))
        if place is None:
            return
        self._seen.setdefault(family, Counter())[kind] += 1
        places = self._places.setdefault(family, {})
        if place and len(places) < _PLACES_NAMED:
            places[place] = None

    def _end_of_transaction(self, message: Message) -> Iterator[ForeignEdit]:
        if not self._seen:
            return
        process = _process(message.payload)
        for family, counts in self._seen.items():
            changes = tuple(f"{_WHAT[kind]}: {count}" for kind, count in counts.most_common())
            places = tuple(self._places.get(family, ()))
            reason = _reason(counts)
            yield ForeignEdit(family, changes, places, reason, process, message.portid)
        self._seen, self._places = {}, {}

    def _unknown(self) -> Iterator[ForeignEdit]:
        self._seen, self._places = {}, {}
        for family in IPFamily:
            yield unseen_edit(family)


class NftMonitor(TransactionMonitor):
    """Notifications about one table, in both families."""

    def __init__(self, table: str, own_port_ids: frozenset[int]) -> None:
        super().__init__()
        self._table = table
        _drop_messages_from(self._socket.fileno(), own_port_ids)

    def _is_own(self, sender: int) -> bool:
        return False  # what is ours was dropped by the socket's filter

    def _place(self, kind: Msg, found: Mapping[int, memoryview]) -> str | None:
        if name_in(found, 1) != self._table:
            return None
        return "" if kind in (Msg.NEWTABLE, Msg.DELTABLE) else object_name(kind, found)


def name_in(found: Mapping[int, memoryview], attribute: int) -> str:
    """Return a name among a message's attributes; "" when it is absent."""
    return bytes(found.get(attribute, b"")).rstrip(b"\0").decode(errors="replace")


def object_name(kind: Msg, found: Mapping[int, memoryview]) -> str:
    """Return the name of the chain, of a rule's chain, or of the set that a message is about."""
    return name_in(found, _NAME_ATTRIBUTE.get(kind, 2))


def _reason(counts: Counter[Msg]) -> str:
    for word in ("table", "chain", "set", "rule"):
        if any(_WHAT[kind].startswith(word) for kind in counts):
            return word
    return "element"


def _process(payload: memoryview) -> str:
    found = attributes(payload[NFGENMSG.size :])
    name = name_in(found, _PROCESS_NAME)
    number = found.get(_PROCESS_ID)
    if not name or number is None:
        return ""
    return f"{name}[{int.from_bytes(number, 'big')}]"


def _drop_messages_from(descriptor: int, port_ids: frozenset[int]) -> None:
    """Attach a filter that drops datagrams whose first message came from one of *port_ids*."""
    load_port_id = (0x20, 0, 0, 12)  # ld [12]: nlmsg_pid, read as big endian
    keep, drop = (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)
    tests = []
    for index, port_id in enumerate(sorted(port_ids)):
        to_drop = len(port_ids) - index  # over the remaining tests and the "keep"
        tests.append((0x15, to_drop, 0, socket.htonl(port_id)))
    program = [load_port_id, *tests, keep, drop]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    filter_program = struct.pack("HL", len(program), ctypes.addressof(buffer))
    with socket.socket(fileno=os.dup(descriptor)) as handle:
        handle.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)
