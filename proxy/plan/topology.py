"""
Which endpoints of a service port this node may use.

The rules are kube-proxy's (1.36): hints count only when every ready endpoint has one and one of
them names this node or zone; an empty cluster-wide or local choice falls back, each on its own, to
endpoints that terminate but still serve.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proxy.model.endpoints import Endpoint
from proxy.model.services import ServicePort

Endpoints = tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Location:
    """Where this node is: its name and the value of its zone label ("" when it has none)."""

    node_name: str
    zone: str = ""


class HintsUse(enum.Enum):
    """What becomes of one kind of hints; all but FOLLOWED are reasons to ignore them."""

    FOLLOWED = "followed"
    INCOMPLETE = "a ready endpoint has none"
    NOT_HERE = "no ready endpoint is hinted for here"
    NO_ZONE = "the node has no zone"


# Looked up for every service port; a member costs more through its class.
_FOLLOWED, _INCOMPLETE = HintsUse.FOLLOWED, HintsUse.INCOMPLETE


@dataclass(frozen=True, slots=True)
class Choice:
    """
    The endpoints a service port may use from this node.

    Attributes:
        cluster: for traffic that may go anywhere; in the order given.
        local: for traffic that must stay on this node.
        has_endpoints: whether anything could answer anywhere; False means reject.
        topology: which hints were followed: "", "zone" or "node".
    """

    cluster: Endpoints
    local: Endpoints
    has_endpoints: bool
    topology: str = ""

    @property
    def reachable(self) -> Endpoints:
        """Cluster-wide and local endpoints together, each once."""
        if not self.local:
            return self.cluster
        known = {endpoint.target for endpoint in self.cluster}
        return self.cluster + tuple(e for e in self.local if e.target not in known)


def choose_endpoints(port: ServicePort, endpoints: Endpoints, location: Location) -> Choice:
    """Return the endpoints of *port* that this node may use."""
    cluster: Endpoints = ()
    topology = ""
    if port.uses_cluster_endpoints:
        topology, cluster = _cluster(endpoints, location)
    local = _local(endpoints) if port.uses_local_endpoints else ()
    if not port.uses_cluster_endpoints:
        return Choice((), local, _any_usable(endpoints))
    usable_elsewhere = port.uses_local_endpoints and _any_usable(endpoints)
    return Choice(cluster, local, bool(cluster) or usable_elsewhere, topology)


def _any_usable(endpoints: Endpoints) -> bool:
    return any(e.ready or (e.serving and e.terminating) for e in endpoints)


def _cluster(endpoints: Endpoints, location: Location) -> tuple[str, Endpoints]:
    ready = tuple(endpoint for endpoint in endpoints if endpoint.ready)
    topology = _topology(ready, location)
    if topology == "node":
        chosen = _hinted(ready, location.node_name, lambda e: e.node_hints)
    elif topology == "zone":
        chosen = _hinted(ready, location.zone, lambda e: e.zone_hints)
    else:
        chosen = ready
    if chosen:
        return topology, chosen
    return "", tuple(e for e in endpoints if e.serving and e.terminating)


def _topology(ready: Endpoints, location: Location) -> str:
    if node_hints_use(ready, location) is _FOLLOWED:
        return "node"
    if zone_hints_use(ready, location) is _FOLLOWED:
        return "zone"
    return ""


def node_hints_use(ready: Endpoints, location: Location) -> HintsUse:
    """Return what becomes of the node hints of a service port's *ready* endpoints."""
    return _use(location.node_name, (e.node_hints for e in ready))


def zone_hints_use(ready: Endpoints, location: Location) -> HintsUse:
    """Return what becomes of zone hints where node hints are not followed."""
    if not location.zone:
        return HintsUse.NO_ZONE
    return _use(location.zone, (e.zone_hints for e in ready))


def _use(name: str, hints: Iterable[frozenset[str] | None]) -> HintsUse:
    named = False
    for hint in hints:
        if not hint:
            return _INCOMPLETE
        named = named or name in hint
    return _FOLLOWED if named else HintsUse.NOT_HERE


def _hinted(
    ready: Endpoints, name: str, hints: Callable[[Endpoint], frozenset[str] | None]
) -> Endpoints:
    return tuple(e for e in ready if name in (hints(e) or ()))


def _local(endpoints: Endpoints) -> Endpoints:
    ready = tuple(e for e in endpoints if e.is_local and e.ready)
    if ready:
        return ready
    return tuple(e for e in endpoints if e.is_local and e.serving and e.terminating)
