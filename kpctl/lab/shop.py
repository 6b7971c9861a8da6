"""
The example shop: Services of every common kind as API objects, and the traffic that tries them.

The objects are plain dictionaries in the API's JSON form. Endpoints are the pods of
:mod:`kpctl.lab.topology`; the proxy runs on node-1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kpctl.lab.probes import Outcome, Probe, SourceRule
from kpctl.lab.topology import (
    CLIENT,
    CLIENT_ADDRESS,
    NODE,
    NODES,
    PODS,
    SERVICE_CIDRS,
    STRANGER_ADDRESS,
    Pod,
)

Object = dict[str, Any]

MAX_BULK_SERVICES = 50_000
_BULK_FIRST = ipaddress.IPv4Address("10.96.16.0")
_BULK_PER_FILE = 1000
_TOOLBOX = "toolbox"

_WEB = tuple(pod for pod in PODS if pod.name.startswith("web-"))
_DNS = tuple(pod for pod in PODS if pod.name.startswith("dns-"))
_HTTP = ({"name": "http", "protocol": "TCP", "port": 80},)
_HTTP_ENDPOINT = ({"name": "http", "protocol": "TCP", "port": 8080},)


def manifests() -> dict[str, list[Object]]:
    """The API objects of the shop and its nodes, by the name of the file they belong in."""
    remote = [pod for pod in _WEB if pod.node != NODE]
    local_policy = {"externalTrafficPolicy": "Local"}
    services = [
        _web("shop/web", ["10.96.0.10", "fd03::10"]),
        _web("shop/frontend", ["10.96.0.20", "fd03::20"], "NodePort", node_port=30080),
        _load_balancer(
            "shop/checkout", 30, _WEB, {"loadBalancerSourceRanges": [f"{CLIENT_ADDRESS}/32"]}
        ),
        _load_balancer("shop/catalog", 40, _WEB, {**local_policy, "healthCheckNodePort": 32040}),
        _load_balancer("shop/returns", 50, remote, {**local_policy, "healthCheckNodePort": 32050}),
        _web(
            "shop/cart",
            ["10.96.0.60"],
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": 10800}},
        ),
        [_service("shop/soon", ["10.96.0.70"]), *_slices("shop/soon", (), "IPv4")],
        _kube_dns(),
    ]
    files = {"nodes.yaml": [_node(index) for index in range(len(NODES))]}
    files["service-cidr.yaml"] = [_service_cidr()]
    for objects in services:
        metadata = objects[0]["metadata"]
        files[f"{metadata['namespace']}-{metadata['name']}.yaml"] = objects
    return files


def bulk_manifests(count: int) -> Iterator[tuple[str, list[Object]]]:
    """
    Further ClusterIP Services with the three web pods each, for size: (file name, objects).

    Args:
        count: 0..MAX_BULK_SERVICES Services; each file holds 1000 of them.

    """
    for start in range(0, count, _BULK_PER_FILE):
        objects: list[Object] = []
        for index in range(start, min(start + _BULK_PER_FILE, count)):
            name = bulk_name(index)
            objects.append(_service(name, [bulk_address(index)]))
            objects += _slices(name, _WEB, "IPv4")
        yield f"bulk-{start // _BULK_PER_FILE:03}.json", objects


def bulk_name(index: int) -> str:
    """The ``namespace/name`` of bulk Service number *index*, from 0."""
    return f"bulk/svc-{index + 1:05}"


def bulk_address(index: int) -> str:
    """The ClusterIP of bulk Service number *index*, from 0."""
    return str(_BULK_FIRST + index)


def probes(bulk_services: int = 0) -> tuple[Probe, ...]:
    """All traffic of the lab, in the order to show it; the first one proves readiness."""
    web = frozenset(pod.name for pod in _WEB)
    local = frozenset(pod.name for pod in _WEB if pod.node == NODE)
    dns = frozenset(pod.name for pod in _DNS)
    node = NODES[0]
    kept, masqueraded = SourceRule.KEPT, SourceRule.MASQUERADED
    dropped, refused = Outcome.DROPPED, Outcome.REFUSED
    shop = (
        Probe("shop/web", "10.96.0.10", 80, _TOOLBOX, pods=web, source=kept),
        Probe("shop/web", "fd03::10", 80, _TOOLBOX, pods=web, source=kept),
        Probe("shop/web", "10.96.0.10", 80, NODE, pods=web),
        Probe("shop/web", "10.96.0.10", 80, "web-1", pods=web, source=SourceRule.HAIRPIN),
        Probe("shop/frontend", node.ipv4, 30080, CLIENT, pods=web, source=masqueraded),
        Probe("shop/frontend", node.ipv6, 30080, CLIENT, pods=web, source=masqueraded),
        Probe(
            "shop/checkout",
            "198.51.100.30",
            80,
            CLIENT,
            bind=CLIENT_ADDRESS,
            pods=web,
            source=masqueraded,
        ),
        Probe(
            "shop/checkout",
            "198.51.100.30",
            80,
            CLIENT,
            bind=STRANGER_ADDRESS,
            alias="stranger",
            outcome=dropped,
        ),
        Probe("shop/catalog", "198.51.100.40", 80, CLIENT, pods=local, source=kept),
        Probe("shop/returns", "198.51.100.50", 80, CLIENT, outcome=dropped),
        Probe("shop/cart", "10.96.0.60", 80, _TOOLBOX, pods=web, source=kept, sticky=True),
        Probe("shop/soon", "10.96.0.70", 80, _TOOLBOX, outcome=refused),
        Probe("kube-system/kube-dns", "10.96.0.2", 53, _TOOLBOX, "udp", pods=dns, source=kept),
        Probe("(unallocated)", "10.96.255.254", 80, _TOOLBOX, outcome=dropped),
    )
    if not bulk_services:
        return shop
    last = bulk_services - 1
    return (
        *shop,
        Probe(bulk_name(last), bulk_address(last), 80, _TOOLBOX, pods=web, source=kept),
    )


def _metadata(full_name: str) -> Object:
    namespace, _, name = full_name.partition("/")
    return {"namespace": namespace, "name": name}


def _service(
    full_name: str,
    cluster_ips: Sequence[str],
    kind: str = "ClusterIP",
    *,
    ports: Sequence[Object] = _HTTP,
    node_port: int | None = None,
    **spec: Any,
) -> Object:
    """A Service; *node_port* belongs to its only port, *spec* holds further fields."""
    if node_port is not None:
        ports = [{**port, "nodePort": node_port} for port in ports]
    dual = len(cluster_ips) > 1
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(full_name),
        "spec": {
            "type": kind,
            "clusterIP": cluster_ips[0],
            "clusterIPs": list(cluster_ips),
            "ipFamilies": ["IPv6" if ":" in address else "IPv4" for address in cluster_ips],
            "ipFamilyPolicy": "RequireDualStack" if dual else "SingleStack",
            "ports": list(ports),
            **spec,
        },
    }


def _web(
    full_name: str,
    cluster_ips: Sequence[str],
    kind: str = "ClusterIP",
    *,
    node_port: int | None = None,
    **spec: Any,
) -> list[Object]:
    """A Service on all web pods, and its EndpointSlices."""
    service = _service(full_name, cluster_ips, kind, node_port=node_port, **spec)
    return [service, *_slices(full_name, _WEB, *service["spec"]["ipFamilies"])]


def _load_balancer(
    full_name: str, number: int, pods: Sequence[Pod], spec: Mapping[str, Any]
) -> list[Object]:
    """A Service whose load balancer's address was already assigned, and its EndpointSlice."""
    service = _service(
        full_name, [f"10.96.0.{number}"], "LoadBalancer", node_port=30000 + number, **spec
    )
    ingress = {"ip": f"198.51.100.{number}", "ipMode": "VIP"}
    service["status"] = {"loadBalancer": {"ingress": [ingress]}}
    return [service, *_slices(full_name, pods, "IPv4")]


def _slices(
    full_name: str,
    pods: Sequence[Pod],
    *families: str,
    ports: Sequence[Object] = _HTTP_ENDPOINT,
) -> list[Object]:
    """One EndpointSlice per family with all *pods*, ready."""
    return [_slice(full_name, pods, family, ports) for family in families]


def _slice(full_name: str, pods: Sequence[Pod], family: str, ports: Sequence[Object]) -> Object:
    metadata = _metadata(full_name)
    labels = {
        "kubernetes.io/service-name": metadata["name"],
        "endpointslice.kubernetes.io/managed-by": "kpctl-lab",
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            **metadata,
            "name": f"{metadata['name']}-{family.lower()}",
            "labels": labels,
        },
        "addressType": family,
        "endpoints": [
            {
                "addresses": [pod.ipv6 if family == "IPv6" else pod.ipv4],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": pod.node,
                "targetRef": {"kind": "Pod", **metadata, "name": pod.name},
            }
            for pod in pods
        ],
        "ports": list(ports),
    }


def _kube_dns() -> list[Object]:
    ports = [
        {"name": "dns", "protocol": "UDP", "port": 53},
        {"name": "dns-tcp", "protocol": "TCP", "port": 53},
    ]
    return [
        _service("kube-system/kube-dns", ["10.96.0.2"], ports=ports),
        *_slices("kube-system/kube-dns", _DNS, "IPv4", ports=ports),
    ]


def _node(index: int) -> Object:
    node = NODES[index]
    addresses = [{"type": "InternalIP", "address": a} for a in (node.ipv4, node.ipv6)]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "topology.kubernetes.io/zone": f"zone-{index + 1}",
            },
        },
        "spec": {"podCIDR": node.pod_cidrs[0], "podCIDRs": list(node.pod_cidrs)},
        "status": {"addresses": [*addresses, {"type": "Hostname", "address": node.name}]},
    }


def _service_cidr() -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": list(SERVICE_CIDRS)},
    }
