"""
The legacy tables of ip_tables, read without touching them.

libiptc and ``iptables-legacy-save`` create a table by asking for it, and python-iptables starts
compilers and modprobe to find its libraries; the two socket options beneath them need neither.
Layouts: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h, netfilter/x_tables.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import NamedTuple, Self

from proxy.kernel.legacy_entries import Bounds, TableContent, read_content, user_defined
from proxy.model.addresses import IPFamily

_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")  # name, valid hooks, hook entries, underflows, entries, size
_NAME = 32
_ENTRIES_OFFSET = struct.calcsize("@32sI0Q")
_HOOKS = 5
_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_READ_ATTEMPTS = 5
_NAMES_SIZE = 4096


class _Layout(NamedTuple):
    """What differs between the families; ``offsets_at`` is where an entry tells its extent."""

    family: int
    level: int
    names: str
    offsets_at: int


_LAYOUTS = {
    IPFamily.IPV4: _Layout(socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names", 88),
    IPFamily.IPV6: _Layout(socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names", 140),
}


class TableInfo(NamedTuple):
    """A table's extent; ``entries`` counts rules, policies and two per user-defined chain."""

    built_in: tuple[str, ...]
    entries: int
    size_bytes: int


class _Head(NamedTuple):
    """A table's extent, and where each built-in chain starts and has its policy."""

    info: TableInfo
    bounds: Bounds


class LegacyTables:
    """
    One family's legacy tables in the network namespace of the thread that makes this object.

    Usable by several threads. Every method but ``close`` raises OSError, PermissionError without
    CAP_NET_ADMIN; a table that does not exist is not an error and is never created.
    """

    def __init__(self, family: IPFamily) -> None:
        self._layout = _LAYOUTS[family]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._names = -1
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(self._layout.family, socket.SOCK_DGRAM)
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
        self._open_names()

    def close(self) -> None:
        """Release the descriptors."""
        if self._socket is not None:
            self._socket.close()
        if self._names >= 0:
            os.close(self._names)
            self._names = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self) -> frozenset[str]:
        """Return the names of the tables that exist."""
        if self._names < 0:
            self._open_names()
        if self._names < 0:
            return frozenset()
        return frozenset(os.pread(self._names, _NAMES_SIZE, 0).decode().split())

    def info(self, table: str) -> TableInfo | None:
        """Return a table's extent, in constant time; None when there is no such table."""
        head = self._head(table)
        return head.info if head else None

    def chains(self, table: str) -> frozenset[str]:
        """Return the names of a table's chains; empty when there is no such table."""
        found = self._entries(table)
        if found is None:
            return frozenset()
        head, data = found
        return frozenset(head.info.built_in).union(user_defined(data, self._layout.offsets_at))

    def content(self, table: str) -> TableContent | None:
        """Return the number of rules of each chain and the jumps; None without such a table."""
        found = self._entries(table)
        if found is None:
            return None
        head, data = found
        return read_content(data, self._layout.offsets_at, head.bounds)

    def rule_count(self, table: str) -> int:
        """Return how many rules a table has, policies aside; 0 when there is no such table."""
        info = self.info(table)
        if info is None:
            return 0
        user_defined = len(self.chains(table)) - len(info.built_in)
        return max(0, info.entries - len(info.built_in) - 2 * user_defined - 1)

    def _head(self, table: str) -> _Head | None:
        if table not in self.names():
            return None
        buffer = ctypes.create_string_buffer(_name(table), _INFO.size)
        try:
            self._getsockopt(_GET_INFO, buffer)
        except FileNotFoundError:
            return None
        _, hooks, *places, entries, size = _INFO.unpack(buffer)
        starts, policies = places[:_HOOKS], places[_HOOKS:]
        bounds = {
            name: (starts[bit], policies[bit])
            for bit, name in enumerate(_BUILT_IN)
            if hooks >> bit & 1
        }
        return _Head(TableInfo(tuple(bounds), entries, size), bounds)

    def _entries(self, table: str) -> tuple[_Head, memoryview] | None:
        """Return a table as the kernel holds it; None when there is no such table."""
        for attempt in range(_READ_ATTEMPTS):
            head = self._head(table)
            if head is None:
                return None
            size = head.info.size_bytes
            request = _name(table) + struct.pack("=I", size)
            buffer = ctypes.create_string_buffer(request, _ENTRIES_OFFSET + size)
            try:
                self._getsockopt(_GET_ENTRIES, buffer)
            except BlockingIOError:  # the table was replaced meanwhile by one of another size
                if attempt == _READ_ATTEMPTS - 1:
                    raise
                continue
            return head, memoryview(buffer)[_ENTRIES_OFFSET:].cast("B")
        return None

    def _open_names(self) -> None:
        # Kept open: it stays with the namespace of the thread that opened it.
        try:
            self._names = os.open(f"/proc/thread-self/net/{self._layout.names}", os.O_RDONLY)
        except FileNotFoundError:
            self._names = -1  # the kernel has not loaded, or does not have, legacy tables

    def _getsockopt(self, option: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
        """Read an option whose argument says what to read, which socket.getsockopt cannot."""
        if self._socket is None:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        length = ctypes.c_uint(len(buffer))
        result = self._libc.getsockopt(
            self._socket.fileno(), self._layout.level, option, buffer, ctypes.byref(length)
        )
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"reading legacy iptables tables: {os.strerror(number)}")


def _name(table: str) -> bytes:
    return table.encode().ljust(_NAME, b"\0")
