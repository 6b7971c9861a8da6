"""Objects for the stub API server, in the size a real one sends them."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

MANAGED_FIELDS = [
    {
        "manager": "kubectl-client-side-apply",
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:internalTrafficPolicy": {}, "f:ports": {".": {}}, "f:selector": {}},
        },
    }
]


def service_ip(index: int) -> str:
    """Return the ClusterIP of the service *index*: 10.96.0.10 and up."""
    number = index + 10
    return f"10.{96 + (number >> 16)}.{(number >> 8) & 255}.{number & 255}"


def endpoint_ip(index: int) -> str:
    """Return the address of the endpoint *index*: 10.180.0.1 and up, no .0 and no .255."""
    high, low = divmod(index, 254)
    return f"10.{180 + (high >> 8)}.{high & 255}.{low + 1}"


def service(name: str, namespace: str = "default", cluster_ip: str = "10.96.0.10") -> Json:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": name},
            "managedFields": MANAGED_FIELDS,
        },
        "spec": {
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            "selector": {"app": name},
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(
    service_name: str, addresses: list[str], namespace: str = "default", port: int = 8080
) -> Json:
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": f"{service_name}-abcde",
            "namespace": namespace,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "kubernetes.io/service-name": service_name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "managedFields": MANAGED_FIELDS,
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"pod-{address}"},
                "nodeName": f"node-{number % 10}",
            }
            for number, address in enumerate(addresses)
        ],
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }


def node(name: str, address: str = "192.168.0.10") -> Json:
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "zone-a"}},
        "spec": {"podCIDR": "10.180.0.0/24", "podCIDRs": ["10.180.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def service_cidr(name: str = "kubernetes", cidr: str = "10.96.0.0/12") -> Json:
    return {
        "kind": "ServiceCIDR",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": name},
        "spec": {"cidrs": [cidr]},
    }
