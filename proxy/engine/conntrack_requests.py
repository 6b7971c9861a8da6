"""
Which tracked UDP flows must be looked at after a change of plans.

kube-proxy looks only after a change of endpoints, and never at Services without serving endpoints
or at deleted ones. Here every change of a UDP service port counts: endpoints that left, frontends
that came (their first packets may have gone nowhere), and frontends that went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from proxy.conntrack.stale import CleanupRequest, Frontend, Place
from proxy.model.addresses import IPFamily, Network, unpack_address
from proxy.model.services import ServicePortName
from proxy.plan.planner import Changes
from proxy.plan.service_plan import ServicePortPlan

UDP = 17
PlanOf = Callable[[ServicePortName], ServicePortPlan | None]
ServingOf = Callable[[ServicePortName], frozenset[Place]]


def after_changes(
    family: IPFamily,
    before: Changes,
    after: Changes,
    serving_of: ServingOf,
    node_addresses: frozenset[str],
) -> CleanupRequest:
    """
    Return what to look for after service ports changed; it may be empty.

    Args:
        family: the family of all plans.
        before: the plans the kernel held for the changed ports (None: none).
        after: the plans it holds now.
        serving_of: serving endpoints of a service port, on any node.
        node_addresses: canonical addresses that accept NodePorts.
    """
    changed: dict[Frontend, frozenset[Place]] = {}
    removed: set[Frontend] = set()
    gone: set[Place] | None = set()
    for name, plan in after.items():
        old = before.get(name)
        if not _is_udp(old) and not _is_udp(plan):
            continue
        had, has = frontends_of(old), frontends_of(plan)
        removed |= had - has
        left = _targets(old) - _targets(plan)
        if not left and had == has:
            continue  # endpoints were only added: flows to the others stay right
        serving = serving_of(name) if plan else frozenset()
        changed.update(dict.fromkeys(has, serving))
        gone = gone | left if gone is not None and had == has else None
    return CleanupRequest(
        family=family,
        frontends=changed,
        removed_frontends=frozenset(removed - changed.keys()),
        removed_endpoints=frozenset(gone) if gone is not None else None,
        node_addresses=node_addresses,
    )


def after_start(
    family: IPFamily,
    plans: Iterable[ServicePortPlan],
    serving_of: ServingOf,
    node_addresses: frozenset[str],
    service_networks: tuple[Network, ...],
) -> CleanupRequest:
    """Return the complete request of the first synchronisation."""
    frontends: dict[Frontend, frozenset[Place]] = {}
    for plan in plans:
        if _is_udp(plan):
            frontends.update(dict.fromkeys(frontends_of(plan), serving_of(plan.name)))
    return CleanupRequest(
        family=family,
        frontends=frontends,
        node_addresses=node_addresses,
        service_networks=service_networks,
    )


def frontends_of(plan: ServicePortPlan | None) -> set[Frontend]:
    """Return where clients reach a UDP service port."""
    if plan is None or not _is_udp(plan):
        return set()
    return {
        Frontend(unpack_address(f.address) if f.address else None, f.port) for f in plan.frontends
    }


def _targets(plan: ServicePortPlan | None) -> set[Place]:
    return {*plan.cluster, *plan.local} if plan else set()


def _is_udp(plan: ServicePortPlan | None) -> bool:
    return plan is not None and plan.protocol == UDP
