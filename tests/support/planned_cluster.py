"""A cluster's plans made of objects alone: of the node itself nothing is known but its Node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diagnostics.cluster.plans import Cluster, load_cluster
from diagnostics.readers.objects import ClusterObjects
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap, Part, gap
from diagnostics.snapshot.source import Content
from proxy.model.objects import EndpointSlice, Node, Service
from tests.support.cluster_objects import node

HERE = "n1"


@dataclass(frozen=True)
class Parts:
    """A source of the parts it is given."""

    texts: dict[Part, str] = field(default_factory=dict)

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        if part in self.texts:
            return (Content(part.value, self.texts[part].encode()),)
        return gap(part, "not part of this test")


def a_node(name: str = HERE, zone: str = "z1") -> Node:
    """Return a Node in a zone, with addresses of both families."""
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    addresses = [{"type": "InternalIP", "address": ip} for ip in ("192.168.0.2", "fd00::2")]
    return node({"metadata": {"name": name, "labels": labels}, "status": {"addresses": addresses}})


def a_cluster(*objects: Any, name: str = HERE, zone: str = "z1") -> Cluster:
    """Return the plans for node *name* with the Services and slices among *objects*."""
    return load_cluster(NodeSnapshot(Parts(), name), cluster_objects(*objects, zone=zone))


def cluster_objects(*objects: Any, zone: str = "z1") -> ClusterObjects:
    """Return *objects* with this node's Node."""
    return ClusterObjects(
        services=tuple(one for one in objects if isinstance(one, Service)),
        slices=tuple(one for one in objects if isinstance(one, EndpointSlice)),
        nodes=(a_node(zone=zone),),
    )
