"""The endpoints that the API has, whatever their condition."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from proxy.model.objects import EndpointSlice

_SERVICE_LABEL = "kubernetes.io/service-name"


class KnownEndpoints:
    """
    Addresses and ports by Service.

    A slice whose ports are not limited, and a Service without any slice, know every place: an
    answer is only given where the API contradicts the kernel.
    """

    def __init__(self, slices: Iterable[EndpointSlice]) -> None:
        self._places: dict[str, set[tuple[str, int]]] = {}
        self._open: set[str] = set()
        for one in slices:
            self._add(one)

    def _add(self, one: EndpointSlice) -> None:
        name = (one.metadata.labels or {}).get(_SERVICE_LABEL, "")
        service = f"{one.metadata.namespace}/{name}"
        ports = [port.port for port in one.ports or () if port.port]
        if not ports:
            self._open.add(service)
        places = self._places.setdefault(service, set())
        for endpoint in one.endpoints or ():
            for address in endpoint.addresses or ():
                places.update((_canonical(address), port) for port in ports)

    def has(self, service: str, address: str, port: int) -> bool:
        """Return whether an endpoint of ``shop/web:http`` is there; True when nobody can tell."""
        name = service.partition(":")[0]
        if name not in self._places or name in self._open:
            return True
        return (address, port) in self._places[name]


def _canonical(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return text
