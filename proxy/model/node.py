"""What a proxy needs to know of its own Node object."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.model.addresses import canonical_address
from proxy.model.objects import Node

ZONE_LABEL = "topology.kubernetes.io/zone"
AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"
_ADDRESS_TYPES = ("InternalIP", "ExternalIP")


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """
    Facts of a Node.

    Attributes:
        addresses: InternalIPs in order, then ExternalIPs; canonical text.
        eligible: whether load balancers should still send traffic here.
    """

    name: str
    zone: str = ""
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    eligible: bool = True


def read_node(node: Node) -> NodeInfo:
    """Return the facts of *node*."""
    addresses = node.status.addresses if node.status else None
    found = []
    for wanted in _ADDRESS_TYPES:
        for entry in addresses or ():
            parsed = canonical_address(entry.address) if entry.type == wanted else None
            if parsed:
                found.append(parsed[1])
    pod_cidrs = node.spec.pod_cidrs or ([node.spec.pod_cidr] if node.spec.pod_cidr else [])
    tainted = any(taint.key == AUTOSCALER_TAINT for taint in node.spec.taints or ())
    return NodeInfo(
        name=node.metadata.name,
        zone=(node.metadata.labels or {}).get(ZONE_LABEL, ""),
        addresses=tuple(found),
        pod_cidrs=tuple(pod_cidrs),
        eligible=not tainted and node.metadata.deletion_timestamp is None,
    )
