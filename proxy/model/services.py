"""
Services as a proxy of one family sees them: which count, and one record per port.

Everything here is a pure function of the API object. The rules are kube-proxy's (1.36): headless
and ExternalName Services are skipped, hostnames and addresses of the other family are ignored,
and a source range that allows everything lifts the restriction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from proxy.model.addresses import (
    IPFamily,
    Network,
    canonical_address,
    network_family,
    pack_address,
    parse_network,
)
from proxy.model.objects import Service, ServicePortSpec

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
DEFAULT_AFFINITY_TIMEOUT_S = 10800
MAX_AFFINITY_TIMEOUT_S = 86400


class ServiceName(NamedTuple):
    """Namespace and name of a Service."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortName(NamedTuple):
    """Identity of a service port; the protocol is part of it but not of its text."""

    namespace: str
    name: str
    port: str
    protocol: str

    @property
    def service(self) -> ServiceName:
        """The Service this port belongs to."""
        return ServiceName(self.namespace, self.name)

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.namespace}/{self.name}{port}"


@dataclass(frozen=True, slots=True)
class ServiceTraits:
    """
    What all ports of a Service share, for one family.

    Addresses are packed in network order (4 or 16 bytes). ``affinity_timeout_s`` is 0 without
    session affinity. ``created`` and ``uid`` decide who keeps an address claimed twice.
    """

    cluster_ip: bytes
    external_ips: tuple[bytes, ...] = ()
    load_balancer_vips: tuple[bytes, ...] = ()
    source_ranges: tuple[Network, ...] = ()
    affinity_timeout_s: int = 0
    external_policy_local: bool = False
    internal_policy_local: bool = False
    health_check_node_port: int = 0
    has_external_ips: bool = False
    created: str = ""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service for one family."""

    name: ServicePortName
    port: int
    node_port: int
    traits: ServiceTraits

    @property
    def protocol_number(self) -> int:
        """The IP protocol number."""
        return PROTOCOLS[self.name.protocol]

    @property
    def externally_accessible(self) -> bool:
        """Whether traffic from outside the cluster can reach this port."""
        traits = self.traits
        return bool(self.node_port or traits.load_balancer_vips or traits.has_external_ips)

    @property
    def uses_cluster_endpoints(self) -> bool:
        """Whether any frontend of this port reaches endpoints of the whole cluster."""
        return not self.traits.internal_policy_local or self.externally_accessible

    @property
    def uses_local_endpoints(self) -> bool:
        """Whether any frontend of this port is restricted to endpoints of this node."""
        traits = self.traits
        return traits.internal_policy_local or (
            traits.external_policy_local and self.externally_accessible
        )


class ServiceReading(NamedTuple):
    """Ports of one Service for one family, and what was wrong with the object."""

    ports: tuple[ServicePort, ...]
    problems: tuple[str, ...]


_NOTHING = ServiceReading((), ())


def is_skipped(service: Service) -> bool:
    """Return whether a proxy ignores the Service altogether."""
    cluster_ip = service.spec.cluster_ip or ""
    return cluster_ip in ("", "None") or service.spec.type == "ExternalName"


def cluster_ip_of(service: Service, family: IPFamily) -> str:
    """
    Return the Service's cluster IP of *family* as written, or "" when it has none.

    What is written need not be an address.
    """
    spec = service.spec
    if not spec.ip_families:
        text = spec.cluster_ip or ""
        parsed = canonical_address(text)
        return text if parsed is None or parsed[0] is family else ""
    if family.value not in spec.ip_families:
        return ""
    index = spec.ip_families.index(family.value)
    addresses = spec.cluster_ips or ()
    return addresses[index] if index < len(addresses) else ""


def read_service(
    service: Service, family: IPFamily, *, allow_external_ips: bool = True
) -> ServiceReading:
    """
    Return the ports of *service* for *family* with one sentence for each thing that is wrong.

    A port that cannot be used is left out; the rest of the Service is served.
    """
    if is_skipped(service):
        return _NOTHING
    text = cluster_ip_of(service, family)
    if not text:
        return _NOTHING
    cluster_ip = pack_address(text)
    if cluster_ip is None:
        return ServiceReading((), (f"spec.clusterIP: {text!r} is not an IP address",))
    if len(cluster_ip) * 8 != family.bits:
        problem = f"spec.clusterIPs: {text!r} is not an {family.value} address"
        return ServiceReading((), (problem,))
    problems: list[str] = []
    traits = _traits(service, family, cluster_ip, problems, allow_external_ips)
    ports: dict[ServicePortName, ServicePort] = {}
    for index, spec in enumerate(service.spec.ports or ()):
        port = _port(service, index, spec, traits, problems)
        if port is not None:
            ports[port.name] = port
    return ServiceReading(tuple(ports.values()), tuple(problems))


def _port(
    service: Service,
    index: int,
    spec: ServicePortSpec,
    traits: ServiceTraits,
    problems: list[str],
) -> ServicePort | None:
    place = f"spec.ports[{index}]"
    protocol = spec.protocol or "TCP"
    if protocol not in PROTOCOLS:
        problems.append(f"{place}.protocol: {protocol!r} is none of TCP, UDP, SCTP")
        return None
    if not 1 <= spec.port <= 65535:
        problems.append(f"{place}.port: {spec.port} is not within 1..65535")
        return None
    node_port = spec.node_port or 0
    if not 0 <= node_port <= 65535:
        problems.append(f"{place}.nodePort: {node_port} is not within 1..65535")
        node_port = 0
    meta = service.metadata
    name = ServicePortName(meta.namespace, meta.name, spec.name or "", protocol)
    return ServicePort(name, spec.port, node_port, traits)


def _traits(
    service: Service,
    family: IPFamily,
    cluster_ip: bytes,
    problems: list[str],
    allow_external_ips: bool,
) -> ServiceTraits:
    spec = service.spec
    external_ips = _addresses(spec.external_ips or (), family, "spec.externalIPs", problems)
    external_local = _is_local(
        spec.external_traffic_policy, "spec.externalTrafficPolicy", problems
    ) and (
        spec.type in ("LoadBalancer", "NodePort")
        or (spec.type in (None, "ClusterIP") and bool(spec.external_ips))
    )
    return ServiceTraits(
        cluster_ip=cluster_ip,
        external_ips=external_ips if allow_external_ips else (),
        load_balancer_vips=_load_balancer_vips(service, family, problems),
        source_ranges=_source_ranges(spec.load_balancer_source_ranges or (), family, problems),
        affinity_timeout_s=_affinity(service, problems),
        external_policy_local=external_local,
        internal_policy_local=_is_local(
            spec.internal_traffic_policy, "spec.internalTrafficPolicy", problems
        ),
        health_check_node_port=_health_check_node_port(service, external_local, problems),
        has_external_ips=bool(external_ips),
        created=f"{service.metadata.creation_timestamp or ''} {service.metadata.uid}",
    )


def _is_local(policy: str | None, place: str, problems: list[str]) -> bool:
    if policy not in (None, "", "Cluster", "Local"):
        problems.append(f"{place}: {policy!r} is neither Cluster nor Local; Cluster is assumed")
    return policy == "Local"


def _addresses(
    texts: list[str] | tuple[()], family: IPFamily, place: str, problems: list[str]
) -> tuple[bytes, ...]:
    found: dict[bytes, None] = {}
    for index, text in enumerate(texts):
        if not text.strip():
            continue
        packed = pack_address(text.strip())
        if packed is None:
            problems.append(f"{place}[{index}]: {text!r} is not an IP address")
        elif len(packed) * 8 == family.bits:
            found[packed] = None
    return tuple(found)


def _load_balancer_vips(
    service: Service, family: IPFamily, problems: list[str]
) -> tuple[bytes, ...]:
    status = service.status
    if status is None or status.load_balancer is None:
        return ()
    texts = [
        ingress.ip
        for ingress in status.load_balancer.ingress or ()
        if ingress.ip and ingress.ip_mode in (None, "VIP")
    ]
    return _addresses(texts, family, "status.loadBalancer.ingress", problems)


def _source_ranges(
    texts: list[str] | tuple[()], family: IPFamily, problems: list[str]
) -> tuple[Network, ...]:
    ranges = []
    for index, text in enumerate(texts):
        if not text.strip():
            continue
        network = parse_network(text.strip())
        if network is None:
            problems.append(f"spec.loadBalancerSourceRanges[{index}]: {text!r} is not a CIDR")
        elif network_family(network) is family:
            ranges.append(network)
    # A range that covers everything means no restriction, whatever stands beside it.
    return () if any(network.prefixlen == 0 for network in ranges) else tuple(ranges)


def _affinity(service: Service, problems: list[str]) -> int:
    spec = service.spec
    if spec.session_affinity in (None, "", "None"):
        return 0
    if spec.session_affinity != "ClientIP":
        problems.append(
            f"spec.sessionAffinity: {spec.session_affinity!r} is neither None nor ClientIP"
        )
        return 0
    config = spec.session_affinity_config
    timeout = config.client_ip.timeout_seconds if config and config.client_ip else None
    if timeout is None:
        return DEFAULT_AFFINITY_TIMEOUT_S
    if not 1 <= timeout <= MAX_AFFINITY_TIMEOUT_S:
        problems.append(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: "
            f"{timeout} is not within 1..{MAX_AFFINITY_TIMEOUT_S}; "
            f"{DEFAULT_AFFINITY_TIMEOUT_S} is assumed"
        )
        return DEFAULT_AFFINITY_TIMEOUT_S
    return timeout


def _health_check_node_port(service: Service, external_local: bool, problems: list[str]) -> int:
    if service.spec.type != "LoadBalancer" or not external_local:
        return 0
    port = service.spec.health_check_node_port or 0
    if not port:
        problems.append("spec.healthCheckNodePort: missing on a LoadBalancer with policy Local")
    elif not 1 <= port <= 65535:
        problems.append(f"spec.healthCheckNodePort: {port} is not within 1..65535")
        return 0
    return port
