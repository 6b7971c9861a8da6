"""
Named packet counters (nfacct) that iptables rules can feed.

Layout and numbers: ``linux/netfilter/nfnetlink_acct.h``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from proxy.kernel.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket
from proxy.netfilter.wire import NFGENMSG, NLM_F_CREATE, attributes, string

_SUBSYSTEM = 7
_NEW, _GET = 0, 1
_NAME, _PACKETS = 1, 2


def create_counters(names: Iterable[str]) -> frozenset[str]:
    """Make counters where they are missing; return those that exist then, none without nfacct."""
    made = set()
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        for name in names:
            body = NFGENMSG.pack(0, 0, 0) + string(_NAME, name)
            try:
                netlink.request(_SUBSYSTEM << 8 | _NEW, NLM_F_CREATE, body)
            except NetlinkError as error:
                if error.errno not in (errno.EEXIST, errno.EBUSY):
                    continue
            made.add(name)
    return frozenset(made)


def read_counters() -> dict[str, int]:
    """Return the packets of all counters by name; empty without nfacct or without rights."""
    found = {}
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            for message in netlink.dump(_SUBSYSTEM << 8 | _GET, NFGENMSG.pack(0, 0, 0)):
                counter = attributes(message.payload[NFGENMSG.size :])
                name = bytes(counter.get(_NAME, b"")).rstrip(b"\0").decode(errors="replace")
                found[name] = int.from_bytes(counter.get(_PACKETS, b""), "big")
    except NetlinkError:
        return {}
    return found
