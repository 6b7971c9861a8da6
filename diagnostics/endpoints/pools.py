"""
Why an endpoint is in a pool of a service port, or is not.

The proxy's own choice is asked again with one fact of the endpoint changed after the other: what
had to be otherwise for it to be chosen is the reason. So the policies stay in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

from diagnostics.endpoints.model import PoolUse, Reason, Why
from proxy.model.endpoints import Endpoint
from proxy.model.services import ServicePort
from proxy.plan.topology import Choice, Endpoints, Location, choose_endpoints

_Change = tuple[Callable[[Endpoint], Endpoint], Callable[[Endpoint], Why]]
_POOLS: dict[str, Callable[[Choice], Endpoints]] = {
    "cluster": lambda choice: choice.cluster,
    "local": lambda choice: choice.local,
}


class Pools:
    """
    The two pools of one service port.

    Args:
        port: the service port of one family.
        endpoints: its merged endpoints.
        location: this node.
        host: returns the name of the node that an endpoint is on, "" when nothing tells.
    """

    def __init__(
        self,
        port: ServicePort,
        endpoints: Endpoints,
        location: Location,
        host: Callable[[Endpoint], str],
    ) -> None:
        self._port = port
        self._endpoints = endpoints
        self._location = location
        self._host = host
        self.choice = choose_endpoints(port, endpoints, location)
        self._members = {
            name: frozenset(e.target for e in of(self.choice)) for name, of in _POOLS.items()
        }
        # Endpoints that differ in nothing but their addresses have the same reasons.
        self._missing: dict[tuple[str, Endpoint], tuple[int, ...]] = {}

    def use(self, endpoint: Endpoint, pool: str) -> PoolUse:
        """Return whether *pool* ("cluster" or "local") has an endpoint, and why."""
        if endpoint.target in self._members[pool]:
            return PoolUse(True, (self._why_used(endpoint, pool),))
        if unused := self._why_pool_is_unused(pool):
            return PoolUse(False, (unused,))
        changes = self._changes(pool)
        return PoolUse(False, tuple(changes[n][1](endpoint) for n in self._needed(endpoint, pool)))

    def _why_used(self, endpoint: Endpoint, pool: str) -> Why:
        if not endpoint.ready:
            where = " on this node" if pool == "local" else ""
            text = f"terminating but still serving, used because none is ready{where}"
            return Why(Reason.NOBODY_READY, text)
        topology = self.choice.topology if pool == "cluster" else ""
        if topology == "zone":
            return Why(Reason.ZONE_HINTS, f"hinted for zone {self._location.zone}")
        if topology == "node":
            return Why(Reason.NODE_HINTS, "hinted for this node")
        return Why(Reason.READY, "ready")

    def _why_pool_is_unused(self, pool: str) -> Why | None:
        if pool == "cluster" and not self._port.uses_cluster_endpoints:
            text = "internalTrafficPolicy Local: nobody gets endpoints of other nodes"
            return Why(Reason.POOL_UNUSED, text)
        if pool == "local" and not self._port.uses_local_endpoints:
            return Why(Reason.POOL_UNUSED, "no traffic policy is Local")
        return None

    def _needed(self, endpoint: Endpoint, pool: str) -> tuple[int, ...]:
        """Return the fewest changes with which the endpoint would be chosen."""
        key = (pool, endpoint._replace(address=b"", port=0))
        if key not in self._missing:
            self._missing[key] = next(self._working(endpoint, pool))
        return self._missing[key]

    def _working(self, endpoint: Endpoint, pool: str) -> Iterator[tuple[int, ...]]:
        changes = self._changes(pool)
        for size in range(1, len(changes) + 1):
            for chosen in combinations(range(len(changes)), size):
                changed = endpoint
                for number in chosen:
                    changed = changes[number][0](changed)
                if self._would_be_used(changed, pool):
                    yield chosen

    def _would_be_used(self, changed: Endpoint, pool: str) -> bool:
        endpoints = tuple(changed if e.target == changed.target else e for e in self._endpoints)
        choice = choose_endpoints(self._port, endpoints, self._location)
        return any(e.target == changed.target for e in _POOLS[pool](choice))

    def _changes(self, pool: str) -> tuple[_Change, ...]:
        location = self._location
        changes: list[_Change] = [
            (lambda e: e._replace(is_local=True), self._is_elsewhere),
            (
                lambda e: e._replace(ready=True, serving=True, terminating=False),
                lambda e: _is_not_ready(e, " on this node" if pool == "local" else ""),
            ),
        ]
        if self.choice.topology == "zone":
            zone = frozenset((location.zone,))
            changes.append((lambda e: e._replace(zone_hints=zone), self._is_hinted_elsewhere))
        elif self.choice.topology == "node":
            node = frozenset((location.node_name,))
            changes.append((lambda e: e._replace(node_hints=node), self._is_hinted_elsewhere))
        return tuple(changes)

    def _is_elsewhere(self, endpoint: Endpoint) -> Why:
        host = self._host(endpoint)
        where = f"on node {host}" if host else "on no node by its slice"
        traits = self._port.traits
        policies = []
        if traits.internal_policy_local:
            policies.append("internalTrafficPolicy")
        if traits.external_policy_local and self._port.externally_accessible:
            policies.append("externalTrafficPolicy")
        text = f"{where}, not on this one ({' and '.join(policies)} Local)"
        return Why(Reason.NOT_ON_THIS_NODE, text)

    def _is_hinted_elsewhere(self, endpoint: Endpoint) -> Why:
        if self.choice.topology == "zone":
            zones = _named("zone", endpoint.zone_hints)
            text = f"hinted for {zones}, this node is in zone {self._location.zone}"
            return Why(Reason.ZONE_HINTS, text)
        return Why(Reason.NODE_HINTS, f"hinted for {_named('node', endpoint.node_hints)}")


def _named(kind: str, names: frozenset[str] | None) -> str:
    if not names:
        return f"no {kind}"
    return f"{kind}{'s' if len(names) > 1 else ''} {', '.join(sorted(names))}"


def _is_not_ready(endpoint: Endpoint, where: str) -> Why:
    if not endpoint.terminating:
        return Why(Reason.NOT_READY, "not ready")
    if not endpoint.serving:
        return Why(Reason.TERMINATING, "terminating and no longer serving")
    return Why(Reason.OTHERS_READY, f"terminating, and others are ready{where}")
