"""Services and EndpointSlices made up to be compiled: all alike, one TCP port and a ClusterIP."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from diagnostics.readers.objects import ClusterObjects, read_objects

_FIRST_SERVICE = IPv4Address("10.96.0.10")
_FIRST_POD = IPv4Address("10.128.0.10")
_SLICE = 100
"""Endpoints of one EndpointSlice, as the controller fills them."""


def synthetic_objects(services: int, endpoints: int) -> ClusterObjects:
    """Return *services* Services with *endpoints* ready endpoints each."""
    import msgspec

    parts = (
        ("services.json", "ServiceList", "v1", list(map(_service, range(services)))),
        (
            "endpointslices.json",
            "EndpointSliceList",
            "discovery.k8s.io/v1",
            [one for number in range(services) for one in _slices(number, endpoints)],
        ),
    )
    return read_objects(
        (name, msgspec.json.encode({"kind": kind, "apiVersion": version, "items": items}))
        for name, kind, version, items in parts
    )


def _service(number: int) -> dict[str, object]:
    address = str(_FIRST_SERVICE + number)
    port = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}
    spec = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address]}
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": f"svc-{number}", "namespace": "ns"},
        "spec": {**spec, "ipFamilies": ["IPv4"], "ports": [port]},
    }


def _slices(number: int, endpoints: int) -> Iterator[dict[str, object]]:
    for first in range(0, max(endpoints, 1), _SLICE):
        pods = range(first, min(first + _SLICE, endpoints))
        addresses = [str(_FIRST_POD + number * endpoints + pod) for pod in pods]
        yield {
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {
                "name": f"svc-{number}-{first}",
                "namespace": "ns",
                "labels": {"kubernetes.io/service-name": f"svc-{number}"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": True}} for address in addresses
            ],
        }
