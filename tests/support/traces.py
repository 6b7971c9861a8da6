"""Traces of packets through recorded nodes, for tests of what is said about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diagnostics.snapshot.open import open_snapshot
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.replies import Surroundings
from diagnostics.trace.report import Trace

SNAPSHOTS = Path(__file__).parents[1] / "data" / "snapshots"
OUTSIDER, CLUSTER_CLIENT, NODE = "203.0.113.2", "10.0.0.2", "192.168.0.2"
ENDPOINT_OF_SVC4 = "10.180.0.4"


def traced(
    directory: Path, src: str, dst: str, port: int = 80, **more: Any
) -> tuple[Trace, Surroundings]:
    """The trace of a packet through a snapshot, and the snapshot's surroundings."""
    node = open_snapshot(directory).node()
    fields = {"src": src, "dst": dst, "port": port, "protocol": "TCP"} | more
    return Tracer(node).ask(Question.read(fields)), Surroundings.of(node)


def recorded(mode: str, src: str, dst: str, port: int = 80) -> tuple[Trace, Surroundings]:
    """The trace of a packet through a recorded node."""
    return traced(SNAPSHOTS / mode, src, dst, port)


def write_many_endpoints(directory: Path, count: int) -> None:
    """Write a node in iptables mode whose Service 10.96.0.10:80 has many endpoints."""
    service = "KUBE-SVC-AAAAAAAAAAAAAAAA"
    chains = ["KUBE-SERVICES", service, *(f"KUBE-SEP-{i:016d}" for i in range(count))]
    rules = [
        "-A PREROUTING -j KUBE-SERVICES",
        "-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "
        f'"shop/web:http cluster IP" -m tcp --dport 80 -j {service}',
    ]
    for i in range(count):
        chance = f"-m statistic --mode random --probability {1 / (count - i):.11f} "
        rules += [
            f"-A {service} {chance if i < count - 1 else ''}-j KUBE-SEP-{i:016d}",
            f"-A KUBE-SEP-{i:016d} -p tcp -m tcp -j DNAT --to-destination 10.244.0.{i + 1}:8080",
        ]
    lines = ["*nat", ":PREROUTING ACCEPT [0:0]", *(f":{chain} - [0:0]" for chain in chains)]
    (directory / "iptables-save.txt").write_text("\n".join([*lines, *rules, "COMMIT", ""]))
    (directory / "ip-addr.json").write_text("[]")
    route = [{"dst": "default", "gateway": "192.168.0.1", "dev": "eth0", "flags": []}]
    (directory / "ip-route.json").write_text(json.dumps(route))


def write_rules(directory: Path, *rules: str) -> None:
    """Write a node with these rules in the filter table's FORWARD chain, and nothing else."""
    family = "ip6tables" if "icmp6" in " ".join(rules) else "iptables"
    text = "\n".join(["*filter", ":FORWARD ACCEPT [0:0]", *rules, "COMMIT", ""])
    (directory / f"{family}-save.txt").write_text(text)
    (directory / "ip-addr.json").write_text("[]")
