"""
Which tracked UDP flows still go where the Service no longer points.

A UDP flow keeps the destination of its first packet for as long as packets come, so a client of a
Service goes on talking to an endpoint that left, to a Service that was deleted, or to nobody at
all when its first packet came before the Service's rules. Such entries must be deleted; then the
next packet is decided anew. TCP needs none of this: its connections break and are opened again.

Places are bytes here, ``address + port`` in network order, as in netlink messages, because a full
pass compares a million of them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proxy.model.addresses import IPFamily, Network, pack_address

Place = bytes
"""An address (4 or 16 bytes) followed by a port (2 bytes)."""


def place(address: str, port: int) -> Place:
    """Return address and port (0..65535) as bytes; ValueError when *address* is no address."""
    packed = pack_address(address)
    if packed is None:
        raise ValueError(f"not an IP address: {address!r}")
    return packed + port.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Frontend:
    """
    Where clients reach a UDP Service port.

    ``address`` is a cluster IP, an external IP or a load balancer's VIP, in canonical text; None
    stands for a nodePort, which is reached at whichever node addresses accept nodePorts.
    """

    address: str | None
    port: int


@dataclass(frozen=True, slots=True)
class CleanupRequest:
    """
    What changed for UDP in one family, and the truth to compare flows with.

    Send it after the rules were changed. It names only what changed, except for the first one
    after a start, which names everything.

    ``frontends`` gives the serving endpoints of each frontend that was added or changed, as
    places; serving ones of any node, ready or not. Empty: no flow to it may live on.
    ``removed_frontends`` no longer exist. A frontend in both exists (another Service took it over).
    ``removed_endpoints`` is set only when nothing but these endpoints' departure happened to
    ``frontends``: searching for them is cheaper than searching for each frontend. None: unknown.
    ``node_addresses`` accept nodePorts; a flow to the same port of any other address is not ours.
    ``service_networks`` makes the request a complete one: ``frontends`` lists all there are, and a
    flow into these networks that matches none of them belongs to a Service that is gone.
    """

    family: IPFamily
    frontends: Mapping[Frontend, frozenset[Place]] = field(default_factory=dict)
    removed_frontends: frozenset[Frontend] = frozenset()
    removed_endpoints: frozenset[Place] | None = None
    node_addresses: frozenset[str] = frozenset()
    service_networks: tuple[Network, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to look for."""
        return not (self.frontends or self.removed_frontends or self.service_networks)


def merge(older: CleanupRequest, newer: CleanupRequest) -> CleanupRequest:
    """Return one request that does the work of both, of one family; *newer* knows better."""
    frontends = {
        frontend: serving
        for frontend, serving in older.frontends.items()
        if frontend not in newer.removed_frontends
    }
    frontends.update(newer.frontends)
    hints = (older.removed_endpoints, newer.removed_endpoints)
    return CleanupRequest(
        family=newer.family,
        frontends=frontends,
        removed_frontends=(older.removed_frontends - newer.frontends.keys())
        | newer.removed_frontends,
        removed_endpoints=None if hints[0] is None or hints[1] is None else hints[0] | hints[1],
        node_addresses=newer.node_addresses,
        service_networks=newer.service_networks or older.service_networks,
    )


class Reason(enum.Enum):
    """Why an entry is deleted."""

    NOT_SERVING = "its endpoint does not serve the Service"
    NO_ENDPOINTS = "the Service has no serving endpoints"
    NOT_TRANSLATED = "it began before the Service's rules and reaches no endpoint"
    FRONTEND_REMOVED = "the Service, or this address or port of it, was removed"
    NO_SUCH_SERVICE = "no Service has this cluster IP and port"


class Judge:
    """A request, indexed for fast answers about single entries."""

    def __init__(self, request: CleanupRequest) -> None:
        self._serving: dict[Place, frozenset[Place]] = {}
        self._node_port_serving: dict[bytes, frozenset[Place]] = {}
        for frontend, serving in request.frontends.items():
            if frontend.address is None:
                self._node_port_serving[frontend.port.to_bytes(2, "big")] = serving
            else:
                self._serving[place(frontend.address, frontend.port)] = serving
        removed = request.removed_frontends
        self._removed = frozenset(place(f.address, f.port) for f in removed if f.address)
        self._removed_node_ports = frozenset(
            f.port.to_bytes(2, "big") for f in removed if f.address is None
        )
        self._node_addresses = frozenset(map(pack_address, request.node_addresses))
        self._networks = tuple(
            (int(network.netmask), int(network.network_address))
            for network in request.service_networks
        )

    def verdict(self, destination: Place, reply_source: Place) -> Reason | None:
        """
        Return why the UDP entry must go, or None when it may stay.

        *destination* is where the client sent its packets, *reply_source* where the answers come
        from before translation: the chosen endpoint, or *destination* itself when no rule
        translated the flow.
        """
        at_node = destination[:-2] in self._node_addresses
        serving = self._serving.get(destination)
        if serving is None and at_node:
            serving = self._node_port_serving.get(destination[-2:])
        if serving is not None:
            return _verdict_on_frontend(serving, destination, reply_source)
        if reply_source == destination:
            # No Service's rule translated this flow, so no Service's removal makes it stale.
            return None
        if destination in self._removed or (
            at_node and destination[-2:] in self._removed_node_ports
        ):
            return Reason.FRONTEND_REMOVED
        if self._networks and self._in_service_network(destination):
            return Reason.NO_SUCH_SERVICE
        return None

    def _in_service_network(self, destination: Place) -> bool:
        address = int.from_bytes(destination[:-2], "big")
        return any(address & mask == network for mask, network in self._networks)


def _verdict_on_frontend(
    serving: frozenset[Place], destination: Place, reply_source: Place
) -> Reason | None:
    if reply_source in serving:
        return None
    if reply_source == destination:
        return Reason.NOT_TRANSLATED
    return Reason.NOT_SERVING if serving else Reason.NO_ENDPOINTS


@dataclass(frozen=True, slots=True)
class Search:
    """
    One walk over the kernel's table: UDP entries of one family with these ends; None is any.

    ``destination`` and ``port`` are of the original direction, ``reply_source`` of the answers.
    """

    destination: bytes | None = None
    port: bytes | None = None
    reply_source: Place | None = None


MAX_FILTERED_SEARCHES = 8
"""
Above this one unfiltered walk is cheaper than several filtered ones.

A walk over a million entries costs the kernel 0.37 s; handing all of them over and judging each
takes 3.1 s (2-core machine, kernel 6.18).
"""


def plan_searches(request: CleanupRequest) -> tuple[Search, ...]:
    """
    Return walks that together see every entry the request is about; empty for an empty request.

    They may see others too, so each entry still needs a verdict.
    """
    if request.empty:
        return ()
    if request.service_networks:
        return (Search(),)
    touched = {*request.frontends, *request.removed_frontends}
    candidates = [_searches_by_address(touched)]
    if request.removed_endpoints is not None:
        candidates.append(
            [
                *(Search(reply_source=endpoint) for endpoint in sorted(request.removed_endpoints)),
                *_searches_by_address(request.removed_frontends),
            ]
        )
    best = min(candidates, key=len)
    if len(best) > MAX_FILTERED_SEARCHES:
        # Ports are the second choice: port 53 is everybody's, so such a walk hands over more.
        best = [Search(port=port.to_bytes(2, "big")) for port in sorted({f.port for f in touched})]
    return tuple(best) if len(best) <= MAX_FILTERED_SEARCHES else (Search(),)


def _searches_by_address(frontends: Iterable[Frontend]) -> list[Search]:
    """One search for each address, narrowed to the port where it is the only one."""
    ports: dict[str | None, set[int]] = {}
    for frontend in frontends:
        ports.setdefault(frontend.address, set()).add(frontend.port)
    searches = [Search(port=port.to_bytes(2, "big")) for port in sorted(ports.pop(None, ()))]
    for address in sorted(filter(None, ports)):
        only = ports[address].pop() if len(ports[address]) == 1 else None
        searches.append(
            Search(
                destination=pack_address(address),
                port=None if only is None else only.to_bytes(2, "big"),
            )
        )
    return searches
