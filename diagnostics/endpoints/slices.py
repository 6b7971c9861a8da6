"""
The addresses of EndpointSlices one by one, and what keeps them from counting for a Service.

Each is read by the proxy's own reader, alone, so that what it says belongs to this address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from diagnostics.cluster.plans import Cluster
from diagnostics.endpoints.model import Reason, Why
from proxy.model.addresses import IPFamily
from proxy.model.endpoints import (
    SERVICE_NAME_LABEL,
    KeptEndpoint,
    KeptPort,
    KeptSlice,
    PortKey,
    merge_slices,
    read_slice,
    service_of,
)
from proxy.model.events import Resource
from proxy.model.objects import EndpointSlice, SliceEndpoint, SlicePort
from proxy.model.services import ServiceName
from proxy.sources.resources import HEADLESS_LABEL, is_followed

Origin = tuple[str, int]
"""Name of a slice, and the number of an entry in it."""


class Entry(NamedTuple):
    """One address of a slice with one port; ``why`` it cannot count, or None."""

    of: EndpointSlice
    origin: Origin
    endpoint: SliceEndpoint
    address: str
    port: SlicePort | None
    kept: KeptEndpoint | None
    kept_port: KeptPort | None
    why: Why | None


def slices_about(cluster: Cluster, service: ServiceName) -> list[EndpointSlice]:
    """
    Return the slices of a Service by name, and those that only look like its own.

    Those are named like the Service or ``SERVICE-…``, and their label names no Service.
    """
    known = {
        one.metadata.name
        for one in cluster.objects.services or ()
        if one.metadata.namespace == service.namespace
    }
    found = []
    for one in cluster.objects.slices or ():
        name, owner = one.metadata.name, service_of(one)
        if one.metadata.namespace != service.namespace:
            continue
        alike = name == service.name or name.startswith(f"{service.name}-")
        if owner == service.name or (alike and owner not in known):
            found.append(one)
    return sorted(found, key=lambda one: one.metadata.name)


def entries(cluster: Cluster, service: ServiceName, one: EndpointSlice) -> Iterator[Entry]:
    """Yield every address of a slice, with every port of the slice if it has any."""
    reasons = _why_slice(cluster, service, one)
    for index, endpoint in enumerate(one.endpoints or ()):
        kept, problem = _read_endpoint(one, index, endpoint)
        for number, address in enumerate(endpoint.addresses or ("",)):
            why = reasons or problem
            if number and not reasons:
                text = "only the first address of an endpoint counts"
                why = Why(Reason.FURTHER_ADDRESS, text)
            for port in one.ports or (None,):
                kept_port, wrong = _read_port(cluster, service, one, port)
                usable = None if number else kept
                yield Entry(
                    one,
                    (one.metadata.name, index),
                    endpoint,
                    address,
                    port,
                    usable,
                    kept_port,
                    why or wrong,
                )


def _why_slice(cluster: Cluster, service: ServiceName, one: EndpointSlice) -> Why | None:
    owner = service_of(one)
    if not owner:
        return Why(Reason.NO_SERVICE_LABEL, f"its slice has no label {SERVICE_NAME_LABEL}")
    if owner != service.name:
        text = f"label {SERVICE_NAME_LABEL} of its slice is {owner!r}"
        return Why(Reason.OTHER_SERVICE, text)
    if not is_followed(Resource.ENDPOINT_SLICE, one, cluster.node_name):
        text = f"its slice has the label {HEADLESS_LABEL}: the proxy does not see it"
        return Why(Reason.HEADLESS_SLICE, text)
    reading = read_slice(replace(one, endpoints=None, ports=None))
    if reading.kept is None:
        return Why(Reason.ADDRESS_TYPE, "; ".join(reading.problems))
    if cluster.store.ports(service, reading.kept.family):
        return None
    family = reading.kept.family.value
    return Why(Reason.FAMILY, f"the Service has no usable {family} port: see its ipFamilies")


def _read_endpoint(
    one: EndpointSlice, index: int, endpoint: SliceEndpoint
) -> tuple[KeptEndpoint | None, Why | None]:
    reading = read_slice(replace(one, endpoints=[endpoint], ports=None))
    if reading.kept is not None and reading.kept.endpoints:
        return reading.kept.endpoints[0], None
    reason = Reason.INVALID_ADDRESS if endpoint.addresses else Reason.NO_ADDRESS
    text = "; ".join(reading.problems).replace("endpoints[0]", f"endpoints[{index}]")
    return None, Why(reason, text)


def _read_port(
    cluster: Cluster, service: ServiceName, one: EndpointSlice, port: SlicePort | None
) -> tuple[KeptPort | None, Why | None]:
    if port is None:
        return None, Why(Reason.NO_PORTS, "its slice has no ports")
    reading = read_slice(replace(one, endpoints=None, ports=[port]))
    if reading.kept is None or not reading.kept.ports:
        number = (one.ports or []).index(port)
        text = "; ".join(reading.problems).replace("ports[0]", f"ports[{number}]")
        return None, Why(Reason.INVALID_PORT, text)
    kept = reading.kept.ports[0]
    named = {
        (known.name.port, known.name.protocol)
        for known in cluster.store.ports(service, reading.kept.family)
    }
    if (kept.name, kept.protocol) in named:
        return kept, None
    there = ", ".join(f"{name or '(unnamed)'}/{protocol}" for name, protocol in sorted(named))
    here = f"{kept.name or '(unnamed)'}/{kept.protocol}"
    text = f"the Service has no port {here}; it has {there}"
    return kept, Why(Reason.PORT_NOT_IN_SERVICE, text)


def counted_origins(
    found: Iterable[Entry], family: IPFamily, node_name: str
) -> dict[tuple[PortKey, bytes], Origin]:
    """
    Return which entry counts for each port and target, of those that several slices have too.

    The proxy's own merge decides: hints take no part in it, so they carry the origin through.
    """
    origins: dict[str, Origin] = {}
    slices = []
    for entry in found:
        if entry.why or entry.kept is None or entry.kept_port is None:
            continue
        mark = f"{entry.origin[0]} {entry.origin[1]}"
        origins[mark] = entry.origin
        marked = entry.kept._replace(node_hints=frozenset((mark,)))
        slices.append(KeptSlice(IPFamily(entry.of.address_type), (entry.kept_port,), (marked,)))
    return {
        (key, endpoint.target): origins[mark]
        for key, endpoints in merge_slices(slices, family, node_name).items()
        for endpoint in endpoints
        for mark in endpoint.node_hints or ()
    }
