"""
The lab's hosts and wires: which namespaces there are, and what ip(8) must do in each.

::

    client ──┐                      ┌── toolbox, web-1, web-2, dns-1
             underlay ── node-1 ────┘   (pods of node-1, where the proxy runs)
                    └─── node-2 ────┐
                                    └── web-3, dns-2

``underlay`` is the switch and the default gateway of the nodes. Pods hang on routed veth pairs,
not on a bridge: the answer of one local pod to another must pass the node's conntrack.
All addresses exist only inside the lab's namespaces, so they may be the same in every lab.
"""

from __future__ import annotations

from dataclasses import dataclass

NODE = "node-1"
REMOTE_NODE = "node-2"
CLIENT = "client"
UNDERLAY = "underlay"

CLUSTER_CIDRS = ("10.244.0.0/16", "fd02::/16")
SERVICE_CIDRS = ("10.96.0.0/16", "fd03::/112")
LB_CIDR = "198.51.100.0/24"
# The client's second address is outside every loadBalancerSourceRanges of the lab.
CLIENT_ADDRESS = "192.0.2.100"
STRANGER_ADDRESS = "192.0.2.200"
CLIENT_ADDRESS_V6 = "fd01::100"
_GATEWAY = ("192.0.2.1", "fd01::1")


@dataclass(frozen=True, slots=True)
class NodeHost:
    """A node: its address and its pods' network, per family, and the pods' gateway in it."""

    name: str
    ipv4: str
    ipv6: str
    pod_cidrs: tuple[str, str]
    pod_gateways: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: where it runs, its addresses, and what it serves as ``tcp:8080``; often nothing."""

    name: str
    node: str
    ipv4: str
    ipv6: str
    serves: tuple[str, ...] = ()


NODES = (
    NodeHost(
        NODE,
        "192.0.2.11",
        "fd01::11",
        ("10.244.1.0/24", "fd02:1::/64"),
        ("10.244.1.1", "fd02:1::1"),
    ),
    NodeHost(
        REMOTE_NODE,
        "192.0.2.12",
        "fd01::12",
        ("10.244.2.0/24", "fd02:2::/64"),
        ("10.244.2.1", "fd02:2::1"),
    ),
)

_WEB = ("tcp:8080",)
_DNS = ("udp:53", "tcp:53")

PODS = (
    Pod("toolbox", NODE, "10.244.1.9", "fd02:1::9"),
    Pod("web-1", NODE, "10.244.1.11", "fd02:1::11", _WEB),
    Pod("web-2", NODE, "10.244.1.12", "fd02:1::12", _WEB),
    Pod("web-3", REMOTE_NODE, "10.244.2.13", "fd02:2::13", _WEB),
    Pod("dns-1", NODE, "10.244.1.53", "fd02:1::53", _DNS),
    Pod("dns-2", REMOTE_NODE, "10.244.2.53", "fd02:2::53", _DNS),
)

# Every host, by the role that its namespace's name ends with.
ROLES = (UNDERLAY, CLIENT, *(node.name for node in NODES), *(pod.name for pod in PODS))

_FORWARDING = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
}
SYSCTLS = {role: _FORWARDING for role in (UNDERLAY, NODE, REMOTE_NODE)}


def link_commands(prefix: str) -> dict[str, list[str]]:
    """
    The ip(8) commands that create all veth pairs, by the role in whose namespace they run.

    Args:
        prefix: What the names of all namespaces begin with.

    """
    commands: dict[str, list[str]] = {
        UNDERLAY: ["link add br0 type bridge"]
        + [
            f"link add {host} type veth peer name eth0 netns {prefix}{host}"
            for host in (CLIENT, NODE, REMOTE_NODE)
        ]
    }
    for node in NODES:
        commands[node.name] = [
            f"link add {pod.name} type veth peer name eth0 netns {prefix}{pod.name}"
            for pod in _pods_of(node)
        ]
    return commands


def address_commands() -> dict[str, list[str]]:
    """The ip(8) commands that set links up, addresses and routes, by role; links exist already."""
    commands = {UNDERLAY: _underlay(), CLIENT: _client()}
    for node in NODES:
        commands[node.name] = _node(node)
        for pod in _pods_of(node):
            commands[pod.name] = _pod(pod, node)
    return commands


def _pods_of(node: NodeHost) -> list[Pod]:
    return [pod for pod in PODS if pod.node == node.name]


def _underlay() -> list[str]:
    commands = [
        *(f"link set {host} master br0 up" for host in (CLIENT, NODE, REMOTE_NODE)),
        "link set br0 up",
        f"addr add {_GATEWAY[0]}/24 dev br0",
        f"addr add {_GATEWAY[1]}/64 dev br0 nodad",
    ]
    return commands


def _client() -> list[str]:
    node = NODES[0]
    return [
        "link set eth0 up",
        f"addr add {CLIENT_ADDRESS}/24 dev eth0",
        f"addr add {STRANGER_ADDRESS}/24 dev eth0",
        f"addr add {CLIENT_ADDRESS_V6}/64 dev eth0 nodad",
        # As a load balancer would: its addresses lead to the node that runs the proxy.
        f"route add {LB_CIDR} via {node.ipv4}",
        f"route add default via {_GATEWAY[0]}",
        f"route add ::/0 via {_GATEWAY[1]}",
    ]


def _node(node: NodeHost) -> list[str]:
    commands = [
        "link set eth0 up",
        f"addr add {node.ipv4}/24 dev eth0",
        f"addr add {node.ipv6}/64 dev eth0 nodad",
        # The first routing decision for a ClusterIP is taken before it is translated.
        f"route add default via {_GATEWAY[0]}",
        f"route add ::/0 via {_GATEWAY[1]}",
    ]
    for pod in _pods_of(node):
        commands += [
            f"link set {pod.name} up",
            f"addr add {node.pod_gateways[0]}/32 dev {pod.name}",
            f"addr add {node.pod_gateways[1]}/128 dev {pod.name} nodad",
            f"route add {pod.ipv4}/32 dev {pod.name} src {node.pod_gateways[0]}",
            f"route add {pod.ipv6}/128 dev {pod.name}",
        ]
    for other in NODES:
        if other is not node:
            commands += [
                f"route add {other.pod_cidrs[0]} via {other.ipv4}",
                f"route add {other.pod_cidrs[1]} via {other.ipv6}",
            ]
    return commands


def _pod(pod: Pod, node: NodeHost) -> list[str]:
    gateway_v4, gateway_v6 = node.pod_gateways
    return [
        "link set eth0 up",
        f"addr add {pod.ipv4}/32 dev eth0",
        f"addr add {pod.ipv6}/128 dev eth0 nodad",
        f"route add {gateway_v4} dev eth0 scope link src {pod.ipv4}",
        f"route add default via {gateway_v4} src {pod.ipv4}",
        f"route add {gateway_v6} dev eth0",
        f"route add ::/0 via {gateway_v6} src {pod.ipv6}",
    ]
