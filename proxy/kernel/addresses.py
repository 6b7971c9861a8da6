"""The node's own addresses, and when they change."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

from proxy.kernel.netlink import (
    NETLINK_ROUTE,
    DumpInterrupted,
    Message,
    NetlinkError,
    NetlinkSocket,
    split_messages,
)
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import attributes

RTM_NEWADDR, RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV6_IFADDR = 5, 9
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
IFA_ADDRESS, IFA_LOCAL = 1, 2
ADDRESS_FAMILIES = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}
_DUMP_ATTEMPTS = 5


def local_addresses(family: IPFamily) -> frozenset[bytes]:
    """Return the packed addresses of all interfaces; raises NetlinkError."""
    with NetlinkSocket(NETLINK_ROUTE) as route:
        return addresses_where(route, family, lambda _: True)


def addresses_where(
    route: NetlinkSocket, family: IPFamily, wanted: Callable[[int], bool]
) -> frozenset[bytes]:
    """Return the packed addresses of interfaces whose index is *wanted*; raises NetlinkError."""
    for attempt in range(_DUMP_ATTEMPTS):
        try:
            return frozenset(_dump(route, family, wanted))
        except DumpInterrupted:
            if attempt == _DUMP_ATTEMPTS - 1:
                raise
    return frozenset()


def _dump(route: NetlinkSocket, family: IPFamily, wanted: Callable[[int], bool]) -> Iterator[bytes]:
    number = ADDRESS_FAMILIES[family]
    for message in route.dump(_RTM_GETADDR, IFADDRMSG.pack(number, 0, 0, 0, 0)):
        if message.type != RTM_NEWADDR:
            continue
        found_number, _, _, _, index = IFADDRMSG.unpack_from(message.payload)
        if found_number != number or not wanted(index):
            continue
        found = attributes(message.payload[IFADDRMSG.size :])
        # On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL is ours.
        address = found.get(IFA_LOCAL, found.get(IFA_ADDRESS))
        if address is not None:
            yield bytes(address)


class AddressMonitor:
    """Wakes up whenever an interface other than *except_device* gains or loses an address."""

    def __init__(self, except_device: str = "") -> None:
        groups = (_RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV6_IFADDR)
        self._socket = NetlinkSocket(NETLINK_ROUTE, groups=groups)
        self._ignored = 0
        if except_device:
            with suppress(OSError):  # not there yet: then all devices count
                self._ignored = socket.if_nametoindex(except_device)

    def changes(self) -> Iterator[None]:
        """Yield once for each batch of changes, for ever; ends when the socket is closed."""
        while True:
            try:
                data = self._socket.receive()
            except NetlinkError as error:
                if error.errno != errno.ENOBUFS:
                    return
                yield None
                continue
            if any(map(self._matters, split_messages(data))):
                yield None

    def _matters(self, message: Message) -> bool:
        if message.type not in (RTM_NEWADDR, RTM_DELADDR):
            return False
        return bool(IFADDRMSG.unpack_from(message.payload)[4] != self._ignored)

    def close(self) -> None:
        """Stop listening; ``changes`` ends."""
        self._socket.shutdown()
