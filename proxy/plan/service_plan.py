"""
What a packet to a service port should experience on this node.

This is the only place where policies become decisions. A plan says nothing about chains, maps or
virtual servers; every data plane compiles the same plan.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import collapse_addresses, ip_address, ip_network
from typing import NamedTuple, cast

from proxy.model.addresses import Network, unpack_address
from proxy.model.endpoints import Endpoint, target_text
from proxy.model.services import ServicePort, ServicePortName
from proxy.plan.topology import Choice, Location, choose_endpoints


class FrontendKind(enum.Enum):
    """Which kind of address a client calls."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "externalIP"
    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"


class Route(enum.Enum):
    """Where packets to a frontend go."""

    NOWHERE = "nowhere"
    CLUSTER = "cluster"  # any endpoint of the cluster pool
    LOCAL = "local"  # endpoints of this node only
    # Pods and the node itself reach the cluster pool, everybody else the local pool.
    SHORT_CIRCUIT = "short-circuit"


class Refusal(enum.Enum):
    """What happens to packets that the route does not take."""

    NONE = "none"
    REJECT = "reject"  # nobody could answer anywhere
    DROP = "drop"  # somebody could, but the policy keeps the packet on this node


class Frontend(NamedTuple):
    """
    One address and port of a service port.

    ``address`` is packed and empty for a NodePort. ``always_masquerade`` is True where replies
    must come back through this node, whoever the client is.
    """

    kind: FrontendKind
    address: bytes
    port: int
    route: Route
    refusal: Refusal
    always_masquerade: bool
    restricted: bool


Target = bytes  # packed address and port, see Endpoint.target


@dataclass(frozen=True, slots=True)
class ServicePortPlan:
    """
    Everything a data plane needs to know about one service port on this node.

    Attributes:
        frontends: each address and port once.
        cluster, local: targets of the two pools, in the order of the endpoints' text.
        hairpins: packed addresses of endpoints on this node that may call themselves.
        on_node: targets of all endpoints on this node, ready or not.
        affinity_timeout_s: 0 without session affinity.
        source_ranges: who may call the restricted frontends, as the Service lists them; empty
            allows all.
        own_sources: packed load balancer addresses that may call themselves, because the node is
            within a source range and calls such an address from that address.
        health_check_node_port: the port the node answers load balancers' health checks on, or 0.
        missing_local: frontends that drop because the policy is Local: "internal", "external".
    """

    name: ServicePortName
    protocol: int
    frontends: tuple[Frontend, ...]
    cluster: tuple[Target, ...]
    local: tuple[Target, ...]
    hairpins: tuple[bytes, ...]
    on_node: tuple[Target, ...]
    affinity_timeout_s: int
    source_ranges: tuple[Network, ...]
    own_sources: tuple[bytes, ...]
    health_check_node_port: int
    missing_local: tuple[str, ...]
    topology: str
    created: str

    @property
    def allowed_sources(self) -> tuple[Network, ...]:
        """Every network that may call the restricted frontends, each address in one only."""
        own = (ip_network(unpack_address(address)) for address in self.own_sources)
        return cast(tuple[Network, ...], tuple(collapse_addresses([*self.source_ranges, *own])))

    @property
    def reachable(self) -> tuple[Target, ...]:
        """Targets of both pools, each once, in the order of the endpoints' text."""
        if not self.local or self.local == self.cluster:
            return self.cluster or self.local
        return tuple(sorted({*self.cluster, *self.local}, key=target_text))


def plan_service_port(
    port: ServicePort,
    endpoints: tuple[Endpoint, ...],
    location: Location,
    node_address: bytes | None = None,
) -> ServicePortPlan:
    """
    Return the plan of *port*.

    Args:
        port: the service port of one family.
        endpoints: its endpoints, wherever they are.
        location: this node.
        node_address: the node's own address of that family, packed, if known.
    """
    traits = port.traits
    choice = choose_endpoints(port, endpoints, location)
    restricted = bool(traits.source_ranges)
    frontends = [_cluster_ip(port, choice)]
    for address in traits.external_ips:
        # Under both headings the address is as restricted as a load balancer's.
        if address != traits.cluster_ip and address not in traits.load_balancer_vips:
            frontends.append(_external(port, choice, FrontendKind.EXTERNAL_IP, address, False))
    for address in traits.load_balancer_vips:
        if address != traits.cluster_ip:
            kind = FrontendKind.LOAD_BALANCER
            frontends.append(_external(port, choice, kind, address, restricted))
    if port.node_port:
        frontends.append(_external(port, choice, FrontendKind.NODE_PORT, b"", False))
    return ServicePortPlan(
        name=port.name,
        protocol=port.protocol_number,
        frontends=tuple(frontends),
        cluster=tuple(e.target for e in choice.cluster),
        local=tuple(e.target for e in choice.local),
        hairpins=tuple(sorted({e.address for e in choice.reachable if e.is_local})),
        on_node=tuple(e.target for e in endpoints if e.is_local),
        affinity_timeout_s=traits.affinity_timeout_s,
        source_ranges=traits.source_ranges,
        own_sources=_own_sources(port, node_address),
        health_check_node_port=traits.health_check_node_port,
        missing_local=_missing_local(port, choice),
        topology=choice.topology,
        created=traits.created,
    )


def _cluster_ip(port: ServicePort, choice: Choice) -> Frontend:
    local_only = port.traits.internal_policy_local
    pool = choice.local if local_only else choice.cluster
    refusal, route = Refusal.NONE, Route.LOCAL if local_only else Route.CLUSTER
    if not choice.has_endpoints:
        refusal, route = Refusal.REJECT, Route.NOWHERE
    elif not pool:
        refusal, route = Refusal.DROP, Route.NOWHERE
    return Frontend(
        FrontendKind.CLUSTER_IP, port.traits.cluster_ip, port.port, route, refusal, False, False
    )


def _external(
    port: ServicePort, choice: Choice, kind: FrontendKind, address: bytes, restricted: bool
) -> Frontend:
    number = port.node_port if kind is FrontendKind.NODE_PORT else port.port
    local_only = port.traits.external_policy_local
    refusal, route = Refusal.NONE, Route.SHORT_CIRCUIT if local_only else Route.CLUSTER
    if not choice.has_endpoints:
        refusal, route = Refusal.REJECT, Route.NOWHERE
    elif local_only and not choice.local:
        refusal = Refusal.DROP
    return Frontend(kind, address, number, route, refusal, not local_only, restricted)


def _missing_local(port: ServicePort, choice: Choice) -> tuple[str, ...]:
    if not choice.has_endpoints or choice.local:
        return ()
    missing = []
    if port.traits.internal_policy_local:
        missing.append("internal")
    if port.traits.external_policy_local and port.externally_accessible:
        missing.append("external")
    return tuple(missing)


def _own_sources(port: ServicePort, node_address: bytes | None) -> tuple[bytes, ...]:
    if node_address is None:
        return ()
    own = ip_address(node_address)
    within = any(own in network for network in port.traits.source_ranges)
    return port.traits.load_balancer_vips if within else ()
