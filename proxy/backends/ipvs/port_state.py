"""
What one service port needs in the kernel: virtual servers and entries of ipsets.

IPVS has no way to refuse what a Local policy keeps on this node: where no endpoint is local,
kube-proxy sends the packets to the cluster's, and so does this data plane. Everything else about
where packets go was decided by the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from proxy.backends.ipvs import names
from proxy.backends.ipvs.names import SetKind
from proxy.backends.ipvs.settings import IpvsSettings
from proxy.netfilter.ipset import SetEntry
from proxy.netfilter.ipvs import (
    FLAG_PERSISTENT,
    FLAG_SCHED_MH_PORT,
    RealKey,
    ServerKey,
    VirtualServer,
)
from proxy.plan.service_plan import Frontend, FrontendKind, Route, ServicePortPlan, Target

SCTP = 132
Entry = tuple[SetKind, SetEntry]
_NODE_PORT_SETS = {
    6: (names.NODE_PORT_TCP, names.NODE_PORT_LOCAL_TCP),
    17: (names.NODE_PORT_UDP, names.NODE_PORT_LOCAL_UDP),
    SCTP: (names.NODE_PORT_SCTP, names.NODE_PORT_LOCAL_SCTP),
}


@dataclass(slots=True)
class PortState:
    """
    What one service port needs.

    Attributes:
        servers: virtual servers with their real servers, in the order of the endpoints' text.
        entries: of ipsets, that of the addresses to be bound to kube-ipvs0 included; another
            service port may need the same one.
        unanswered: load balancer addresses whose answers to the node itself are dropped, because
            the node is outside their source ranges.
    """

    servers: dict[ServerKey, tuple[VirtualServer, tuple[RealKey, ...]]] = field(
        default_factory=dict
    )
    entries: set[Entry] = field(default_factory=set)
    unanswered: tuple[ServerKey, ...] = ()


NOTHING = PortState()


def port_state(plan: ServicePortPlan, settings: IpvsSettings) -> PortState:
    """Return what a service port needs in the kernel of this node."""
    state = PortState()
    for frontend in plan.frontends:
        if frontend.kind is FrontendKind.NODE_PORT:
            _add_node_port(state, plan, frontend, settings)
        else:
            _add_address(state, plan, frontend, settings)
    if plan.health_check_node_port and settings.node_port_servers:
        entry = SetEntry(port=plan.health_check_node_port)
        state.entries.add((names.HEALTH_CHECK_NODE_PORT, entry))
    for target in plan.on_node:
        address, port = target[:-2], int.from_bytes(target[-2:], "big")
        loop = SetEntry(address, plan.protocol, port, address)
        state.entries.add((names.LOOP_BACK, loop))
    return state


def _add_address(
    state: PortState, plan: ServicePortPlan, frontend: Frontend, settings: IpvsSettings
) -> None:
    key = ServerKey(frontend.address, frontend.port, plan.protocol)
    _add_server(state, plan, frontend, key, settings)
    is_cluster_ip = frontend.kind is FrontendKind.CLUSTER_IP
    if is_cluster_ip or frontend.address not in settings.node_addresses:
        state.entries.add((names.IPVS_IPS, SetEntry(frontend.address)))
    entry = SetEntry(frontend.address, plan.protocol, frontend.port)
    state.entries.update((kind, entry) for kind in _sets_of(frontend))
    if frontend.restricted:
        _restrict(state, plan, frontend, key)


def _sets_of(frontend: Frontend) -> Iterator[SetKind]:
    if frontend.kind is FrontendKind.CLUSTER_IP:
        yield names.CLUSTER_IP
    elif frontend.kind is FrontendKind.EXTERNAL_IP:
        yield names.EXTERNAL_IP if frontend.always_masquerade else names.EXTERNAL_IP_LOCAL
    else:
        yield names.LOAD_BALANCER
        if not frontend.always_masquerade:
            yield names.LOAD_BALANCER_LOCAL
        if frontend.restricted:
            yield names.LOAD_BALANCER_FW


def _restrict(state: PortState, plan: ServicePortPlan, frontend: Frontend, key: ServerKey) -> None:
    for network in plan.source_ranges:
        first, bits = network.network_address.packed, network.prefixlen
        entry = SetEntry(frontend.address, plan.protocol, frontend.port, first, bits)
        state.entries.add((names.LOAD_BALANCER_SOURCE_CIDR, entry))
    if plan.own_sources:
        entry = SetEntry(frontend.address, plan.protocol, frontend.port, frontend.address)
        state.entries.add((names.LOAD_BALANCER_SOURCE_IP, entry))
    else:
        state.unanswered = (*state.unanswered, key)


def _add_node_port(
    state: PortState, plan: ServicePortPlan, frontend: Frontend, settings: IpvsSettings
) -> None:
    if not settings.node_port_servers:
        return
    everyone, local = _NODE_PORT_SETS[plan.protocol]
    kinds = (everyone,) if frontend.always_masquerade else (everyone, local)
    for address in sorted(settings.node_port_servers):
        key = ServerKey(address, frontend.port, plan.protocol)
        _add_server(state, plan, frontend, key, settings)
        entry = SetEntry(port=frontend.port)
        if plan.protocol == SCTP:
            entry = SetEntry(address, SCTP, frontend.port)
        state.entries.update((kind, entry) for kind in kinds)


def _add_server(
    state: PortState,
    plan: ServicePortPlan,
    frontend: Frontend,
    key: ServerKey,
    settings: IpvsSettings,
) -> None:
    flags = FLAG_PERSISTENT if plan.affinity_timeout_s else 0
    if settings.scheduler == "mh":
        flags |= FLAG_SCHED_MH_PORT
    server = VirtualServer(key, settings.scheduler, flags, plan.affinity_timeout_s)
    state.servers[key] = server, tuple(map(_real_key, _targets(plan, frontend)))


def _targets(plan: ServicePortPlan, frontend: Frontend) -> tuple[Target, ...]:
    if frontend.kind is FrontendKind.CLUSTER_IP:
        wants_local = frontend.route is not Route.CLUSTER
    else:
        wants_local = not frontend.always_masquerade
    return plan.local if wants_local and plan.local else plan.cluster


def _real_key(target: Target) -> RealKey:
    return RealKey(target[:-2], int.from_bytes(target[-2:], "big"))
