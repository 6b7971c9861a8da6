"""
IPVS of this network namespace as it is now: virtual servers, counters, rates and connections.

Over generic netlink, so that ipvsadm need not be installed; numbers are those of ``linux/ip_vs.h``.
Asking for the interface would load the module, which a reader must not do: that IPVS is there is
told by ``/proc/net/ip_vs``.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from diagnostics.readers.ipvs import Counters, IpvsTable, RealServerEntry, VirtualServerEntry
from proxy.kernel.genetlink import family_id
from proxy.kernel.ipvs import open_generic
from proxy.kernel.netlink import NetlinkSocket
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipvs import FLAG_HASHED, ServerKey, VirtualServer
from proxy.netfilter.ipvs_messages import (
    FAMILY_NAME,
    GENERIC_HEADER,
    GET_REAL,
    GET_SERVER,
    ServerReader,
    generic_header,
    read_real_server,
    real_servers_request,
)
from proxy.netfilter.wire import attr, attributes, nested

PROC = Path("/proc/net/ip_vs")
PROC_CONNECTIONS = Path("/proc/net/ip_vs_conn")
STATS, RATE = "stats", "rate"

# IPVS_CMD_ATTR_SERVICE and _DEST; in them IPVS_SVC_ATTR_* and IPVS_DEST_ATTR_*.
_SERVER, _REAL = 1, 2
_FAMILY, _MARK, _SCHEDULER, _FLAGS, _TIMEOUT = 1, 5, 6, 7, 8
_STATS, _STATS_64 = 10, 12
# IPVS_STATS_ATTR_*: connections, packets and bytes in and out; five totals, then five rates.
_FIRST = {STATS: 1, RATE: 6}
_FAMILIES = {2: IPFamily.IPV4, 10: IPFamily.IPV6}

Wanted = Callable[[VirtualServer, int], bool]
"""Says whether a virtual server, with its firewall mark or 0, is to be read."""


def has_ipvs(proc: Path = PROC) -> bool:
    """Return whether this kernel has IPVS in use; without it there are no virtual servers."""
    return proc.exists()


def live_connections(proc: Path = PROC_CONNECTIONS) -> str:
    """Return the kernel's listing; raises OSError."""
    return proc.read_text()


def live_table(statistics: str = "", wanted: Wanted = lambda _server, _mark: True) -> IpvsTable:
    """
    Return the virtual servers, in the kernel's order.

    Args:
        statistics: ``stats`` or ``rate`` for counters, else "".
        wanted: those whose real servers are read; the others are left out.

    Raises:
        NetlinkError: The kernel refused, mostly for want of CAP_NET_ADMIN.
    """
    with closing(open_generic()) as netlink:
        number = family_id(netlink, FAMILY_NAME)
        if number is None:
            return IpvsTable()
        return IpvsTable(tuple(_entries(netlink, number, statistics, wanted)), (), statistics)


def _entries(
    netlink: NetlinkSocket, number: int, statistics: str, wanted: Wanted
) -> Iterator[VirtualServerEntry]:
    readers = {family: ServerReader(family) for family in IPFamily}
    # A dump is read to its end before the socket is asked for anything else.
    payloads = [bytes(m.payload) for m in netlink.dump(number, generic_header(GET_SERVER))]
    for payload in payloads:
        body = attributes(attributes(payload[GENERIC_HEADER.size :]).get(_SERVER, b""))
        family = _FAMILIES.get(_number(body, _FAMILY))
        if family is None:
            continue
        mark = _number(body, _MARK)
        server = _by_mark(body, family) if mark else readers[family].read(memoryview(payload))
        if server is None or not wanted(server, mark):
            continue
        request = _mark_request(mark, body) if mark else real_servers_request(server.key)
        reals = tuple(_reals(netlink, number, request, family, statistics))
        yield VirtualServerEntry(server, reals, mark, counters=_counters(body, statistics))


def _reals(
    netlink: NetlinkSocket, number: int, request: bytes, family: IPFamily, statistics: str
) -> Iterator[RealServerEntry]:
    for message in netlink.dump(number, request):
        real = read_real_server(message.payload, family)
        if real is not None:
            outer = attributes(message.payload[GENERIC_HEADER.size :])
            body = attributes(outer.get(_REAL, b"")) if statistics else {}
            yield RealServerEntry(real, _counters(body, statistics))


def _by_mark(body: dict[int, memoryview], family: IPFamily) -> VirtualServer:
    flags = body.get(_FLAGS, memoryview(bytes(4)))[:4]
    return VirtualServer(
        ServerKey(bytes(family.bits // 8), 0, 0),
        bytes(body.get(_SCHEDULER, b"")).rstrip(b"\0").decode(errors="backslashreplace"),
        int.from_bytes(flags, sys.byteorder) & ~FLAG_HASHED,
        _number(body, _TIMEOUT),
    )


def _mark_request(mark: int, body: dict[int, memoryview]) -> bytes:
    family = attr(_FAMILY, struct.pack("=H", _number(body, _FAMILY)))
    return generic_header(GET_REAL) + nested(_SERVER, family, attr(_MARK, struct.pack("=I", mark)))


def _counters(body: dict[int, memoryview], statistics: str) -> Counters | None:
    if not statistics:
        return None
    found = attributes(body.get(_STATS_64) or body.get(_STATS) or b"")
    first = _FIRST[statistics]
    return Counters(*(_number(found, first + at) for at in range(5)))


def _number(found: dict[int, memoryview], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), sys.byteorder)
