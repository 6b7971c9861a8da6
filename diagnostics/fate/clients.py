"""Who calls: classes of clients that rules tell apart, each with an address that stands for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from diagnostics.cluster.plans import Cluster
from diagnostics.fate.frontends import Frontend
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from diagnostics.trace.packet import Address
from proxy.backends.ipvs.names import DEVICE
from proxy.config.node import DetectBy, local_detectors
from proxy.model.addresses import IPFamily
from proxy.plan.service_plan import ServicePortPlan

POD, NODE, EXTERNAL, LOOPBACK, OWN_ENDPOINT = "pod", "node", "external", "loopback", "own endpoint"
# Documentation addresses (RFC 5737, RFC 3849): nobody has them, so they stand for any outsider.
_OUTSIDE = {
    IPFamily.IPV4: ip_address("198.51.100.7"),
    IPFamily.IPV6: ip_address("2001:db8:ffff::7"),
}
_LOOPBACK = {IPFamily.IPV4: ip_address("127.0.0.1"), IPFamily.IPV6: ip_address("::1")}
Network = IPv4Network | IPv6Network
_MOST_RANGES = 4


@dataclass(frozen=True, slots=True)
class Client:
    """
    Somebody who calls.

    Attributes:
        kind: pod, node, external, loopback, "own endpoint", or "source NETWORK".
        address: None when the node has none of that kind.
        iface: Where packets come in; None for wherever the route to the address leads.
    """

    kind: str
    address: Address
    iface: str | None = None


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients of one family on one node, and the addresses at which the node is called."""

    general: tuple[Client, ...]
    node_addresses: tuple[Address, ...]

    def calling(self, frontend: Frontend) -> Iterator[tuple[Client, Address]]:
        """Yield who calls a frontend, and under which address."""
        if frontend.address is not None:
            for client in self.general:
                yield client, frontend.address
            return
        for address in self.node_addresses[:1]:
            for client in self.general:
                yield client, address
        outside = next((client for client in self.general if client.kind == EXTERNAL), None)
        for address in self.node_addresses[1:]:
            if outside is not None:
                yield outside, address
        version = self.node_addresses[0].version if self.node_addresses else 0
        for address in _LOOPBACK.values():
            if address.version == version:
                yield Client(LOOPBACK, address), address


def clients_of(node: NodeSnapshot, cluster: Cluster | None, family: IPFamily) -> Clients:
    """Return the clients that a node's rules may tell apart."""
    own = _own_addresses(node, cluster, family)
    outside = _outside_device(node, family)
    general = [Client(EXTERNAL, _OUTSIDE[family], outside)]
    pod = _pod(node, cluster, family, frozenset(own))
    if pod is not None:
        general.append(pod)
    if own:
        general.append(Client(NODE, own[0], ""))
    return Clients(tuple(general), own)


def special_clients(plan: ServicePortPlan, general: Clients) -> Iterator[Client]:
    """Yield clients that a service port's rules tell apart: within a source range, itself."""
    outside = next((one.iface for one in general.general if one.kind == EXTERNAL), None)
    for network in plan.source_ranges[:_MOST_RANGES]:
        number = int(network.network_address) + (1 if network.num_addresses > 2 else 0)
        yield Client(f"source {network}", ip_address(number), outside)
    for target in plan.on_node[:1]:
        yield Client(OWN_ENDPOINT, ip_address(target[:-2]))


def _own_addresses(
    node: NodeSnapshot, cluster: Cluster | None, family: IPFamily
) -> tuple[Address, ...]:
    """Return the node's global addresses, its primary one first."""
    version = 4 if family is IPFamily.IPV4 else 6
    links = node.links()
    found: dict[Address, None] = {}
    packed = cluster.view.node_address(cluster.config, family) if cluster else None
    if packed is not None:
        found[ip_address(packed)] = None
    for link, entry in () if isinstance(links, Gap) else links.addresses():
        address = entry.address
        if address.version == version and link.name != DEVICE and entry.scope == "global":
            found[address] = None
    return tuple(found)


def _outside_device(node: NodeSnapshot, family: IPFamily) -> str | None:
    routing = node.routing()
    if isinstance(routing, Gap):
        return None
    answer = routing.route(_OUTSIDE[family])
    return answer.device if answer is not None and answer.device else None


def _pod(
    node: NodeSnapshot, cluster: Cluster | None, family: IPFamily, own: frozenset[Address]
) -> Client | None:
    """Return a Pod on this node; one that is an endpoint of nothing, if its network is known."""
    if cluster is None:
        return None
    taken = {ip_address(target[:-2]) for target in _targets(cluster, family)}
    for network in _pod_networks(cluster, family):
        for address in _some_hosts(network):
            if address not in taken and address not in own:
                return Client(POD, address, _pod_device(node, cluster, address))
    local = sorted(local_endpoints(cluster, family) - own)
    if not local:
        return None
    return Client(POD, local[0], _pod_device(node, cluster, local[0]))


def _some_hosts(network: Network) -> Iterable[Address]:
    """Return some addresses from the end of a network: CNI plugins hand out the first ones."""
    last = int(network.broadcast_address) - 1
    first = max(int(network.network_address), last - 1000)
    return (ip_address(number) for number in range(last, first, -1))


def _pod_networks(cluster: Cluster, family: IPFamily) -> Iterator[Network]:
    version = 4 if family is IPFamily.IPV4 else 6
    info = cluster.view.info
    cidrs = info.pod_cidrs if info else ()
    detector = local_detectors(cluster.config.detect_local, cidrs)[family]
    texts = [*cidrs]
    if detector.by is DetectBy.CIDR:
        texts.append(detector.value)
    for text in texts:
        network = ip_network(text, strict=False)
        if network.version == version:
            yield network


def _pod_device(node: NodeSnapshot, cluster: Cluster, address: Address) -> str | None:
    """Return a device that local detection by interface takes for a Pod's, else None."""
    links = node.links()
    names = () if isinstance(links, Gap) else tuple(links.by_name)
    detect = cluster.config.detect_local
    if detect.bridge_interface in names and detect.bridge_interface:
        return detect.bridge_interface
    prefix = detect.interface_name_prefix
    if prefix:
        return next((name for name in names if name.startswith(prefix)), f"{prefix}0")
    routing = node.routing()
    if isinstance(routing, Gap):
        return None
    answer = routing.route(address)
    return answer.device if answer else None


def _targets(cluster: Cluster, family: IPFamily) -> Iterator[bytes]:
    for plan in cluster.planners[family].all_effective():
        yield from plan.reachable


def local_endpoints(cluster: Cluster, family: IPFamily) -> frozenset[Address]:
    """Return the addresses of the endpoints on the node, ready or not."""
    return frozenset(
        ip_address(target[:-2])
        for plan in cluster.planners[family].all_effective()
        for target in plan.on_node
    )
