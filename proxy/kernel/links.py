"""
Dummy interfaces and the addresses on them, over rtnetlink (``linux/rtnetlink.h``, ``if_link.h``).

    OSError
    └── NetlinkError
        └── DummyMissing    the kernel has no interfaces of type dummy
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Protocol

from proxy.kernel.addresses import (
    ADDRESS_FAMILIES,
    IFA_ADDRESS,
    IFA_LOCAL,
    IFADDRMSG,
    RTM_DELADDR,
    RTM_NEWADDR,
    addresses_where,
)
from proxy.kernel.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from proxy.kernel.query import in_batches, query
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import NLM_F_CREATE, attr, nested, string

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_NLM_F_EXCL = 0x200
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, mask of flags
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_EXT_MASK = 3, 18, 1, 29
_EXT_MASK_SKIP_STATS = 1 << 3
_IFA_F_NODAD = 0x02
_UNNAMED = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)


class DummyMissing(NetlinkError):
    """The kernel cannot make dummy interfaces; the text says what to do."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.EOPNOTSUPP)
        self.strerror = (
            f"cannot make the interface {name}: the kernel has no interfaces of type dummy; load "
            "its module with 'modprobe dummy'"
        )


class LinksPort(Protocol):
    """What is needed of the kernel's interfaces; ``NetlinkLinks`` has it."""

    def link_exists(self, name: str) -> bool:
        """Whether there is an interface of that name; raises NetlinkError."""

    def add_dummy(self, name: str) -> None:
        """Make a dummy interface if the name is free; raises NetlinkError."""

    def delete_link(self, name: str) -> None:
        """Remove an interface if it is there; raises NetlinkError."""

    def addresses_of(self, name: str, family: IPFamily) -> frozenset[bytes]:
        """Return the packed addresses of an interface; raises NetlinkError."""

    def addresses_elsewhere(self, name: str, family: IPFamily) -> frozenset[bytes]:
        """Return the packed addresses of all other interfaces; raises NetlinkError."""

    def add_addresses(self, name: str, addresses: Iterable[bytes]) -> list[NetlinkError | None]:
        """Add addresses; return each one's refusal, or None. Raises NetlinkError."""

    def delete_addresses(self, name: str, addresses: Iterable[bytes]) -> list[NetlinkError | None]:
        """Delete addresses; return each one's refusal, or None. Raises NetlinkError."""

    def close(self) -> None:
        """Close the socket."""


def open_route() -> NetlinkSocket:
    """Return a routing socket of this network namespace; raises NetlinkError."""
    return NetlinkSocket(NETLINK_ROUTE)


class NetlinkLinks:
    """
    The interfaces of the network namespace in which it is made.

    Not safe for several threads at once; every method may raise NetlinkError.
    """

    def __init__(self, open_socket: Callable[[], NetlinkSocket] = open_route) -> None:
        self._netlink = open_socket()

    def link_exists(self, name: str) -> bool:
        """Whether there is an interface of that name."""
        return self._index(name) is not None

    def _index(self, name: str) -> int | None:
        request = _UNNAMED + string(_IFLA_IFNAME, name)
        request += attr(_IFLA_EXT_MASK, struct.pack("=I", _EXT_MASK_SKIP_STATS))
        try:
            answers = query(self._netlink, _RTM_GETLINK, request)
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return int(_IFINFOMSG.unpack_from(answers[0].payload)[2])

    def add_dummy(self, name: str) -> None:
        """
        Make a dummy interface, which stays down; an interface of that name is left as it is.

        Raises DummyMissing when the kernel knows no such type and could not load it.
        """
        kind = nested(_IFLA_LINKINFO, string(_IFLA_INFO_KIND, "dummy"))
        request = _UNNAMED + string(_IFLA_IFNAME, name) + kind
        try:
            self._netlink.request(_RTM_NEWLINK, NLM_F_CREATE | _NLM_F_EXCL, request)
        except NetlinkError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise DummyMissing(name) from None
            if error.errno != errno.EEXIST:
                raise

    def delete_link(self, name: str) -> None:
        """Remove an interface with its addresses; one that is not there is no error."""
        try:
            self._netlink.request(_RTM_DELLINK, 0, _UNNAMED + string(_IFLA_IFNAME, name))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise

    def addresses_of(self, name: str, family: IPFamily) -> frozenset[bytes]:
        """Return the packed addresses of an interface; none when it is not there."""
        index = self._index(name)
        if index is None:
            return frozenset()
        return addresses_where(self._netlink, family, lambda found: found == index)

    def addresses_elsewhere(self, name: str, family: IPFamily) -> frozenset[bytes]:
        """Return the packed addresses of all interfaces but *name*, which need not be there."""
        index = self._index(name)
        return addresses_where(self._netlink, family, lambda found: found != index)

    def add_addresses(self, name: str, addresses: Iterable[bytes]) -> list[NetlinkError | None]:
        """
        Add any number of packed addresses, as hosts (/32, /128); return each one's refusal.

        None for those that are there now, also before. IPv6 ones are in use at once, without
        search for duplicates. Raises NetlinkError with ENODEV when there is no such interface.
        """
        return self._change(RTM_NEWADDR, NLM_F_CREATE | _NLM_F_EXCL, errno.EEXIST, name, addresses)

    def delete_addresses(self, name: str, addresses: Iterable[bytes]) -> list[NetlinkError | None]:
        """
        Delete any number of packed host addresses; return each one's refusal.

        None for those that are not there now. Raises NetlinkError with ENODEV when there is no
        such interface.
        """
        return self._change(RTM_DELADDR, 0, errno.EADDRNOTAVAIL, name, addresses)

    def _change(
        self, kind: int, flags: int, harmless: int, name: str, addresses: Iterable[bytes]
    ) -> list[NetlinkError | None]:
        index = self._index(name)
        if index is None:
            raise NetlinkError(errno.ENODEV, name)
        requests = [_address_request(index, address) for address in addresses]
        return [
            None if refusal is None or refusal.errno == harmless else refusal
            for refusal in in_batches(self._netlink, kind, flags, requests)
        ]

    def close(self) -> None:
        """Close the socket; closing twice is harmless."""
        self._netlink.close()


def _address_request(index: int, address: bytes) -> bytes:
    family = IPFamily.IPV4 if len(address) == 4 else IPFamily.IPV6
    flags = 0 if family is IPFamily.IPV4 else _IFA_F_NODAD
    return (
        IFADDRMSG.pack(ADDRESS_FAMILIES[family], family.bits, flags, 0, index)
        + attr(IFA_LOCAL, address)
        + attr(IFA_ADDRESS, address)
    )
