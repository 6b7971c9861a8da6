"""What ``kpctl ipvs -o json`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from diagnostics.ipvs_view.recorded import Found
from diagnostics.ipvs_view.rows import ConnectionRow, RealRow, VirtualRow
from diagnostics.readers.ipvs import (
    FORWARD_ROUTE,
    FORWARD_TUNNEL,
    SCHEDULER_FLAGS,
    Counters,
)
from diagnostics.trace.packet import PROTOCOL_NAMES
from proxy.model.addresses import unpack_address
from proxy.netfilter.ipvs import (
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    FORWARD_MASQ,
    RealKey,
    VirtualServer,
)

API_VERSION = "kpctl.io/v1"
FORWARDS = {FORWARD_MASQ: "Masq", 1: "Local", FORWARD_TUNNEL: "Tunnel", FORWARD_ROUTE: "Route"}


def virtual_report(
    rows: Iterable[VirtualRow], found: Found, gaps: Sequence[str], available: bool | None = True
) -> dict[str, Any]:
    """
    Return the object for virtual servers.

    Args:
        rows: Those to show, made of *found*.
        found: Tells which fields are known.
        gaps: What is not known.
        available: whether the kernel has IPVS at all; None when that is not known.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": "IpvsReport",
        "available": available,
        "statistics": found.table.statistics or None,
        "virtualServers": [_virtual(row, found) for row in rows],
        "gaps": list(gaps),
    }


def connection_report(
    rows: Iterable[ConnectionRow], gaps: Sequence[str], available: bool | None = True
) -> dict[str, Any]:
    """Return the object for connections; see ``virtual_report``."""
    return {
        "apiVersion": API_VERSION,
        "kind": "IpvsConnections",
        "available": available,
        "connections": [_connection(row) for row in rows],
        "gaps": list(gaps),
    }


def protocol_name(number: int) -> str:
    """Return TCP, UDP, SCTP, or ``IP`` where IPVS has no protocol."""
    return PROTOCOL_NAMES.get(number, str(number)) if number else "IP"


def flag_words(server: VirtualServer, netmask: str = "") -> list[str]:
    """Return what ipvsadm prints behind the scheduler: ``persistent 10800``, ``ops``."""
    words = []
    if server.flags & FLAG_PERSISTENT:
        words.append(f"persistent {server.timeout_s}" + (f" mask {netmask}" if netmask else ""))
    if server.flags & FLAG_ONE_PACKET:
        words.append("ops")
    scheduler = server.scheduler if server.scheduler in ("sh", "mh") else "flag"
    names = {bit: name for name, bit in SCHEDULER_FLAGS.items() if name.startswith(scheduler)}
    words += [name for bit, name in sorted(names.items()) if server.flags & bit]
    return words


def _virtual(row: VirtualRow, found: Found) -> dict[str, Any]:
    server, mark = row.entry.server, row.entry.fwmark
    key = server.key
    return {
        "service": row.service or None,
        "protocol": None if mark else protocol_name(key.protocol),
        "address": None if mark else unpack_address(key.address),
        "port": None if mark else key.port,
        "firewallMark": mark or None,
        "family": "IPv4" if len(key.address) == 4 else "IPv6",
        "scheduler": server.scheduler or None,
        "flags": flag_words(server, row.entry.netmask),
        "persistenceSeconds": server.timeout_s or None,
        "counters": _counters(row.entry.counters),
        "realServers": [_real(real, found) for real in row.reals],
    }


def _real(row: RealRow, found: Found) -> dict[str, Any]:
    server = row.entry.server
    return {
        **_place(server.key),
        "owner": row.owner or None,
        "forward": FORWARDS.get(server.forward, str(server.forward))
        if found.has_settings
        else None,
        "weight": server.weight if found.has_settings else None,
        "activeConnections": server.active if found.has_connections else None,
        "inactiveConnections": server.inactive if found.has_connections else None,
        "counters": _counters(row.entry.counters),
    }


def _counters(counters: Counters | None) -> dict[str, int] | None:
    if counters is None:
        return None
    words = {"packets_in": "packetsIn", "packets_out": "packetsOut"}
    words |= {"bytes_in": "bytesIn", "bytes_out": "bytesOut"}
    return {words.get(name, name): value for name, value in asdict(counters).items()}


def _connection(row: ConnectionRow) -> dict[str, Any]:
    one = row.connection
    return {
        "protocol": protocol_name(one.protocol),
        "state": one.state,
        "expiresSeconds": one.expires_s,
        "service": row.service or None,
        "client": {**_place(one.client), "owner": row.client or None},
        "virtual": _place(one.virtual),
        "real": {**_place(one.real), "owner": row.owner or None},
        "persistenceEngine": one.extra or None,
    }


def _place(key: RealKey) -> dict[str, Any]:
    return {"address": unpack_address(key.address), "port": key.port}
