"""
Which objects a node proxy follows, and where the API keeps them.

Paths and selectors are those of kube-proxy: headless Services, Services of another proxy and
slices of headless Services never leave the API server.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.model.events import Resource
from proxy.model.objects import ApiObject, Service

SERVICE_PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"


@dataclass(frozen=True, slots=True)
class ResourceSpec:
    """Where one resource is listed, and what of it is asked for."""

    resource: Resource
    group: str
    plural: str
    path: str
    label_selector: str = ""
    field_selector: str = ""
    optional: bool = False
    """The API group may be absent from the server; that counts as an empty list."""

    @property
    def selectors(self) -> dict[str, str]:
        """The query parameters that select; empty when everything is asked for."""
        pairs = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: value for name, value in pairs.items() if value}


def followed_resources(node_name: str) -> tuple[ResourceSpec, ...]:
    """Return what a proxy on *node_name* follows."""
    return (
        ResourceSpec(
            Resource.SERVICE,
            group="",
            plural="services",
            path="/api/v1/services",
            label_selector=f"!{SERVICE_PROXY_NAME_LABEL}",
            field_selector="spec.clusterIP!=None",
        ),
        ResourceSpec(
            Resource.ENDPOINT_SLICE,
            group="discovery.k8s.io",
            plural="endpointslices",
            path="/apis/discovery.k8s.io/v1/endpointslices",
            label_selector=f"!{HEADLESS_LABEL}",
        ),
        ResourceSpec(
            Resource.NODE,
            group="",
            plural="nodes",
            path="/api/v1/nodes",
            field_selector=f"metadata.name={node_name}",
        ),
        ResourceSpec(
            Resource.SERVICE_CIDR,
            group="networking.k8s.io",
            plural="servicecidrs",
            path="/apis/networking.k8s.io/v1/servicecidrs",
            optional=True,
        ),
    )


def is_followed(resource: Resource, obj: ApiObject, node_name: str) -> bool:
    """Return whether the selectors of ``followed_resources`` would let *obj* through."""
    labels = obj.metadata.labels or {}
    if isinstance(obj, Service):
        return SERVICE_PROXY_NAME_LABEL not in labels and obj.spec.cluster_ip != "None"
    if resource is Resource.ENDPOINT_SLICE:
        return HEADLESS_LABEL not in labels
    return resource is not Resource.NODE or obj.metadata.name == node_name
