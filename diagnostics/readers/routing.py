"""
What the node would do with an address: is it its own, which interface, which source.

Types of IPv4 addresses come from the table ``local`` alone, as the kernel's inet_addr_type() does
it for addrtype and fib; where a dump lacks that table, its content follows from the addresses of
the interfaces (fib_add_ifaddr()).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_network

from diagnostics.readers.addresses import Address, Link, LinkAddress, Links
from diagnostics.readers.routes import Network, NextHop, RouteEntry, RuleEntry

LOCAL, BROADCAST, MULTICAST, UNICAST = "LOCAL", "BROADCAST", "MULTICAST", "UNICAST"
UNREACHABLE, UNSPEC = "UNREACHABLE", "UNSPEC"
_MULTICAST_NETWORKS = (ip_network("224.0.0.0/4"), ip_network("ff00::/8"))
_ZERO_NETWORK = IPv4Network("0.0.0.0/8")
_LIMITED_BROADCAST = IPv4Address("255.255.255.255")
REJECTING = frozenset({"unreachable", "prohibit", "blackhole"})
_DEFAULT_RULES = (
    RuleEntry(0, table="local"),
    RuleEntry(32766, table="main"),
    RuleEntry(32767, table="default"),
)


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """
    What routing says of a destination.

    Attributes:
        device: Where packets leave; "lo" for the node's own addresses, "" if they are refused.
        source: The node's address that packets of its own, and masqueraded ones, leave with.
        gateway: The next hop, None when the destination is on the link.
        type: ip-route(8)'s: unicast, local, unreachable …
        certain: False when a policy rule in between could not be decided, or the route has
            several next hops.
    """

    device: str
    source: Address | None
    gateway: Address | None
    type: str
    table: str
    certain: bool = True


class Table:
    """One routing table, for longest-prefix lookups in time independent of its size."""

    def __init__(self, routes: Iterable[RouteEntry]) -> None:
        self._levels: dict[int, dict[int, dict[int, RouteEntry]]] = {4: {}, 6: {}}
        for route in routes:
            if route.dead:
                continue
            level = self._levels[route.network.version].setdefault(route.network.prefixlen, {})
            key = int(route.network.network_address)
            if key not in level or route.metric < level[key].metric:
                level[key] = route
        for version, levels in self._levels.items():
            self._levels[version] = dict(sorted(levels.items(), reverse=True))

    def lookup(self, address: Address) -> RouteEntry | None:
        """Return the route with the longest prefix, among equals that of the smallest metric."""
        value, bits = int(address), address.max_prefixlen
        for length, level in self._levels[address.version].items():
            route = level.get(value >> (bits - length) << (bits - length))
            if route is not None:
                return route
        return None


@dataclass(frozen=True, slots=True)
class _Lookups:
    """What is built on first use."""

    local: dict[int, Table] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


class Routing:
    """
    The addresses, routes and policy rules of one node; immutable.

    Args:
        links: The interfaces, None if they are not known.
        routes: Those of all dumps together.
        families: IP versions (4, 6) whose routes are in *routes*; of others only what follows
            from the interfaces' own networks is known.
        rules: Policy rules by IP version; absent means the kernel's default ones.
    """

    def __init__(
        self,
        links: Links | None,
        routes: Sequence[RouteEntry] = (),
        families: Iterable[int] = (),
        rules: dict[int, Sequence[RuleEntry]] | None = None,
    ) -> None:
        self.links = links
        self.families = frozenset(families)
        self._routes = tuple(routes)
        self._rules = dict(rules or {})
        self._lookups = _Lookups()
        self._local_dumped = {route.network.version for route in routes if route.table == "local"}

    @property
    def routes(self) -> tuple[RouteEntry, ...]:
        """The routes that were given."""
        return self._routes

    def replacing(self, links: Links, routes: Sequence[RouteEntry]) -> Routing:
        """Return the same node with other interfaces and routes."""
        return Routing(links, routes, self.families, self._rules)

    def local_addresses(self) -> frozenset[Address]:
        """Return all addresses of the node's interfaces; empty when they are not known."""
        if self.links is None:
            return frozenset()
        return frozenset(entry.address for _, entry in self.links.addresses())

    def is_local(self, address: Address) -> bool | None:
        """Return whether the node takes packets to *address* for itself; None: not known."""
        found = self.address_type(address)
        return None if found is None else found == LOCAL

    def address_type(self, address: Address) -> str | None:
        """
        Return what ``-m addrtype`` and ``fib daddr type`` call an address; None: not known.

        An IPv6 address without any route is UNREACHABLE only where the routes are known.
        """
        if address.version not in self._local_dumped and self.links is None:
            return None
        if special := _special_type(address):
            return special
        route = self._local_table(address.version).lookup(address)
        if route is not None:
            return route.type.upper()
        if address.version == 6 and 6 in self.families:
            answer = self.route(address)
            if answer is None or answer.type in REJECTING:
                return UNREACHABLE
        return UNICAST

    def route(
        self, address: Address, source: Address | None = None, mark: int = 0, iif: str = ""
    ) -> RouteAnswer | None:
        """Return where packets to *address* go; None when there is no route, or it is unknown."""
        certain = True
        for rule in self._rules.get(address.version, _DEFAULT_RULES):
            matches = _matches(rule, address, source, mark, iif)
            if matches is None:
                certain = False
            if not matches:
                continue
            if rule.action in REJECTING:
                return RouteAnswer("", None, None, rule.action, rule.table, certain)
            route = self._table(rule.table, address.version).lookup(address)
            if route is None or route.type == "throw":
                continue
            if route.network.prefixlen <= rule.suppress_prefix:
                continue
            return self._answer(route, address, certain)
        return None

    def _answer(self, route: RouteEntry, address: Address, certain: bool) -> RouteAnswer:
        if route.type == "local":
            return RouteAnswer("lo", route.source or address, None, "local", route.table, certain)
        hop = route.hops[0] if route.hops else None
        device = hop.device if hop else ""
        gateway = hop.gateway if hop else None
        source = route.source
        if source is None and route.type not in REJECTING:
            source = self.source_on(device, gateway or address)
        certain = certain and len(route.hops) <= 1
        return RouteAnswer(device, source, gateway, route.type, route.table, certain)

    def source_on(self, device: str, towards: Address) -> Address | None:
        """
        Return the address a packet leaves with on *device*, as MASQUERADE picks it.

        That is the first one whose network holds the next hop, else the first global one of the
        device, else the first global one of any device (inet_select_addr()).
        """
        if self.links is None:
            return None
        link = self.links.by_name.get(device)
        own = [entry for entry in link.addresses if _usable(entry, towards)] if link else []
        for entry in own:
            if towards in entry.interface.network:
                return entry.address
        everywhere = [entry for _, entry in self.links.addresses() if _usable(entry, towards)]
        return next((entry.address for entry in (*own, *everywhere)), None)

    def _local_table(self, version: int) -> Table:
        table = self._lookups.local.get(version)
        if table is None:
            if version in self._local_dumped:
                routes: Iterable[RouteEntry] = (
                    route for route in self._routes if route.table == "local"
                )
            else:
                routes = _implied_local(self.links, version)
            table = self._lookups.local[version] = Table(routes)
        return table

    def _table(self, name: str, version: int) -> Table:
        if name == "local":
            return self._local_table(version)
        known = version in self.families
        key = name if known else f"implied {name} {version}"
        table = self._lookups.tables.get(key)
        if table is None:
            if known or name != "main":
                routes: Iterable[RouteEntry] = (
                    route for route in self._routes if route.table == name
                )
            else:
                routes = _implied_main(self.links, version)
            table = self._lookups.tables[key] = Table(routes)
        return table


def _special_type(address: Address) -> str:
    """Types that the kernel knows without looking at any table."""
    if any(address in network for network in _MULTICAST_NETWORKS):
        return MULTICAST
    if isinstance(address, IPv4Address):
        return BROADCAST if address == _LIMITED_BROADCAST or address in _ZERO_NETWORK else ""
    return UNSPEC if int(address) == 0 else ""


def _usable(entry: LinkAddress, towards: Address) -> bool:
    """Whether an address may be the source of packets that leave the link."""
    return (
        entry.address.version == towards.version
        and entry.scope == "global"
        and not entry.deprecated
    )


def _matches(
    rule: RuleEntry, address: Address, source: Address | None, mark: int, iif: str
) -> bool | None:
    """Return whether a policy rule holds; None when that depends on what is not known."""
    if rule.other or rule.oif:
        return None
    verdicts = [
        rule.destination is None or _holds(rule.destination, address),
        None
        if rule.source is not None and source is None
        else rule.source is None or source is None or _holds(rule.source, source),
        rule.mark is None or mark & rule.mask == rule.mark & rule.mask,
        not rule.iif or rule.iif == (iif or "lo"),
    ]
    if False in verdicts:
        return rule.inverted
    return None if None in verdicts else not rule.inverted


def _holds(network: Network, address: Address) -> bool:
    return network.version == address.version and address in network


def _implied_local(links: Links | None, version: int) -> Iterator[RouteEntry]:
    for link, entry in links.addresses() if links else ():
        if entry.address.version != version:
            continue
        host = ip_network(entry.address)
        yield _local(link, host, "local")
        if not link.is_up or version == 6:
            continue
        network = entry.interface.network
        if "LOOPBACK" in link.flags:
            yield _local(link, network, "local")
        if network.prefixlen < network.max_prefixlen - 1:
            yield _local(link, ip_network(network.broadcast_address), "broadcast")
        if entry.broadcast is not None:
            yield _local(link, ip_network(entry.broadcast), "broadcast")


def _local(link: Link, network: Network, kind: str) -> RouteEntry:
    return RouteEntry(network, (NextHop(link.name),), kind, "local")


def _implied_main(links: Links | None, version: int) -> Iterator[RouteEntry]:
    """Yield the networks that are on the link; a default route cannot be known this way."""
    for link, entry in links.addresses() if links else ():
        network = entry.interface.network
        if network.version == version and link.is_up and "LOOPBACK" not in link.flags:
            yield RouteEntry(network, (NextHop(link.name),))
