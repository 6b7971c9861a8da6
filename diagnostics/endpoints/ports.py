"""The ports of a Service on one node: which clients get which pool, and what becomes of hints."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.cluster.plans import Cluster
from diagnostics.endpoints.model import FrontendReport, PortReport, Reach
from proxy.config.types import IPVS
from proxy.model.addresses import IPFamily
from proxy.model.services import ServiceName, ServicePort
from proxy.plan.planner import claim_text
from proxy.plan.service_plan import Frontend, Refusal, Route, ServicePortPlan
from proxy.plan.topology import (
    Endpoints,
    HintsUse,
    Location,
    node_hints_use,
    zone_hints_use,
)

CLUSTER, LOCAL = "cluster", "local"
PODS, NODE, EXTERNAL = "pods", "node", "external"
_POOLS = {Route.CLUSTER: CLUSTER, Route.LOCAL: LOCAL}


def explain_ports(cluster: Cluster, name: ServiceName) -> tuple[PortReport, ...]:
    """Return the ports that a node's proxy serves for a Service, by family; () if it has none."""
    return tuple(
        _port(cluster, family, plan)
        for family in IPFamily
        for plan in cluster.planners[family].plans_of(name)
    )


def _port(cluster: Cluster, family: IPFamily, plan: ServicePortPlan) -> PortReport:
    service = plan.name.service
    port = next(p for p in cluster.store.ports(service, family) if p.name == plan.name)
    key = (plan.name.port, plan.name.protocol)
    endpoints = cluster.store.endpoints(service, family).get(key)
    return PortReport(
        name=str(plan.name),
        family=family.value,
        protocol=plan.name.protocol,
        frontends=tuple(
            FrontendReport(
                frontend.kind.value,
                claim_text(plan, frontend),
                tuple(_reach(cluster.config.mode, plan, frontend)),
                frontend.restricted,
            )
            for frontend in plan.frontends
        ),
        topology=plan.topology,
        hints=_why_no_hints(port, plan, endpoints or (), cluster.planners[family].location),
        notes=tuple(_notes(cluster, family, plan, endpoints)),
    )


def _reach(mode: str, plan: ServicePortPlan, frontend: Frontend) -> Iterator[Reach]:
    if frontend.refusal is Refusal.REJECT:
        gets = dict.fromkeys((PODS, NODE, EXTERNAL), frontend.refusal.value)
    elif mode == IPVS and frontend.route is not Route.CLUSTER:
        # One virtual server answers everybody, from the cluster pool if the other is empty.
        gets = dict.fromkeys((PODS, NODE, EXTERNAL), LOCAL if plan.local else CLUSTER)
    elif frontend.route is Route.SHORT_CIRCUIT:
        outside = LOCAL if frontend.refusal is Refusal.NONE else frontend.refusal.value
        gets = {PODS: CLUSTER, NODE: CLUSTER, EXTERNAL: outside}
    else:
        pool = _POOLS.get(frontend.route, frontend.refusal.value)
        gets = dict.fromkeys((PODS, NODE, EXTERNAL), pool)
    for client, what in gets.items():
        yield Reach(client, what)


def _why_no_hints(
    port: ServicePort, plan: ServicePortPlan, endpoints: Endpoints, location: Location
) -> str:
    """Return why hints are not followed; "" where no endpoint has any, or they are."""
    by_node = any(e.node_hints for e in endpoints)
    by_zone = any(e.zone_hints for e in endpoints)
    if plan.topology == "node" or not (by_node or by_zone):
        return ""
    if not port.uses_cluster_endpoints:
        return "hints are ignored: the policy is Local"
    ready = tuple(e for e in endpoints if e.ready)
    if not ready:
        return "hints are ignored: no endpoint is ready"
    said = []
    if by_node:
        lacking = tuple(e for e in ready if not e.node_hints)
        said.append(_why("node", node_hints_use(ready, location), lacking, location.node_name))
    if by_zone and not plan.topology:
        lacking = tuple(e for e in ready if not e.zone_hints)
        said.append(_why("zone", zone_hints_use(ready, location), lacking, location.zone))
    return "; ".join(said)


def _why(kind: str, use: HintsUse, lacking: Endpoints, here: str) -> str:
    why = {
        HintsUse.NO_ZONE: "no zone of this node is known",
        HintsUse.NOT_HERE: f"no ready endpoint is hinted for {kind} {here or 'of this node'}",
    }.get(use)
    if why is None:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        why = f"ready endpoint {lacking[0]}{more} has none" if lacking else use.value
    return f"{kind} hints are ignored: {why}"


def _notes(
    cluster: Cluster, family: IPFamily, plan: ServicePortPlan, endpoints: Endpoints | None
) -> Iterator[str]:
    if endpoints is None:
        name, protocol = plan.name.port, plan.name.protocol
        yield f"no EndpointSlice has an address for port {name or '(unnamed)'}/{protocol}"
    for conflict in cluster.planners[family].conflicts():
        if conflict.loser == plan.name:
            yield f"{conflict.frontend} belongs to {conflict.winner}, which is older"
        elif conflict.winner == plan.name:
            yield f"{conflict.frontend} is wanted by {conflict.loser} too, which is newer"
    for policy in plan.missing_local:
        yield f"{policy}TrafficPolicy is Local and this node has no usable endpoint"
    known = cluster.view.addresses
    if any(known.values()) and not known.get(family):
        yield f"this node has no {family.value} address"


def why_undetermined(cluster: Cluster, name: ServiceName) -> str:
    """Return what of this node would have to be known to be sure, "" when nothing is missing."""
    for family in IPFamily:
        ports = cluster.store.ports(name, family)
        found = [e for group in cluster.store.endpoints(name, family).values() for e in group]
        if not cluster.node_name and (
            any(port.uses_local_endpoints for port in ports) or any(e.node_hints for e in found)
        ):
            return "which endpoints are on this node is not known: its name is not"
        if cluster.store.node is None and ports and any(e.zone_hints for e in found):
            return "which zone hints are for this node is not known: its Node is not"
    return ""
