"""Virtual servers, real servers and connections beside the names of who is behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from diagnostics.cluster.names import Names
from diagnostics.fate.selection import Selection
from diagnostics.readers.ipvs import IpvsTable, RealServerEntry, VirtualServerEntry
from diagnostics.readers.ipvs_connections import Connection
from proxy.model.addresses import unpack_address
from proxy.netfilter.ipvs import RealKey, VirtualServer


@dataclass(frozen=True, slots=True)
class RealRow:
    """A real server; ``owner`` is ``pod shop/web-1 on node-2`` or "" for nobody known."""

    entry: RealServerEntry
    owner: str


@dataclass(frozen=True, slots=True)
class VirtualRow:
    """A virtual server; ``service`` is ``shop/web:http`` or "" for none known."""

    entry: VirtualServerEntry
    service: str
    reals: tuple[RealRow, ...]


@dataclass(frozen=True, slots=True)
class ConnectionRow:
    """A connection with the Service that was called and who called and who answers."""

    connection: Connection
    service: str
    client: str
    owner: str


def service_of(server: VirtualServer, mark: int, names: Names) -> str:
    """Return the service port of a virtual server, "" for one by firewall mark or unknown."""
    key = server.key
    return "" if mark else names.service(ip_address(key.address), key.port, key.protocol)


def wants(selection: Selection, server: VirtualServer, mark: int, names: Names) -> bool:
    """Return whether a selection has a virtual server."""
    if selection.is_everything:
        return True
    address = "" if mark else unpack_address(server.key.address)
    return selection.has(address, server.key.port, service_of(server, mark, names))


def virtual_rows(
    table: IpvsTable, names: Names, selection: Selection | None = None
) -> Iterator[VirtualRow]:
    """Yield the virtual servers that are selected, in the order of the table."""
    chosen = selection or Selection()
    for entry in table.servers:
        if wants(chosen, entry.server, entry.fwmark, names):
            service = service_of(entry.server, entry.fwmark, names)
            reals = tuple(RealRow(real, _owner(real.server.key, names)) for real in entry.reals)
            yield VirtualRow(entry, service, reals)


def connection_rows(
    connections: tuple[Connection, ...], names: Names, selection: Selection | None = None
) -> Iterator[ConnectionRow]:
    """Yield the connections to virtual servers that are selected, in their order."""
    chosen = selection or Selection()
    for one in connections:
        virtual = one.virtual
        service = names.service(ip_address(virtual.address), virtual.port, one.protocol)
        if chosen.has(unpack_address(virtual.address), virtual.port, service):
            client, owner = _owner(one.client, names), _owner(one.real, names)
            yield ConnectionRow(one, service, client, owner)


def _owner(key: RealKey, names: Names) -> str:
    return names.owner(ip_address(key.address))
