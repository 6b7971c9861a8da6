"""
Where Services and their endpoints are now, as bytes that entries are compared with.

Which UDP entry is stale is the proxy's own policy (``proxy.conntrack.stale``). For the other
protocols the same question is asked with another answer to "who may still be talked to": every
endpoint that a slice lists, even one that ends and takes no new connections, since its open ones
are to end in peace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from diagnostics.cluster.plans import Cluster
from proxy.conntrack.stale import CleanupRequest, Frontend, Judge, Place, Reason
from proxy.engine.conntrack_requests import UDP
from proxy.engine.node_settings import base_settings
from proxy.model.addresses import IPFamily, unpack_address
from proxy.plan.service_plan import ServicePortPlan

_PORT = 2


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is known of one protocol in one family."""

    judge: Judge
    services: Mapping[Place, str]
    node_ports: Mapping[bytes, str]


class Truth:
    """
    Services by place, and verdicts on entries; of both families and all protocols.

    Args:
        cluster: The API's intentions for the node.
        sees_translation: False where IPVS translates without conntrack knowing of it: an entry
            that looks untranslated then says nothing.
    """

    def __init__(self, cluster: Cluster, *, sees_translation: bool = True) -> None:
        self.gaps = tuple(map(str, cluster.gaps))
        self._sees_translation = sees_translation
        self._own = frozenset(one for found in cluster.view.addresses.values() for one in found)
        self._kinds: dict[tuple[int, int], _Kind] = {}
        self._node_addresses: set[bytes] = set()
        for family in cluster.planners:
            self._learn(cluster, family)

    def _learn(self, cluster: Cluster, family: IPFamily) -> None:
        settings = base_settings(cluster.config, cluster.view, family)
        accepting = settings.node_port_addresses
        if accepting is None:
            accepting = cluster.view.addresses.get(family, frozenset())
        self._node_addresses |= accepting
        plans: dict[int, list[ServicePortPlan]] = {}
        for plan in cluster.planners[family].all_effective():
            plans.setdefault(plan.protocol, []).append(plan)
        for protocol, listed in plans.items():
            request = CleanupRequest(
                family,
                {
                    frontend: _targets(cluster, plan, family)
                    for plan in listed
                    for frontend in _frontends(plan)
                },
                node_addresses=frozenset(map(unpack_address, accepting)),
                service_networks=settings.service_cidrs,
            )
            self._kinds[protocol, family.bits // 8 + _PORT] = _Kind(
                Judge(request), dict(_places(listed)), dict(_node_ports(listed))
            )

    def known(self, protocol: int, called: Place) -> bool:
        """Return whether a Service is called there."""
        kind = self._kinds.get((protocol, len(called)))
        if kind is None:
            return False
        return called in kind.services or (
            called[-_PORT:] in kind.node_ports and called[:-_PORT] in self._node_addresses
        )

    def service(self, protocol: int, called: Place) -> str:
        """Return the service port that is called there, ``shop/web:http``, or ""."""
        kind = self._kinds.get((protocol, len(called)))
        if kind is None:
            return ""
        name = kind.services.get(called, "")
        if not name and called[:-_PORT] in self._node_addresses:
            name = kind.node_ports.get(called[-_PORT:], "")
        return name

    def verdict(self, protocol: int, called: Place, target: Place) -> Reason | None:
        """Return why an entry is stale, None when nothing says that it is."""
        kind = self._kinds.get((protocol, len(called)))
        reason = None if kind is None else kind.judge.verdict(called, target)
        if reason is not Reason.NOT_TRANSLATED:
            return reason
        if not self._sees_translation:
            return None
        # An address of Services that the node itself holds, as a DNS cache on each node does, is
        # answered by the node: nothing is to be translated.
        held = kind is not None and called in kind.services and called[:-_PORT] in self._own
        return None if held else reason


def _targets(cluster: Cluster, plan: ServicePortPlan, family: IPFamily) -> frozenset[Place]:
    """Return the endpoints that entries of a service port may lead to."""
    name = plan.name
    endpoints = cluster.store.endpoints(name.service, family).get((name.port, name.protocol), ())
    return frozenset(one.target for one in endpoints if one.serving or plan.protocol != UDP)


def _frontends(plan: ServicePortPlan) -> Iterator[Frontend]:
    for frontend in plan.frontends:
        address = unpack_address(frontend.address) if frontend.address else None
        yield Frontend(address, frontend.port)


def _places(plans: list[ServicePortPlan]) -> Iterator[tuple[Place, str]]:
    for plan in plans:
        for frontend in plan.frontends:
            if frontend.address:
                yield frontend.address + frontend.port.to_bytes(_PORT, "big"), str(plan.name)


def _node_ports(plans: list[ServicePortPlan]) -> Iterator[tuple[bytes, str]]:
    for plan in plans:
        for frontend in plan.frontends:
            if not frontend.address:
                yield frontend.port.to_bytes(_PORT, "big"), str(plan.name)
