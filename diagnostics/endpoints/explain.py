"""Every address of a Service's slices: whether this node uses it, and why."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from diagnostics.cluster.plans import Cluster
from diagnostics.endpoints.model import EndpointReport, PoolUse, Reason, Why
from diagnostics.endpoints.pools import Pools
from diagnostics.endpoints.slices import Entry, counted_origins, entries, slices_about
from proxy.model.addresses import IPFamily
from proxy.model.endpoints import Endpoint, KeptEndpoint, KeptPort, PortKey, target_text
from proxy.model.events import Resource
from proxy.model.objects import EndpointConditions, NamedHint, Service
from proxy.model.services import ServiceName, is_skipped, read_service
from proxy.sources.resources import SERVICE_PROXY_NAME_LABEL, is_followed

_MOST_NAMES = 3


class UnknownService(LookupError):
    """There is no such Service; the text names those that are called alike."""


def find_service(cluster: Cluster, name: ServiceName) -> Service:
    """Return the object of a Service; raises UnknownService."""
    known = []
    for service in cluster.objects.services or ():
        found = ServiceName(service.metadata.namespace, service.metadata.name)
        if found == name:
            return service
        known.append(found)
    alike = difflib.get_close_matches(name.name, {one.name for one in known}, n=_MOST_NAMES)
    # The same name in another namespace comes first, then alike ones in this one.
    near = sorted(
        (one for one in known if one.name in alike),
        key=lambda one: (alike.index(one.name), one.namespace != name.namespace, one),
    )
    hint = ", ".join(map(str, near[:_MOST_NAMES]))
    said = f"did you mean {hint}?" if hint else "see: kubectl get services -A"
    raise UnknownService(f"there is no Service {name}; {said}")


def why_ignored(service: Service, node_name: str) -> Why | None:
    """Return why a proxy has no port of a Service, None when it has some."""
    spec, labels = service.spec, service.metadata.labels or {}
    if spec.type == "ExternalName":
        return Why(Reason.EXTERNAL_NAME, "the Service is of type ExternalName: DNS alone")
    if is_skipped(service):
        return Why(Reason.HEADLESS, "the Service is headless: no proxy serves it")
    if not is_followed(Resource.SERVICE, service, node_name):
        text = f"label {SERVICE_PROXY_NAME_LABEL} gives it to {labels[SERVICE_PROXY_NAME_LABEL]!r}"
        return Why(Reason.OTHER_PROXY, text)
    readings = [read_service(service, family) for family in IPFamily]
    if any(reading.ports for reading in readings):
        return None
    problems = dict.fromkeys(problem for reading in readings for problem in reading.problems)
    said = "; ".join(problems) or "it has no ports"
    return Why(Reason.SERVICE_UNUSABLE, f"the Service cannot be served: {said}")


def explain_endpoints(cluster: Cluster, name: ServiceName) -> tuple[EndpointReport, ...]:
    """
    Return every address of every slice of a Service, by slice and place in it.

    Slices that look like the Service's without being so are among them, with that reason.

    Raises:
        UnknownService: There is no such Service.
    """
    ignored = why_ignored(find_service(cluster, name), cluster.node_name)
    read = [
        entry._replace(why=ignored or entry.why)
        for one in slices_about(cluster, name)
        for entry in entries(cluster, name, one)
    ]
    explainers = {family: _Explainer(cluster, name, family, read) for family in IPFamily}
    return tuple(_reports(read, explainers))


def _reports(
    read: Iterable[Entry], explainers: dict[IPFamily, _Explainer]
) -> Iterator[EndpointReport]:
    for entry in read:
        if entry.why is not None:
            excluded = PoolUse(False, (entry.why,))
            yield _report(entry, "", excluded, excluded)
        elif entry.kept is not None and entry.kept_port is not None:
            explainer = explainers[IPFamily(entry.of.address_type)]
            yield explainer.report(entry, entry.kept, entry.kept_port)


class _Explainer:
    """Explains the entries of one family that nothing in themselves excludes."""

    def __init__(
        self, cluster: Cluster, name: ServiceName, family: IPFamily, read: list[Entry]
    ) -> None:
        self._origins = counted_origins(read, family, cluster.node_name)
        self._hosts = {entry.kept.address: entry.kept.node_name for entry in read if entry.kept}
        location = cluster.planners[family].location
        merged = cluster.store.endpoints(name, family)
        self._endpoints = {
            (key, endpoint.target): endpoint for key, found in merged.items() for endpoint in found
        }
        self._names: dict[PortKey, str] = {}
        self._pools: dict[PortKey, Pools] = {}
        for port in cluster.store.ports(name, family):
            key = (port.name.port, port.name.protocol)
            self._names[key] = str(port.name)
            self._pools[key] = Pools(port, merged.get(key, ()), location, self._host)

    def _host(self, endpoint: Endpoint) -> str:
        return self._hosts.get(endpoint.address, "")

    def report(self, entry: Entry, kept: KeptEndpoint, port: KeptPort) -> EndpointReport:
        """Return what is said of an entry."""
        key = (port.name, port.protocol)
        target = packed_target(kept, port)
        origin = self._origins[key, target]
        if origin != entry.origin:
            text = f"the same address and port is in slice {origin[0]}, whose entry counts"
            duplicate = PoolUse(False, (Why(Reason.DUPLICATE, text),))
            return _report(entry, self._names[key], duplicate, duplicate)
        endpoint, pools = self._endpoints[key, target], self._pools[key]
        cluster, local = pools.use(endpoint, "cluster"), pools.use(endpoint, "local")
        return _report(entry, self._names[key], cluster, local)


def packed_target(kept: KeptEndpoint, port: KeptPort) -> bytes:
    """Return the packed address and port of an entry."""
    return kept.address + port.port.to_bytes(2, "big")


def _report(entry: Entry, service_port: str, cluster: PoolUse, local: PoolUse) -> EndpointReport:
    kept, port, raw = entry.kept, entry.port, entry.endpoint
    target = packed_target(kept, entry.kept_port) if kept and entry.kept_port else b""
    state = raw.conditions or EndpointConditions()
    return EndpointReport(
        slice_name=entry.origin[0],
        address_type=entry.of.address_type,
        address=entry.address,
        port=port.port if port else None,
        port_name=(port.name or "") if port else "",
        protocol=(port.protocol or "TCP") if port else "",
        target=target_text(target) if target else "",
        service_port=service_port,
        node_name=raw.node_name or "",
        ready=kept.ready if kept else state.ready is not False,
        serving=kept.serving if kept else state.serving is not False,
        terminating=kept.terminating if kept else state.terminating is True,
        zone_hints=_hints(raw.hints.for_zones if raw.hints else None),
        node_hints=_hints(raw.hints.for_nodes if raw.hints else None),
        cluster=cluster,
        local=local,
    )


def _hints(hints: list[NamedHint] | None) -> tuple[str, ...]:
    return tuple(hint.name for hint in hints or ())
