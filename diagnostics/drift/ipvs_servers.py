"""Virtual servers that differ in what packets of a new client do not show."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from diagnostics.fate.difference import Difference, Kind
from diagnostics.fate.frontends import Frontend, Frontends
from diagnostics.readers.ipvs import IpvsTable, place_text
from proxy.backends.ipvs.names import DEVICE
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipvs import VirtualServer


def edited(
    actual: IpvsTable, intended: IpvsTable, planned: Frontends, family: IPFamily
) -> Iterator[Difference]:
    """Yield the virtual servers with another scheduler or persistence."""
    found = {entry.server.key: entry.server for entry in actual.servers if not entry.fwmark}
    length = family.bits // 8
    for entry in intended.servers:
        wanted = entry.server
        server = found.get(wanted.key)
        if server is None or len(wanted.key.address) != length:
            continue
        service = _service(wanted, planned)
        subject = (f"virtual server {place_text(wanted.key)}",)
        before, after = _persistence(wanted), _persistence(server)
        if before != after:
            yield Difference(Kind.AFFINITY, service, family.value, subject, before, after)
        if (wanted.scheduler, wanted.flags & ~1) != (server.scheduler, server.flags & ~1):
            yield Difference(
                Kind.EDITED, service, family.value, subject, _scheduler(wanted), _scheduler(server)
            )


def leftover_servers(actual: IpvsTable, planned: Frontends, mode: str) -> Iterator[Difference]:
    """Yield virtual servers for frontends of Services on a node in another mode than ipvs."""
    found = [
        place_text(entry.server.key)
        for entry in actual.servers
        if _service(entry.server, planned) and not entry.fwmark
    ]
    if found:
        named = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        expected = f"no virtual servers of another mode than {mode}"
        yield Difference(Kind.LEFTOVER, "", "", (f"{DEVICE} and IPVS",), expected, named)


def _service(server: VirtualServer, planned: Frontends) -> str:
    key = server.key
    exact = planned.get(Frontend(ip_address(key.address), key.port, key.protocol))
    return exact or planned.get(Frontend(None, key.port, key.protocol), "")


def _persistence(server: VirtualServer) -> str:
    return f"persistent for {server.timeout_s} s" if server.timeout_s else "not persistent"


def _scheduler(server: VirtualServer) -> str:
    flags = f" with flags {server.flags & ~1:#x}" if server.flags & ~1 else ""
    return f"scheduler {server.scheduler}{flags}"
