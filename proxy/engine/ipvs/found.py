"""What the kernel holds when everything is stated anew, and what is missing or too much."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

from proxy.backends.ipvs import names
from proxy.backends.ipvs.names import DEVICE, SetKind
from proxy.backends.ipvs.settings import IpvsSettings
from proxy.backends.ipvs.state import IpvsChange, Servers, Step, compare_servers
from proxy.engine.ipvs.ports import IpvsPorts
from proxy.model.addresses import IPFamily, unpack_address
from proxy.model.services import ServicePortName
from proxy.netfilter.ipset import SetEntry
from proxy.netfilter.ipvs import (
    FORWARD_MASQ,
    Action,
    Operation,
    RealKey,
    RealServer,
    ServerKey,
)

_NOBODY = ServicePortName("", "", "", "")
_NODE_PORT_SETS = (
    (names.NODE_PORT_TCP, 6),
    (names.NODE_PORT_UDP, 17),
)
# An external address that is the node's own is only named in these.
_FRONTEND_SETS = (
    names.EXTERNAL_IP,
    names.EXTERNAL_IP_LOCAL,
    names.LOAD_BALANCER,
    names.NODE_PORT_SCTP,
)


@dataclass(frozen=True, slots=True)
class Found:
    """
    The kernel's content for one family.

    ``different`` are real servers whose weight is not 1 or that are not reached by NAT; ``bound``
    are addresses on kube-ipvs0.
    """

    servers: Servers
    different: set[tuple[ServerKey, RealKey]]
    entries: dict[SetKind, set[SetEntry]]
    bound: frozenset[bytes]


def look(ports: IpvsPorts, family: IPFamily) -> Found:
    """Read everything; the sets and the device must exist."""
    servers: Servers = {}
    different: set[tuple[ServerKey, RealKey]] = set()
    for key, server in ports.servers.servers(family).items():
        reals = ports.servers.real_servers(server)
        servers[key] = server, tuple(real.key for real in reals), _NOBODY
        different |= {(key, real.key) for real in reals if not _is_usual(real)}
    entries = {kind: ports.sets.entries(kind.name(family)) for kind in names.SETS}
    bound = frozenset(
        address
        for address in ports.links.addresses_of(DEVICE, family)
        if not unpack_address(address).startswith("fe80:")
    )
    return Found(servers, different, entries, bound)


def _is_usual(real: RealServer) -> bool:
    return real.weight == 1 and real.forward == FORWARD_MASQ


def difference(
    found: Found,
    servers: Servers,
    entries: dict[SetKind, set[SetEntry]],
    change: IpvsChange,
    settings: IpvsSettings,
    made: Collection[ServerKey] = (),
) -> None:
    """
    Fill *change* with what leads from what was found to what is wanted.

    Virtual servers that are neither wanted nor a proxy's stay: kube-proxy deletes those too. *made*
    are a proxy's whatever they look like now.
    """
    before = {
        key: value
        for key, value in found.servers.items()
        if key in servers or key in made or _is_ours(key, found, settings)
    }
    compare_servers(before, servers, change)
    for key, (server, reals, origin) in servers.items():
        for real in reals:
            if (key, real) in found.different:
                step = Operation(Action.SET_REAL, server, real, 1)
                change.raised.append(Step(step, origin))
    for kind in names.SETS:
        wanted, there = entries.get(kind, set()), found.entries[kind]
        change.entries_added[kind] = sorted(wanted - there)
        change.entries_removed[kind] = sorted(there - wanted)
    addresses = {entry.address for entry in entries.get(names.IPVS_IPS, ())}
    change.bound = sorted(addresses - found.bound)
    change.unbound = sorted(found.bound - addresses)


def _is_ours(key: ServerKey, found: Found, settings: IpvsSettings) -> bool:
    """Return whether a virtual server was made by a node proxy and is not excluded."""
    address = ip_address(key.address)
    if any(address in network for network in settings.exclude_cidrs):
        return False
    if key.address in found.bound or SetEntry(key.address) in found.entries[names.IPVS_IPS]:
        return True
    frontend = SetEntry(key.address, key.protocol, key.port)
    if any(frontend in found.entries[kind] for kind in _FRONTEND_SETS):
        return True
    return key.address in settings.node_addresses and any(
        key.protocol == protocol and SetEntry(port=key.port) in found.entries[kind]
        for kind, protocol in _NODE_PORT_SETS
    )
