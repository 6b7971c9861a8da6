"""Who is behind an address: Services, Pods and Nodes by what the API says."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from diagnostics.cluster.target_refs import read_target_refs
from diagnostics.readers.objects import ClusterObjects
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap, Part
from diagnostics.trace.packet import PROTOCOLS, Address
from proxy.model.objects import EndpointSlice, LoadBalancerIngress, Service

_Key = tuple[str, int, int]


class Names:
    """
    Names of addresses; everything is "" where the API objects do not tell.

    Args:
        objects: Where names come from.
        pods: Pods by address, for those that *objects* lack: what EndpointSlices refer to.
    """

    def __init__(self, objects: ClusterObjects, pods: dict[str, str] | None = None) -> None:
        self._services = dict(_services(objects.services or ()))
        self._nodes = dict(_nodes(objects))
        self._pods = (pods or {}) | dict(_pods(objects))
        self._hosts = dict(_hosts(objects.slices or ())) | dict(_pod_hosts(objects))

    @classmethod
    def of(cls, snapshot: NodeSnapshot) -> Names:
        """Return the names that a snapshot's objects tell."""
        slices = snapshot.contents(Part.SLICES)
        files = () if isinstance(slices, Gap) else slices
        return cls(snapshot.objects(), read_target_refs(content.data for content in files))

    def owner(self, address: Address) -> str:
        """Return ``pod shop/web-1 on node-2``, ``node node-2``, or "" for an unknown address."""
        text = str(address)
        if text in self._nodes:
            return f"node {self._nodes[text]}"
        pod, host = self._pods.get(text, ""), self._hosts.get(text, "")
        if pod:
            return f"pod {pod} on {host}" if host else f"pod {pod}"
        return f"an endpoint on {host}" if host else ""

    def host(self, address: Address) -> str:
        """Return the name of the Node that an endpoint's address is on, or ""."""
        text = str(address)
        return self._nodes.get(text) or self._hosts.get(text, "")

    def service(self, address: Address, port: int, protocol: int) -> str:
        """Return the service port that is called there, ``shop/web:http``, or ""."""
        key = (str(address), port, protocol)
        return self._services.get(key) or self._services.get(("", port, protocol), "")

    def pod_addresses(self, pod: str) -> tuple[Address, ...]:
        """Return the addresses of ``namespace/name``."""
        return tuple(ip_address(text) for text, name in self._pods.items() if name == pod)


def _services(services: tuple[Service, ...]) -> Iterator[tuple[_Key, str]]:
    """Yield each frontend with its service port; of a NodePort the address is ""."""
    for service in services:
        spec = service.spec
        addresses = {
            *(spec.cluster_ips or [spec.cluster_ip or ""]),
            *(spec.external_ips or ()),
            *(entry.ip or "" for entry in _ingress(service)),
        } - {"", "None"}
        for port in spec.ports or ():
            name = f"{service.metadata.namespace}/{service.metadata.name}"
            name += f":{port.name}" if port.name else ""
            protocol = PROTOCOLS.get(port.protocol or "TCP", 0)
            for address in addresses:
                yield (_canonical(address), port.port, protocol), name
            if port.node_port:
                yield ("", port.node_port, protocol), name


def _ingress(service: Service) -> list[LoadBalancerIngress]:
    balancer = service.status.load_balancer if service.status else None
    return (balancer.ingress if balancer else None) or []


def _canonical(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return text


def _nodes(objects: ClusterObjects) -> Iterator[tuple[str, str]]:
    for node in objects.nodes or ():
        for entry in (node.status.addresses if node.status else None) or ():
            if entry.type in ("InternalIP", "ExternalIP"):
                yield _canonical(entry.address), node.metadata.name


def _pods(objects: ClusterObjects) -> Iterator[tuple[str, str]]:
    for pod in objects.pods or ():
        if not pod.spec.host_network:
            for address in pod.addresses:
                yield _canonical(address), f"{pod.metadata.namespace}/{pod.metadata.name}"


def _pod_hosts(objects: ClusterObjects) -> Iterator[tuple[str, str]]:
    for pod in objects.pods or ():
        for address in pod.addresses if pod.spec.node_name else ():
            yield _canonical(address), pod.spec.node_name


def _hosts(slices: tuple[EndpointSlice, ...]) -> Iterator[tuple[str, str]]:
    for endpoint_slice in slices:
        for endpoint in endpoint_slice.endpoints or ():
            for address in (endpoint.addresses or ()) if endpoint.node_name else ():
                yield _canonical(address), endpoint.node_name or ""
