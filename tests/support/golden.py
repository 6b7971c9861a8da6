"""
Nodes of kube-proxy as they were recorded (tests/data/golden), and comparing kpctl's with them.

A case is a node that watched the API through one or more states, its steps. To compare, the node
is made again, kpctl is given the same configuration and objects, and what it has written into the
kernel must become equal to the recording, and must still be equal when the process has ended.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kpctl.lab.netns import Namespace, create_all, delete_all, link
from tests.support.iptables_text import Chain, Ruleset
from tests.support.ipvs_text import NodeState, VirtualServers, set_states
from tests.support.kpctl_process import KpctlNode

DATA = Path(__file__).parents[1] / "data" / "golden"
PROGRAMS = ("iptables", "ip6tables")
PATIENCE_S = 20.0  # for a busy machine: only a failing test waits for it
_POLL_S = 0.05
_LOG_TAIL_LINES = 15
_serial = itertools.count(1)

Manifest = dict[str, Any]

API_SERVER: tuple[Manifest, ...] = (
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "172.16.0.1",
            "clusterIPs": ["172.16.0.1"],
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": 16444}],
        },
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.168.97.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "protocol": "TCP", "port": 16444}],
    },
)
"""The Service of the API server that kube-proxy watched; the recorded objects are without it."""


@dataclass(frozen=True, slots=True)
class Step:
    """
    A state of the API, and of the kernel behind it.

    ``rulesets`` is by program; ``rulesets`` and ``state`` lack what had not settled when it was
    recorded.
    """

    objects: tuple[Manifest, ...]
    rulesets: Mapping[str, Ruleset]
    sysctls: Mapping[str, str] = field(default_factory=dict)
    state: NodeState = field(default_factory=NodeState)


@dataclass(frozen=True, slots=True)
class Case:
    """``interfaces``: addresses with prefix lengths by device, in the order of ``ip addr``."""

    name: str
    config: Manifest
    interfaces: Mapping[str, tuple[str, ...]]
    steps: tuple[Step, ...]


def names(mode: str) -> list[str]:
    """Return the names of the cases of a proxy mode."""
    return sorted(path.stem for path in (DATA / mode).glob("*.json"))


def load(name: str, mode: str) -> Case:
    """Read a case."""
    body = json.loads((DATA / mode / f"{name}.json").read_text())
    interfaces = {device: tuple(addresses) for device, addresses in body["interfaces"].items()}
    common = common_content(mode)
    steps = tuple(_step(step, common) for step in body["steps"])
    return Case(name, body["config"], interfaces, steps)


def common_content(mode: str) -> dict[str, Any]:
    """Read the chains, and the types of the ipsets, that are alike on every node."""
    content: dict[str, Any] = json.loads((DATA / f"{mode}-common.json").read_text())
    return content


def ruleset(common: Mapping[str, Any], own: Mapping[str, Any]) -> Ruleset:
    """Put together the chains of all nodes and those of one; a chain begins with its policy."""
    return {
        table: {
            name: Chain(policy, tuple(rules))
            for name, (policy, *rules) in (chains | own.get(table, {})).items()
        }
        for table, chains in common.items()
    }


def _step(body: Mapping[str, Any], common: Mapping[str, Any]) -> Step:
    sets = {}
    for family in ("sets4", "sets6"):
        if family in body:
            sets |= set_states(common[family], body[family])
    servers: VirtualServers = {
        # Weight 0: no endpoint any more, kept only for a connection of the recorded traffic.
        server: frozenset(real for real in reals if not real.endswith(" -w 0"))
        for server, reals in body.get("servers", {}).items()
    }
    return Step(
        objects=(*API_SERVER, *body["objects"]),
        rulesets={name: ruleset(common[name], body[name]) for name in PROGRAMS if name in body},
        sysctls=body["sysctls"],
        state=NodeState(servers, frozenset(body.get("addresses", ())), sets),
    )


@contextmanager
def golden_node(case: Case, directory: Path) -> Iterator[KpctlNode]:
    """Make the node of a case: its interfaces lead into an empty namespace."""
    name = f"kpctl-t{os.getpid()}-golden{next(_serial)}"
    node, peer = Namespace(f"{name}-node"), Namespace(f"{name}-peer")
    try:
        create_all([node, peer])
        node.set_sysctls({"net.ipv4.conf.all.route_localnet": "0", "net.ipv4.ip_forward": "1"})
        for device, addresses in case.interfaces.items():
            link(node, device, peer, device)
            node.ip(
                f"addr add {address} dev {device}" for address in _in_order_of_adding(addresses)
            )
        made = KpctlNode(node, directory)
        made.config.write_text(json.dumps(case.config))
        try:
            yield made
        finally:
            made.nft.close()
    finally:
        delete_all([node, peer])


def _in_order_of_adding(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The kernel lists the IPv6 addresses of a device newest first."""
    ipv6 = tuple(address for address in addresses if ":" in address)
    return (*(address for address in addresses if ":" not in address), *reversed(ipv6))


def assert_becomes_equal(
    case: Case, node: KpctlNode, compare: Callable[[Step], str], patience_s: float = PATIENCE_S
) -> None:
    """
    Run kpctl through the steps of a case; *compare* returns differences, or "".

    Fails when they do not vanish in time, or are there again after the process has ended.
    """
    node.write("cluster.json", *case.steps[0].objects)
    with node.running() as proxy:
        for number, step in enumerate(case.steps):
            node.write("cluster.json", *step.objects)
            deadline = time.monotonic() + patience_s
            while (found := compare(step)) and time.monotonic() < deadline:
                if proxy.process.poll() is not None:
                    break
                time.sleep(_POLL_S)
            assert not found, f"{case.name}, step {number}:\n{found}\n{_tail(proxy.log())}"
        status = proxy.terminate()
    assert status == 0, _tail(proxy.log())
    assert compare(case.steps[-1]) == "", _tail(proxy.log())


def sysctl_differences(node: KpctlNode, step: Step) -> str:
    """Return the sysctls that are not as recorded, or ""."""
    found = {name: node.namespace.sysctl(name) for name in step.sysctls}
    return "\n".join(
        f"{name} = {found[name]}, recorded {value}"
        for name, value in step.sysctls.items()
        if found[name] != value
    )


def _tail(log: str) -> str:
    return "\n".join(["the log ends with:", *log.splitlines()[-_LOG_TAIL_LINES:]])
