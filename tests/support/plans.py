"""Plans of made-up services, through the planner as the proxy makes them."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from proxy.backends.nftables.table import Batch, NftablesTable
from proxy.backends.settings import Settings
from proxy.model.addresses import IPFamily, Network
from proxy.model.endpoints import Endpoint
from proxy.model.services import ServicePort, ServicePortName, ServiceTraits
from proxy.plan.service_plan import ServicePortPlan, plan_service_port
from proxy.plan.topology import Location

HERE = Location("here", "zone-a")
_BASES = {
    "cluster": {IPFamily.IPV4: "172.30.0.0", IPFamily.IPV6: "fd00:172:30::"},
    "external": {IPFamily.IPV4: "192.168.0.0", IPFamily.IPV6: "fd00:192:168::"},
    "balancer": {IPFamily.IPV4: "5.6.0.0", IPFamily.IPV6: "fd00:5:6::"},
    "pod": {IPFamily.IPV4: "10.180.0.0", IPFamily.IPV6: "fd00:10:180::"},
}


def address(kind: str, number: int, family: IPFamily = IPFamily.IPV4) -> bytes:
    """The packed address *number* of a range: cluster, external, balancer or pod."""
    return (ip_address(_BASES[kind][family]) + number).packed


def endpoint(
    number: int,
    family: IPFamily = IPFamily.IPV4,
    *,
    port: int = 8080,
    local: bool = False,
    ready: bool = True,
    terminating: bool = False,
) -> Endpoint:
    """A pod's address as an endpoint."""
    serving = ready or terminating
    return Endpoint(address("pod", number, family), port, local, ready, serving, terminating)


def service_port(
    number: int,
    family: IPFamily = IPFamily.IPV4,
    *,
    protocol: str = "TCP",
    port: int = 80,
    node_port: int = 0,
    **traits: object,
) -> ServicePort:
    """The port of service *number*, which is called ns/svc-NUMBER:p80."""
    made = ServiceTraits(cluster_ip=address("cluster", number, family))
    return ServicePort(
        ServicePortName("ns", f"svc-{number}", f"p{port}", protocol),
        port,
        node_port,
        replace(made, **traits),  # type: ignore[arg-type]
    )


def plan(port: ServicePort, *endpoints: Endpoint) -> ServicePortPlan:
    """The plan of a service port on the node HERE."""
    return plan_service_port(port, endpoints, HERE)


def simple(number: int, *pods: int, family: IPFamily = IPFamily.IPV4) -> ServicePortPlan:
    """The plan of a ClusterIP with these pods behind it."""
    return plan(service_port(number, family), *(endpoint(pod, family) for pod in pods))


def applied(table: NftablesTable, batch: Batch) -> Batch:
    """Commit a batch as if the kernel had taken it, and return it."""
    table.commit(batch)
    return batch


def filled(settings: Settings, *plans: ServicePortPlan) -> NftablesTable:
    """A table that holds these plans."""
    table = NftablesTable(settings)
    applied(table, table.restate(plans, replace=False))
    return table


class ServiceGenerator:
    """Draws plans with every feature; service *number* never takes another one's addresses."""

    def __init__(self, seed: int, family: IPFamily, *, affinity: bool = True) -> None:
        self._random = random.Random(seed)
        self._family = family
        self._affinity = affinity

    def plan(self, number: int) -> ServicePortPlan:
        """Draw a plan for service *number*: a new one, or what it has changed to."""
        draw, family = self._random, self._family
        protocol = ("TCP", "UDP", "SCTP")[number % 3]
        traits: dict[str, object] = {
            "external_policy_local": draw.random() < 0.4,
            "internal_policy_local": draw.random() < 0.2,
        }
        if self._affinity and draw.random() < 0.4:
            traits["affinity_timeout_s"] = draw.choice((5, 60, 10800))
        if draw.random() < 0.4:
            traits["external_ips"] = (address("external", number, family),)
            traits["has_external_ips"] = True
        if draw.random() < 0.5:
            count = draw.randint(1, 2)
            numbers = range(2 * number, 2 * number + count)
            traits["load_balancer_vips"] = tuple(address("balancer", n, family) for n in numbers)
        if draw.random() < 0.5:
            ranges = [self._network() for _ in range(draw.randint(1, 4))]
            traits["source_ranges"] = tuple(ranges)
        node_port = 30000 + number if draw.random() < 0.5 else 0
        made = service_port(number, family, protocol=protocol, node_port=node_port, **traits)
        pods = draw.sample(range(40), draw.choice((0, 1, 2, 3, 3, 7)))
        return plan(made, *(self._endpoint(pod) for pod in sorted(pods)))

    def _endpoint(self, number: int) -> Endpoint:
        draw = self._random
        state = draw.choice(("ready", "ready", "ready", "draining", "dead"))
        return endpoint(
            number,
            self._family,
            local=number % 3 == 0,
            ready=state == "ready",
            terminating=state == "draining",
        )

    def _network(self) -> Network:
        length = self._random.choice((8, 16, 24, 32))
        if self._family is IPFamily.IPV4:
            base = ip_address(self._random.choice(("10.1.2.3", "10.1.9.9", "203.0.113.7")))
            return IPv4Network((int(base), length), strict=False)
        base = ip_address(self._random.choice(("fd00:1:2::3", "fd00:1:9::9", "2001:db8::7")))
        return IPv6Network((int(base), 4 * length), strict=False)


def network(text: str) -> Network:
    """The network that *text* names."""
    return ip_network(text)
