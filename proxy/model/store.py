"""
The cluster as last heard, and which Services changed since it was last asked.

The API tells only that an object changed. The store keeps what matters of each object, compares,
and hands out the set of Services to plan again; nothing here looks at all Services for one change.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.model.addresses import IPFamily
from proxy.model.endpoints import (
    Endpoint,
    KeptSlice,
    PortKey,
    merge_slices,
    read_slice,
    service_of,
    trigger_time_of,
)
from proxy.model.events import Removed, Replaced, Resource, SourceEvent, Unreadable, Upserted
from proxy.model.node import NodeInfo, read_node
from proxy.model.objects import ApiObject, EndpointSlice, Node, Service, ServiceCIDR
from proxy.model.services import ServiceName, ServicePort, read_service

# Small tuples instead of dictionaries: there is one of each for every Service.
Ports = tuple[tuple[ServicePort, ...], ...]  # by family, in the store's order of families
Slices = tuple[tuple[str, KeptSlice], ...]  # by slice name


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one object; the rest of it, if any, is in use."""

    resource: Resource
    namespace: str
    name: str
    text: str


@dataclass(slots=True)
class Delta:
    """
    What changed since the last commit.

    Attributes:
        services: Services whose own object changed.
        endpoints: Services whose slices changed, with the times the changes were triggered.
    """

    services: set[ServiceName] = field(default_factory=set)
    endpoints: dict[ServiceName, list[str]] = field(default_factory=dict)
    node_changed: bool = False
    service_cidrs_changed: bool = False
    problems: list[Problem] = field(default_factory=list)

    @property
    def touched(self) -> set[ServiceName]:
        """Services to plan again."""
        return self.services | self.endpoints.keys()

    def __bool__(self) -> bool:
        return bool(
            self.services
            or self.endpoints
            or self.node_changed
            or self.service_cidrs_changed
            or self.problems
        )


class ClusterStore:
    """Services, EndpointSlices, the Node and ServiceCIDRs, for one or two IP families."""

    def __init__(
        self, families: Iterable[IPFamily], node_name: str, *, allow_external_ips: bool = True
    ) -> None:
        self._families = tuple(families)
        self._node_name = node_name
        self._allow_external_ips = allow_external_ips
        self._ports: dict[ServiceName, Ports] = {}
        self._slices: dict[ServiceName, Slices] = {}
        self._owner: dict[tuple[str, str], ServiceName] = {}  # slice -> service
        self._cidrs: dict[str, tuple[str, ...]] = {}
        self._before: dict[ServiceName, Ports | None] = {}
        self._faults: dict[Resource, dict[tuple[str, str], tuple[str, ...]]] = {}
        self._delta = Delta()
        self.node: NodeInfo | None = None
        self.synced: set[Resource] = set()

    # -- reading -----------------------------------------------------------------------------

    def service_names(self) -> Iterable[ServiceName]:
        """Return all Services that have ports for this node."""
        return self._ports.keys()

    def ports(self, service: ServiceName, family: IPFamily) -> tuple[ServicePort, ...]:
        """Return the ports of a Service for a family; empty when it is not served."""
        ports = self._ports.get(service)
        return ports[self._families.index(family)] if ports and family in self._families else ()

    def endpoints(
        self, service: ServiceName, family: IPFamily
    ) -> dict[PortKey, tuple[Endpoint, ...]]:
        """Return the merged endpoints of a Service by port name and protocol."""
        slices = self._slices.get(service, ())
        if len(slices) > 1:
            slices = tuple(sorted(slices, key=lambda item: item[0]))
        return merge_slices((kept for _, kept in slices), family, self._node_name)

    def slices(self, service: ServiceName) -> dict[str, KeptSlice]:
        """Return the kept slices of a Service by name."""
        return dict(self._slices.get(service, ()))

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        """All ServiceCIDRs, sorted."""
        return tuple(sorted({cidr for cidrs in self._cidrs.values() for cidr in cidrs}))

    @property
    def faulty(self) -> dict[Resource, int]:
        """Number of objects with something wrong in them, for each kind that ever had one."""
        return {resource: len(objects) for resource, objects in self._faults.items()}

    @property
    def pending_services(self) -> int:
        """Number of Services whose own object changed and is not committed yet."""
        return len(self._before)

    # -- changing ----------------------------------------------------------------------------

    def apply(self, event: SourceEvent) -> None:
        """Take one event; problems of objects end up in the next delta."""
        if isinstance(event, Upserted):
            self._upsert(event.obj)
        elif isinstance(event, Removed):
            self._remove(event.resource, event.namespace, event.name)
        elif isinstance(event, Replaced):
            self._replace(event)
        elif isinstance(event, Unreadable):
            self._report(event.resource, event.namespace, event.name, [event.problem])

    def commit(self) -> Delta:
        """Return everything that changed since the last commit, and start anew."""
        delta, self._delta = self._delta, Delta()
        delta.services = set(self._before)
        self._before.clear()
        return delta

    def _upsert(self, obj: ApiObject) -> None:
        if isinstance(obj, Service):
            self._upsert_service(obj)
        elif isinstance(obj, EndpointSlice):
            self._upsert_slice(obj)
        elif isinstance(obj, Node):
            self._upsert_node(obj)
        elif isinstance(obj, ServiceCIDR):
            self._set_cidrs(obj.metadata.name, tuple(obj.spec.cidrs or ()))

    def _upsert_service(self, service: Service) -> None:
        name = self._name_of(service.metadata.namespace, service.metadata.name)
        ports: list[tuple[ServicePort, ...]] = []
        problems: dict[str, None] = {}
        for family in self._families:
            reading = read_service(service, family, allow_external_ips=self._allow_external_ips)
            problems.update(dict.fromkeys(reading.problems))
            ports.append(reading.ports)
        self._report(Resource.SERVICE, name.namespace, name.name, problems)
        self._set_ports(name, tuple(ports) if any(ports) else None)

    def _name_of(self, namespace: str, name: str) -> ServiceName:
        """Return a name whose parts are shared with everybody else who has them."""
        return ServiceName(sys.intern(namespace), sys.intern(name))

    def _set_ports(self, name: ServiceName, ports: Ports | None) -> None:
        current = self._ports.get(name)
        if current == ports:
            return
        before = self._before.setdefault(name, current)
        if before == ports:  # changed back before anyone looked
            del self._before[name]
        if ports is None:
            self._ports.pop(name, None)
        else:
            self._ports[name] = ports

    def _upsert_slice(self, obj: EndpointSlice) -> None:
        meta = obj.metadata
        service_name = service_of(obj)
        if not (service_name and meta.name and meta.namespace):
            self._forget_slice(meta.namespace, meta.name)
            return
        owner = self._name_of(meta.namespace, service_name)
        key = (owner.namespace, meta.name)
        if self._owner.get(key, owner) != owner:
            self._forget_slice(*key)
        reading = read_slice(obj)
        self._report(Resource.ENDPOINT_SLICE, meta.namespace, meta.name, reading.problems)
        if reading.kept is None or reading.kept.family not in self._families:
            self._forget_slice(*key)
            return
        slices = dict(self._slices.get(owner, ()))
        self._owner[key] = owner
        if slices.get(meta.name) == reading.kept:
            return
        slices[meta.name] = reading.kept
        self._slices[owner] = tuple(slices.items())
        times = self._delta.endpoints.setdefault(owner, [])
        if trigger := trigger_time_of(obj):
            times.append(trigger)

    def _forget_slice(self, namespace: str, name: str) -> None:
        owner = self._owner.pop((namespace, name), None)
        if owner is None:
            return
        left = tuple(item for item in self._slices[owner] if item[0] != name)
        if left:
            self._slices[owner] = left
        else:
            del self._slices[owner]
        # A removed slice says nothing about when the change was made.
        self._delta.endpoints[owner] = []

    def _upsert_node(self, node: Node) -> None:
        info = read_node(node)
        if info.name == self._node_name and info != self.node:
            self.node = info
            self._delta.node_changed = True

    def _set_cidrs(self, name: str, cidrs: tuple[str, ...]) -> None:
        before = self.service_cidrs
        if cidrs:
            self._cidrs[name] = cidrs
        else:
            self._cidrs.pop(name, None)
        if before != self.service_cidrs:
            self._delta.service_cidrs_changed = True

    def _remove(self, resource: Resource, namespace: str, name: str) -> None:
        self._report(resource, namespace, name, ())
        if resource is Resource.SERVICE:
            self._set_ports(ServiceName(namespace, name), None)
        elif resource is Resource.ENDPOINT_SLICE:
            self._forget_slice(namespace, name)
        elif resource is Resource.SERVICE_CIDR:
            self._set_cidrs(name, ())
        # A deleted Node is kept as last seen: the proxy serves until it is stopped.

    def _replace(self, event: Replaced) -> None:
        known = self._known(event.resource)
        listed = set()
        for item in event.objects:
            if isinstance(item, Unreadable):
                listed.add((item.namespace, item.name))
                self.apply(item)
                continue
            if known:
                listed.add((item.metadata.namespace, item.metadata.name))
            self._upsert(item)
        for namespace, name in known:
            if (namespace, name) not in listed:
                self._remove(event.resource, namespace, name)
        self.synced.add(event.resource)

    def _known(self, resource: Resource) -> list[tuple[str, str]]:
        if resource is Resource.SERVICE:
            return [(name.namespace, name.name) for name in self._ports]
        if resource is Resource.ENDPOINT_SLICE:
            return list(self._owner)
        if resource is Resource.SERVICE_CIDR:
            return [("", name) for name in self._cidrs]
        return []

    def _report(self, resource: Resource, namespace: str, name: str, texts: Iterable[str]) -> None:
        """Note what is wrong with an object; what was known already is not told again."""
        found, key = tuple(texts), (namespace, name)
        objects = self._faults.setdefault(resource, {}) if found else self._faults.get(resource)
        if objects is None or objects.get(key, ()) == found:
            return
        if not found:
            del objects[key]
            return
        objects[key] = found
        self._delta.problems += [Problem(resource, namespace, name, text) for text in found]
