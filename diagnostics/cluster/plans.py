"""The proxy's own plans for a node, made of a snapshot's API objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from diagnostics.cluster.inferred import infer_config, infer_service_cidrs
from diagnostics.readers.addresses import Links
from diagnostics.readers.objects import ClusterObjects
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap, Part
from proxy.backends.ipvs.names import DEVICE
from proxy.config.defaults import default_config, with_platform_defaults
from proxy.config.gates import gate_enabled
from proxy.config.types import ProxyConfig
from proxy.engine.node_settings import NodeView
from proxy.model.addresses import IPFamily
from proxy.model.events import Replaced, Resource
from proxy.model.objects import ApiObject
from proxy.model.store import ClusterStore
from proxy.plan.planner import Planner
from proxy.sources.resources import is_followed


class ObjectsMissing(Exception):
    """Without these objects there is nothing to plan; ``gaps`` say which and how to get them."""

    def __init__(self, gaps: tuple[Gap, ...]) -> None:
        super().__init__("; ".join(map(str, gaps)))
        self.gaps = gaps


@dataclass(frozen=True, slots=True)
class Cluster:
    """
    The API's intentions for one node.

    Attributes:
        config: The proxy's configuration; where it is not known, what the rules tell of it.
        gaps: What was not known and may make the plans wrong.
        store: Services and EndpointSlices as the proxy keeps them.
        planners: The plans in force, by family.
    """

    config: ProxyConfig
    objects: ClusterObjects
    store: ClusterStore
    view: NodeView
    planners: Mapping[IPFamily, Planner]
    gaps: tuple[Gap, ...] = ()

    @property
    def node_name(self) -> str:
        """Name of the Node the plans are for."""
        return self.view.name

    @property
    def is_placed(self) -> bool:
        """Whether it is known which Node this is, and so which endpoints are on it."""
        if self.view.info is not None:
            return True
        return bool(self.node_name) and self.objects.nodes is None


def load_cluster(snapshot: NodeSnapshot, objects: ClusterObjects | None = None) -> Cluster:
    """
    Return the plans for a snapshot's node.

    Args:
        snapshot: The node, its configuration and addresses.
        objects: API objects to use instead of the snapshot's.

    Raises:
        ObjectsMissing: Services or EndpointSlices are not known.
    """
    objects = objects or snapshot.objects()
    check_objects(snapshot, objects)
    config, gaps = _config(snapshot)
    store = _store(objects, snapshot.name, config)
    if store.node is None:
        gaps += (_node_gap(snapshot, objects),)
    links = snapshot.links()
    if isinstance(links, Gap):
        gaps += (links,)
    cidrs = store.service_cidrs
    if objects.service_cidrs is None:
        cidrs = infer_service_cidrs(snapshot)
    view = NodeView(snapshot.name, store.node, _addresses(links), cidrs)
    planners = {family: _planner(store, config, view, family) for family in IPFamily}
    return Cluster(config, objects, store, view, planners, gaps)


def check_objects(snapshot: NodeSnapshot, objects: ClusterObjects) -> None:
    """Raise ObjectsMissing if Services or EndpointSlices are not known."""
    missing = [
        snapshot.object_gap(part)
        for part, found in ((Part.SERVICES, objects.services), (Part.SLICES, objects.slices))
        if found is None
    ]
    if missing:
        raise ObjectsMissing(tuple(missing))


def _config(snapshot: NodeSnapshot) -> tuple[ProxyConfig, tuple[Gap, ...]]:
    found = snapshot.config()
    if not isinstance(found, Gap):
        return with_platform_defaults(found), ()
    base = replace(default_config(), mode=snapshot.mode().mode)
    return infer_config(snapshot, with_platform_defaults(base)), (found,)


def _store(objects: ClusterObjects, node_name: str, config: ProxyConfig) -> ClusterStore:
    external_ips = gate_enabled(config, "AllowServiceExternalIPs")
    store = ClusterStore(tuple(IPFamily), node_name, allow_external_ips=external_ips)
    listings: tuple[tuple[Resource, Iterable[ApiObject]], ...] = (
        (Resource.SERVICE_CIDR, objects.service_cidrs or ()),
        (Resource.NODE, objects.nodes or ()),
        (Resource.SERVICE, objects.services or ()),
        (Resource.ENDPOINT_SLICE, objects.slices or ()),
    )
    for resource, listed in listings:
        followed = [obj for obj in listed if is_followed(resource, obj, node_name)]
        store.apply(Replaced(resource, followed))
    return store


def _node_gap(snapshot: NodeSnapshot, objects: ClusterObjects) -> Gap:
    if objects.nodes is None:
        return snapshot.object_gap(Part.NODES)
    known = ", ".join(sorted(node.metadata.name for node in objects.nodes)) or "none"
    why = f"there is no Node {snapshot.name!r}; there are: {known}"
    return Gap("this node's Node object", why, "say which it is: --node NAME")


def _addresses(links: Links | Gap) -> Mapping[IPFamily, frozenset[bytes]]:
    """Return the node's packed addresses by family, without those that IPVS mode binds itself."""
    found: dict[IPFamily, set[bytes]] = {family: set() for family in IPFamily}
    if not isinstance(links, Gap):
        for link, entry in links.addresses():
            if link.name != DEVICE:
                family = IPFamily.IPV4 if entry.address.version == 4 else IPFamily.IPV6
                found[family].add(entry.address.packed)
    return {family: frozenset(addresses) for family, addresses in found.items()}


def _planner(store: ClusterStore, config: ProxyConfig, view: NodeView, family: IPFamily) -> Planner:
    planner = Planner(view.location, view.node_address(config, family))
    for service in store.service_names():
        ports = store.ports(service, family)
        if ports:
            planner.update(service, ports, store.endpoints(service, family))
    return planner
