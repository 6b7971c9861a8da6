"""A dump of a node with a DNS and a web Service, and connections of every kind to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DNS, WEB = "10.96.0.10", "10.96.0.20"
NODE_ADDRESS = "192.168.0.2"
FINE_UDP = (
    "udp      17 25 src=10.244.0.9 dst=10.96.0.10 sport=4001 dport=53 packets=5 bytes=500 "
    "src=10.244.0.2 dst=10.244.0.9 sport=5353 dport=4001 packets=5 bytes=900 [ASSURED] mark=0 use=1"
)
GONE_ENDPOINT = (
    "udp      17 25 src=10.244.0.9 dst=10.96.0.10 sport=4002 dport=53 packets=5 bytes=500 "
    "[UNREPLIED] src=10.244.0.77 dst=10.244.0.9 sport=5353 dport=4002 packets=0 bytes=0 mark=0 "
    "delta-time=50 use=1"
)
UNTRANSLATED = (
    "udp      17 25 src=10.244.0.9 dst=10.96.0.10 sport=4003 dport=53 [UNREPLIED] "
    "src=10.96.0.10 dst=10.244.0.9 sport=53 dport=4003 mark=0 use=1"
)
NODE_PORT = (
    "udp      17 25 src=1.2.3.4 dst=192.168.0.2 sport=4004 dport=30053 packets=1 bytes=50 "
    "[UNREPLIED] src=10.244.0.88 dst=192.168.0.2 sport=5353 dport=4004 packets=0 bytes=0 mark=0 "
    "use=1"
)
OTHER_HOST = (
    "udp      17 25 src=10.244.0.9 dst=8.8.8.8 sport=4005 dport=30053 [UNREPLIED] "
    "src=8.8.8.8 dst=192.168.0.2 sport=30053 dport=4005 mark=0 use=1"
)
NO_SERVICE = (
    "udp      17 25 src=1.2.3.4 dst=10.96.7.7 sport=4006 dport=53 [UNREPLIED] "
    "src=10.244.0.88 dst=192.168.0.2 sport=5353 dport=4006 mark=0 use=1"
)
FINE_TCP = (
    "tcp      6 431999 ESTABLISHED src=10.244.0.9 dst=10.96.0.20 sport=5000 dport=80 "
    "src=10.244.0.4 dst=10.244.0.9 sport=8080 dport=5000 [ASSURED] mark=0 use=1"
)
DRAINING_TCP = (
    "tcp      6 431999 ESTABLISHED src=10.244.0.9 dst=10.96.0.20 sport=5003 dport=80 "
    "src=10.244.0.5 dst=10.244.0.9 sport=8080 dport=5003 [ASSURED] mark=0 use=1"
)
GONE_TCP = (
    "tcp      6 300000 ESTABLISHED src=10.244.0.9 dst=10.96.0.20 sport=5001 dport=80 "
    "src=10.244.0.44 dst=10.244.0.9 sport=8080 dport=5001 [ASSURED] mark=0 use=1"
)
ENDING_TCP = (
    "tcp      6 100 TIME_WAIT src=10.244.0.9 dst=10.96.0.20 sport=5002 dport=80 "
    "src=10.244.0.44 dst=10.244.0.9 sport=8080 dport=5002 [ASSURED] mark=0 use=1"
)
PING = (
    "icmp     1 29 src=10.244.0.9 dst=8.8.8.8 type=8 code=0 id=77 src=8.8.8.8 dst=10.244.0.9 "
    "type=0 code=0 id=77 mark=0 use=1"
)
ALL = (
    FINE_UDP, GONE_ENDPOINT, UNTRANSLATED, NODE_PORT, OTHER_HOST, NO_SERVICE,
    FINE_TCP, DRAINING_TCP, GONE_TCP, ENDING_TCP, PING,
)  # fmt: skip
SYSCTLS = {
    "nf_conntrack_max": 131072,
    "nf_conntrack_buckets": 131072,
    "nf_conntrack_acct": 1,
    "nf_conntrack_timestamp": 0,
    "nf_conntrack_tcp_timeout_established": 86400,
    "nf_conntrack_tcp_timeout_close_wait": 3600,
}
COUNTERS = (
    "cpu=0   found=100 invalid=3 insert=0 insert_failed=0 drop=0 early_drop=0 error=0 "
    "search_restart=0 clash_resolve=0 chaintoolong=0\n"
)
Json = dict[str, Any]


def service(name: str, ip: str, port: int, protocol: str, node_port: int = 0) -> Json:
    """Return a Service's manifest in namespace ``shop``."""
    ports: Json = {"name": "p", "port": port, "protocol": protocol}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "type": "NodePort" if node_port else "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ports": [ports | ({"nodePort": node_port} if node_port else {})],
        },
    }


def endpoints(name: str, port: int, protocol: str, **serving: bool) -> Json:
    """Return its EndpointSlice: ``_2=True`` is a serving pod at 10.244.0.2."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [f"10.244.0.{last.strip('_')}"],
                "nodeName": "n1",
                "conditions": {"ready": yes, "serving": yes, "terminating": not yes},
                "targetRef": {"kind": "Pod", "name": f"{name}{last}", "namespace": "shop"},
            }
            for last, yes in serving.items()
        ],
        "ports": [{"name": "p", "port": port, "protocol": protocol}],
    }


NODE: Json = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1"},
    "spec": {"podCIDR": "10.244.0.0/24"},
    "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDRESS}]},
}
CIDRS: Json = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "ServiceCIDR",
    "metadata": {"name": "kubernetes"},
    "spec": {"cidrs": ["10.96.0.0/16"]},
}
OBJECTS: dict[str, tuple[Json, ...]] = {
    "services": (service("dns", DNS, 53, "UDP", 30053), service("web", WEB, 80, "TCP")),
    "endpointslices": (
        endpoints("dns", 5353, "UDP", _2=True, _3=True, _6=False),
        endpoints("web", 8080, "TCP", _4=True, _5=False),
    ),
    "nodes": (NODE,),
    "servicecidrs": (CIDRS,),
}


def write_objects(directory: Path) -> Path:
    """Write the objects as lists, one file for each kind."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, items in OBJECTS.items():
        whole = {"apiVersion": "v1", "kind": "List", "items": list(items)}
        (directory / f"{name}.json").write_text(json.dumps(whole))
    return directory


def write_dump(directory: Path, lines: tuple[str, ...] = ALL, **sysctls: int) -> Path:
    """Write a whole dump and return its directory."""
    write_objects(directory)
    address = {"family": "inet", "local": NODE_ADDRESS, "prefixlen": 24, "scope": "global"}
    links = [{"ifname": "eth0", "addr_info": [address]}]
    (directory / "ip-addr.json").write_text(json.dumps(links))
    (directory / "hostname.txt").write_text("n1\n")
    settings = SYSCTLS | sysctls
    (directory / "sysctl.txt").write_text(
        "".join(f"net.netfilter.{name} = {value}\n" for name, value in settings.items())
    )
    (directory / "conntrack-S.txt").write_text(COUNTERS)
    (directory / "conntrack.txt").write_text("".join(f"{line}\n" for line in lines))
    return directory
