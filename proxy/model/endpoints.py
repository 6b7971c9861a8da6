"""
EndpointSlices reduced to what is kept, and merged per service port.

A slice is kept as small tuples of packed addresses and interned names, because there may be
hundred thousands of endpoints; a merge touches only the slices of one Service.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from proxy.model.addresses import IPFamily, pack_address, unpack_address
from proxy.model.objects import EndpointHints, EndpointSlice, NamedHint, SliceEndpoint
from proxy.model.services import PROTOCOLS

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
TRIGGER_TIME_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"

PortKey = tuple[str, str]  # port name, protocol


class KeptEndpoint(NamedTuple):
    """One address of a slice; hints are None when the endpoint has none."""

    address: bytes
    node_name: str
    ready: bool
    serving: bool
    terminating: bool
    zone_hints: frozenset[str] | None
    node_hints: frozenset[str] | None


class KeptPort(NamedTuple):
    """One port of a slice."""

    name: str
    protocol: str
    port: int


class KeptSlice(NamedTuple):
    """An EndpointSlice as the store keeps it."""

    family: IPFamily
    ports: tuple[KeptPort, ...]
    endpoints: tuple[KeptEndpoint, ...]


class Endpoint(NamedTuple):
    """One endpoint of a service port as a proxy on this node sees it."""

    address: bytes
    port: int
    is_local: bool
    ready: bool
    serving: bool
    terminating: bool
    zone_hints: frozenset[str] | None = None
    node_hints: frozenset[str] | None = None

    @property
    def target(self) -> bytes:
        """Packed address and port: 6 or 18 bytes, the identity of an endpoint."""
        return self.address + self.port.to_bytes(2, "big")

    def __str__(self) -> str:
        return target_text(self.target)


def target_text(target: bytes) -> str:
    """Return packed address and port as ``IP:port`` or ``[IPv6]:port``."""
    address = unpack_address(target[:-2])
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{int.from_bytes(target[-2:], 'big')}"


class SliceReading(NamedTuple):
    """A kept slice, and what was wrong with the object."""

    kept: KeptSlice | None
    problems: tuple[str, ...]


def service_of(endpoint_slice: EndpointSlice) -> str:
    """Return the name of the Service a slice belongs to, or "" when it belongs to none."""
    return (endpoint_slice.metadata.labels or {}).get(SERVICE_NAME_LABEL, "")


def trigger_time_of(endpoint_slice: EndpointSlice) -> str:
    """Return the annotation that says when the change behind this slice was made, or ""."""
    return (endpoint_slice.metadata.annotations or {}).get(TRIGGER_TIME_ANNOTATION, "")


def read_slice(endpoint_slice: EndpointSlice) -> SliceReading:
    """Return what is kept of a slice with one sentence for each thing that is wrong in it."""
    if endpoint_slice.address_type not in ("IPv4", "IPv6"):
        return SliceReading(
            None, (f"addressType: {endpoint_slice.address_type!r} is neither IPv4 nor IPv6",)
        )
    family = IPFamily(endpoint_slice.address_type)
    problems: list[str] = []
    ports = tuple(_ports(endpoint_slice, problems))
    endpoints = tuple(_endpoints(endpoint_slice, family, problems))
    return SliceReading(KeptSlice(family, ports, endpoints), tuple(problems))


def _ports(endpoint_slice: EndpointSlice, problems: list[str]) -> Iterable[KeptPort]:
    for index, port in enumerate(endpoint_slice.ports or ()):
        protocol = port.protocol or "TCP"
        if port.name is None:
            problems.append(f"ports[{index}].name: missing; this port is ignored")
        elif not port.port or not 1 <= port.port <= 65535:
            problems.append(f"ports[{index}].port: {port.port!r} is not within 1..65535")
        elif protocol not in PROTOCOLS:
            problems.append(f"ports[{index}].protocol: {protocol!r} is none of TCP, UDP, SCTP")
        else:
            yield _shared_port(port.name, protocol, port.port)


@lru_cache(maxsize=4096)
def _shared_port(name: str, protocol: str, port: int) -> KeptPort:
    return KeptPort(name, protocol, port)


def _endpoints(
    endpoint_slice: EndpointSlice, family: IPFamily, problems: list[str]
) -> Iterable[KeptEndpoint]:
    for index, endpoint in enumerate(endpoint_slice.endpoints or ()):
        if not endpoint.addresses:
            problems.append(f"endpoints[{index}].addresses: empty; this endpoint is ignored")
            continue
        address = pack_address(endpoint.addresses[0])
        if address is None or len(address) * 8 != family.bits:
            problems.append(
                f"endpoints[{index}].addresses[0]: {endpoint.addresses[0]!r} "
                f"is not an {family.value} address"
            )
            continue
        yield _kept(endpoint, address)


def _kept(endpoint: SliceEndpoint, address: bytes) -> KeptEndpoint:
    conditions = endpoint.conditions
    zones, nodes = _hints(endpoint.hints)
    return KeptEndpoint(
        address=address,
        node_name=sys.intern(endpoint.node_name or ""),
        ready=conditions is None or conditions.ready is not False,
        # An absent "serving" means true and does not inherit "ready", as in kube-proxy.
        serving=conditions is None or conditions.serving is not False,
        terminating=conditions is not None and conditions.terminating is True,
        zone_hints=zones,
        node_hints=nodes,
    )


def _hints(hints: EndpointHints | None) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    if hints is None:
        return None, None
    return _names(hints.for_zones), _names(hints.for_nodes)


def _names(hints: list[NamedHint] | None) -> frozenset[str] | None:
    return _shared_names(tuple(sorted(hint.name for hint in hints))) if hints else None


@lru_cache(maxsize=4096)
def _shared_names(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(names)


def merge_slices(
    slices: Iterable[KeptSlice], family: IPFamily, node_name: str
) -> dict[PortKey, tuple[Endpoint, ...]]:
    """
    Return the endpoints of each port over all slices of one Service, sorted by ``IP:port`` text.

    The same ``IP:port`` in two slices counts once: one that is not terminating wins over one that
    is; otherwise the later slice wins.
    """
    merged: dict[PortKey, dict[bytes, Endpoint]] = {}
    for kept in slices:
        if kept.family is not family:
            continue
        for port in kept.ports:
            found = merged.setdefault((port.name, port.protocol), {})
            for item in kept.endpoints:
                endpoint = Endpoint(
                    item.address,
                    port.port,
                    item.node_name == node_name and bool(node_name),
                    item.ready,
                    item.serving,
                    item.terminating,
                    item.zone_hints,
                    item.node_hints,
                )
                target = endpoint.target
                if target not in found or not endpoint.terminating:
                    found[target] = endpoint
    return {key: tuple(sorted(found.values(), key=str)) for key, found in merged.items() if found}
