"""Counts virtual servers, real servers and ipsets."""

from __future__ import annotations

from ipaddress import ip_address

from diagnostics.cluster.names import Names
from diagnostics.readers.ipset import IpSets
from diagnostics.readers.ipvs import IpvsTable, VirtualServerEntry, place_text
from diagnostics.rules.model import Finding, Inventory, Kind, SetCount
from diagnostics.trace.packet import PROTOCOL_NAMES

_FAMILIES = {4: "ip", 6: "ip6", None: ""}


def count_ipvs(inventory: Inventory, table: IpvsTable, names: Names) -> None:
    """Add virtual and real servers, by Service as far as *names* tell."""
    for entry in table.servers:
        key = entry.server.key
        service = ""
        if not entry.fwmark:
            service = names.service(ip_address(key.address), key.port, key.protocol)
        inventory.virtual_servers += 1
        inventory.real_servers += len(entry.reals)
        inventory.credit(service, "virtualServers")
        inventory.credit(service, "realServers", len(entry.reals))
        if not entry.reals:
            why = "it has no real servers: connections to it are refused"
            inventory.findings.append(Finding(Kind.NO_SERVERS, _place(entry), why, service=service))


def count_ipsets(inventory: Inventory, sets: IpSets) -> None:
    """Add sets and their entries."""
    for found in sets.by_name.values():
        family = _FAMILIES[found.version]
        inventory.sets.append(SetCount("ipset", family, "", found.name, len(found)))


def _place(entry: VirtualServerEntry) -> str:
    key = entry.server.key
    if entry.fwmark:
        return f"ipvs FWM {entry.fwmark}"
    return f"ipvs {PROTOCOL_NAMES.get(key.protocol, key.protocol)} {place_text(key)}"
