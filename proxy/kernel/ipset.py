"""
ipsets of this network namespace, over netlink.

    OSError
    ├── IpsetMissing       the kernel has no ipset
    └── NetlinkError
        └── SetRefusal     the kernel refused a request; the text names the set
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Protocol

from proxy.kernel.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket
from proxy.kernel.query import in_batches, query
from proxy.netfilter.ipset import SetEntry, SetHeader
from proxy.netfilter.ipset_entries import EntryLayout, layout_of
from proxy.netfilter.ipset_messages import (
    ADD,
    CREATE,
    DELETE,
    DESTROY,
    FLUSH,
    GET_HEADER,
    GET_PROTOCOL,
    GET_TYPE,
    LIST,
    MAX_ELEMENTS,
    create_request,
    entries_request,
    entry_request,
    headers_request,
    listed_entries,
    name_request,
    protocol_request,
    read_header,
    read_protocol,
    read_revision,
    reason,
    type_request,
)

ENTRIES_PER_REQUEST = 400
"""An IPv6 entry takes 80 bytes, and a refusal repeats the request: both stay below 64 KiB."""


class IpsetMissing(OSError):
    """The kernel has no ipset, or one too different; the text says what to do."""

    def __init__(self, detail: str = "load its module with 'modprobe ip_set'") -> None:
        super().__init__(errno.EPROTONOSUPPORT, f"the kernel has no usable ipset: {detail}")

    def __str__(self) -> str:
        return str(self.strerror)


class SetRefusal(NetlinkError):
    """
    The kernel's refusal of a request about one set.

    ``errno`` is EBUSY for a set in use, ENOSPC for a full one, EINVAL for ipset's other own codes;
    ``strerror`` is a sentence that names the set.
    """

    def __init__(self, header: SetHeader, number: int) -> None:
        code, sentence = reason(number, header.type)
        super().__init__(code, sentence)
        self.strerror = f"ipset {header.name}: {sentence or os.strerror(code)}"


class IpsetPort(Protocol):
    """What is needed of the kernel's ipsets; ``NetlinkIpset`` has it."""

    def create(self, header: SetHeader, max_elements: int = MAX_ELEMENTS) -> None:
        """Make a set if it is not there; raises NetlinkError."""

    def headers(self) -> dict[str, SetHeader]:
        """Return all sets by name; raises NetlinkError."""

    def entries(self, name: str) -> set[SetEntry]:
        """Return a set's entries; raises NetlinkError, ValueError."""

    def add(self, header: SetHeader, entries: Iterable[SetEntry]) -> list[NetlinkError | None]:
        """Add entries; return each one's refusal, or None. Raises NetlinkError, ValueError."""

    def delete(self, header: SetHeader, entries: Iterable[SetEntry]) -> list[NetlinkError | None]:
        """Delete entries; return each one's refusal, or None. Raises NetlinkError, ValueError."""

    def flush(self, name: str) -> None:
        """Delete all entries; raises NetlinkError."""

    def destroy(self, name: str) -> None:
        """Remove a set if it is there; raises NetlinkError."""

    def close(self) -> None:
        """Close the socket."""


def open_netfilter() -> NetlinkSocket:
    """Return a netfilter socket of this network namespace; raises NetlinkError."""
    return NetlinkSocket(NETLINK_NETFILTER)


class NetlinkIpset:
    """
    The ipsets of the network namespace in which it is made; not safe for several threads at once.

    Raises IpsetMissing when the kernel has none, and NetlinkError. Every method may raise
    SetRefusal, and those that know no set NetlinkError.
    """

    def __init__(self, open_socket: Callable[[], NetlinkSocket] = open_netfilter) -> None:
        self._netlink = open_socket()
        self._revisions: dict[tuple[str, int], int] = {}
        try:
            self._protocol = self._agree_on_protocol()
        except BaseException:
            self._netlink.close()
            raise

    def _agree_on_protocol(self) -> int:
        try:
            answers = query(self._netlink, GET_PROTOCOL, protocol_request())
            return read_protocol(answers[0].payload)
        except ValueError as error:
            raise IpsetMissing(str(error)) from None
        except NetlinkError as error:
            # nfnetlink's answer for a subsystem that is neither there nor could be loaded.
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                raise IpsetMissing from None
            raise

    def create(self, header: SetHeader, max_elements: int = MAX_ELEMENTS) -> None:
        """
        Make a set; one of the same type that is there already stays as it is.

        A hash set takes *max_elements* entries, a bitmap every port. Raises SetRefusal with EEXIST
        when the name is taken by a set of another type or family.
        """
        with _named(header):
            request = create_request(self._protocol, header, self._revision(header), max_elements)
            try:
                self._netlink.request(CREATE, 0, request)
            except NetlinkError as error:
                if error.errno != errno.EEXIST:
                    raise
                self._compare(header)

    def _compare(self, wanted: SetHeader) -> None:
        """Raise SetRefusal unless the set that has the name is of the wanted type."""
        request = name_request(self._protocol, wanted.name)
        for answer in query(self._netlink, GET_HEADER, request):
            found = read_header(answer.payload)
            if found is not None and found[1:] != wanted[1:]:
                refusal = SetRefusal(wanted, errno.EEXIST)
                refusal.strerror = (
                    f"ipset {wanted.name}: is there already as {_described(found)}, not as "
                    f"{_described(wanted)}; destroy it and whatever uses it"
                )
                raise refusal

    def _revision(self, header: SetHeader) -> int:
        """Ask once for each type; the kernel loads the type's module for it."""
        known = self._revisions.get(header[1:])
        if known is None:
            request = type_request(self._protocol, header)
            answers = query(self._netlink, GET_TYPE, request)
            known = read_revision(answers[0].payload, header.type)
            self._revisions[header[1:]] = known
        return known

    def headers(self) -> dict[str, SetHeader]:
        """Return all sets by name, whoever made them and of whatever type."""
        listing = self._netlink.dump(LIST, headers_request(self._protocol))
        headers = (read_header(message.payload) for message in listing)
        return {header.name: header for header in headers if header is not None}

    def entries(self, name: str) -> set[SetEntry]:
        """
        Return the entries of a set.

        Raises SetRefusal with ENOENT when there is none, ValueError when it is of a type that is
        not in use here.
        """
        entries: set[SetEntry] = set()
        layout: EntryLayout | None = None
        with _named(SetHeader(name, "", 0)):
            for message in self._netlink.dump(LIST, name_request(self._protocol, name)):
                header = read_header(message.payload)
                if header is not None:
                    layout = layout_of(header.type, header.bits)
                if layout is not None:
                    entries.update(layout.decode(listed_entries(message.payload)))
        return entries

    def add(self, header: SetHeader, entries: Iterable[SetEntry]) -> list[NetlinkError | None]:
        """
        Add any number of entries; return each one's refusal, or None, in their order.

        One that is there already is no error, and a refusal stops nothing. Raises ValueError, with
        nothing done, when an address is not of the set's family.
        """
        return self._change(ADD, header, entries)

    def delete(self, header: SetHeader, entries: Iterable[SetEntry]) -> list[NetlinkError | None]:
        """Delete any number of entries, as ``add`` does; one that is not there is no error."""
        return self._change(DELETE, header, entries)

    def _change(
        self, command: int, header: SetHeader, entries: Iterable[SetEntry]
    ) -> list[NetlinkError | None]:
        encode = layout_of(header.type, header.bits).encode
        waiting = iter([encode(entry) for entry in entries])
        results: list[NetlinkError | None] = []
        while chunk := list(islice(waiting, ENTRIES_PER_REQUEST)):
            try:
                request = entries_request(self._protocol, header.name, chunk)
                self._netlink.request(command, 0, request)
                results += [None] * len(chunk)
            except NetlinkError:
                # Without NLM_F_EXCL repeating is harmless, and tells which ones are refused.
                results += self._change_singly(command, header, chunk)
        return results

    def _change_singly(
        self, command: int, header: SetHeader, chunk: list[bytes]
    ) -> list[NetlinkError | None]:
        requests = [entry_request(self._protocol, header.name, encoded) for encoded in chunk]
        return [
            None if refusal is None else SetRefusal(header, refusal.errno or 0)
            for refusal in in_batches(self._netlink, command, 0, requests)
        ]

    def flush(self, name: str) -> None:
        """Delete all entries of a set; raises SetRefusal with ENOENT when there is none."""
        with _named(SetHeader(name, "", 0)):
            self._netlink.request(FLUSH, 0, name_request(self._protocol, name))

    def destroy(self, name: str) -> None:
        """Remove a set; one that is not there is no error. Raises SetRefusal, EBUSY if in use."""
        with _named(SetHeader(name, "", 0)):
            try:
                self._netlink.request(DESTROY, 0, name_request(self._protocol, name))
            except NetlinkError as error:
                if error.errno != errno.ENOENT:  # which only older kernels say
                    raise

    def close(self) -> None:
        """Close the socket; closing twice is harmless."""
        self._netlink.close()


def _described(header: SetHeader) -> str:
    return f"{header.type} ({header.bits}-bit addresses)" if header.bits else header.type


@contextmanager
def _named(header: SetHeader) -> Iterator[None]:
    """Turn the kernel's refusals into ones that name the set."""
    try:
        yield
    except SetRefusal:
        raise
    except NetlinkError as error:
        raise SetRefusal(header, error.errno or 0) from None
