"""
The scenarios of tests/data/flows as values.

A scenario is a node, the objects of a cluster, and flows: a packet and what must become of it.
Later stages change the objects. All names follow the files; their format is told in
tests/data/flows/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "data" / "flows"
_DEFAULT_SERVICE_CIDRS = ("172.30.0.0/16", "fd00:172:30::/112")

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address and a port; prints as ``1.2.3.4:80`` or ``[::1]:80``."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read what ``str`` writes; the address becomes canonical."""
        host, _, port = text.rpartition(":")
        return cls(str(ip_address(host.strip("[]"))), int(port))


@dataclass(frozen=True, slots=True)
class Expectation:
    """
    What must become of a flow's packets.

    ``verdict`` is dnat, drop, reject, none or accept. ``endpoints`` is the set of destinations of
    dnat. ``masquerade`` is None where it does not matter. With ``sticky``, session affinity sends
    all connections of one client to one of the endpoints.
    """

    verdict: str
    endpoints: frozenset[Endpoint]
    masquerade: bool | None
    sticky: bool = False


@dataclass(frozen=True, slots=True)
class Flow:
    """New connections from ``source`` to ``target``; ``protocol`` is TCP, UDP or SCTP."""

    name: str
    source: str
    target: Endpoint
    protocol: str
    expect: Expectation


@dataclass(frozen=True, slots=True)
class Change:
    """One write to the cluster state; ``op`` is add, update or delete."""

    op: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Stage:
    """
    Flows that hold after ``changes`` have been made.

    The first stage has no changes: its ``objects`` are there before the proxy starts. ``objects``
    are always those after the changes. ``restart`` replaces the proxy's process first.
    """

    name: str
    changes: tuple[Change, ...]
    objects: tuple[Manifest, ...]
    flows: tuple[Flow, ...]
    restart: bool = False


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """
    The node as the proxy finds it: its addresses and its settings.

    ``interfaces`` maps a device to its addresses with prefix length. ``cluster_cidr`` is None when
    local traffic is not told apart. ``service_cidrs`` are those that the cluster announces.
    """

    name: str
    ip_family: int
    ips: tuple[str, ...]
    interfaces: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, str]
    cluster_cidr: str | None
    masquerade_all: bool
    node_port_addresses: tuple[str, ...]
    localhost_node_ports: bool
    service_cidrs: tuple[str, ...]

    @property
    def addresses(self) -> frozenset[str]:
        """All addresses that the node itself receives packets for."""
        of_devices = (cidr.split("/")[0] for cidrs in self.interfaces.values() for cidr in cidrs)
        return frozenset({*self.ips, *of_devices, "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file, seen in one mode."""

    name: str
    about: str
    mode: str
    node: NodeSpec
    stages: tuple[Stage, ...]

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Every endpoint of every slice of every stage, usable or not."""
        found = (
            Endpoint(str(ip_address(address)), port["port"])
            for stage in self.stages
            for manifest in stage.objects
            if manifest["kind"] == "EndpointSlice"
            for endpoint in manifest.get("endpoints") or ()
            for address in endpoint["addresses"][:1]
            for port in manifest.get("ports") or ()
            if port.get("port")
        )
        return frozenset(found)

    @property
    def flows(self) -> tuple[Flow, ...]:
        """The flows of all stages."""
        return tuple(flow for stage in self.stages for flow in stage.flows)


def names(mode: str, directory: Path = DATA) -> list[str]:
    """The scenarios that list *mode*, sorted."""
    files = sorted(directory.glob("*.json"))
    return [file.stem for file in files if mode in json.loads(file.read_text())["modes"]]


def load(name: str, mode: str, directory: Path = DATA) -> Scenario:
    """
    Read one scenario for one mode.

    Raises:
        ValueError: It asks for something that the harness cannot do; the text names it.
    """
    raw = json.loads((directory / f"{name}.json").read_text())
    objects = {_identity(manifest): manifest for manifest in raw["objects"]}
    stages = [Stage("at start", (), tuple(objects.values()), _flows(raw["flows"], objects))]
    for step in raw.get("steps", ()):
        if fault := step.get("faultBefore"):
            raise ValueError(
                f"{name}, stage {step['name']!r}: the harness cannot plant the fault {fault!r}"
            )
        changes = tuple(Change(change["op"], change["object"]) for change in step["changes"])
        for change in changes:
            if change.op == "delete":
                del objects[_identity(change.manifest)]
            else:
                objects[_identity(change.manifest)] = change.manifest
        flows = _flows(step["flows"], objects)
        restart = bool(step.get("restart"))
        stages.append(Stage(step["name"], changes, tuple(objects.values()), flows, restart))
    return Scenario(raw["name"], raw["about"], mode, _node(raw["node"], mode), tuple(stages))


def vips_of(manifest: Manifest) -> Iterator[str]:
    """The virtual addresses of a Service: cluster, external and load balancer; else nothing."""
    if manifest["kind"] != "Service":
        return
    spec, status = manifest["spec"], manifest.get("status") or {}
    yield from spec.get("clusterIPs") or ()
    yield from spec.get("externalIPs") or ()
    for entry in (status.get("loadBalancer") or {}).get("ingress") or ():
        yield from filter(None, [entry.get("ip")])


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    meta = manifest["metadata"]
    return manifest["kind"], meta.get("namespace", ""), meta["name"]


def _node(raw: Mapping[str, Any], mode: str) -> NodeSpec:
    raw = {**raw, **raw.get("perMode", {}).get(mode, {})}
    family = 6 if raw["ipFamily"] == "IPv6" else 4
    detect = raw["detectLocal"]
    interfaces = raw.get("interfaces") or {
        "eth0": [f"{ip}/{64 if ':' in ip else 24}" for ip in raw["ips"]]
    }
    primary = raw.get("primaryIP")
    others = [ip for ip in raw["ips"] if ip != primary]
    default_cidrs = [cidr for cidr in _DEFAULT_SERVICE_CIDRS if (":" in cidr) == (family == 6)]
    return NodeSpec(
        name=raw["hostname"],
        ip_family=family,
        ips=(*((primary,) if primary else ()), *others),
        interfaces={device: tuple(cidrs) for device, cidrs in interfaces.items()},
        labels=raw.get("labels") or {},
        cluster_cidr=detect["cidr"] if detect["mode"] == "ClusterCIDR" else None,
        masquerade_all=raw["masqueradeAll"],
        node_port_addresses=tuple(raw.get("nodePortAddresses") or ()),
        localhost_node_ports=raw.get("localhostNodePorts", True),
        service_cidrs=tuple(raw.get("serviceCIDRs") or default_cidrs),
    )


def _flows(raw: Sequence[Mapping[str, Any]], objects: Mapping[Any, Manifest]) -> tuple[Flow, ...]:
    flows = tuple(_flow(entry) for entry in raw)
    return tuple(
        replace(flow, expect=replace(flow.expect, sticky=True))
        if any(_is_sticky(manifest, flow) for manifest in objects.values())
        else flow
        for flow in flows
    )


def _flow(raw: Mapping[str, Any]) -> Flow:
    expect = raw["expect"]
    return Flow(
        name=raw["name"],
        source=str(ip_address(raw["from"]["ip"])),
        target=Endpoint(str(ip_address(raw["to"]["ip"])), raw["to"]["port"]),
        protocol=raw["to"]["protocol"],
        expect=Expectation(
            verdict=expect["verdict"],
            endpoints=frozenset(map(Endpoint.parse, expect["endpoints"])),
            masquerade=expect["masquerade"],
        ),
    )


def _is_sticky(manifest: Manifest, flow: Flow) -> bool:
    """Whether the manifest is a Service with session affinity that answers the flow."""
    spec = manifest.get("spec") or {}
    if manifest["kind"] != "Service" or spec.get("sessionAffinity") != "ClientIP":
        return False
    vips = set(vips_of(manifest))
    return any(
        port.get("protocol", "TCP") == flow.protocol
        and (
            (flow.target.ip in vips and flow.target.port == port["port"])
            or (flow.target.ip not in vips and flow.target.port == port.get("nodePort"))
        )
        for port in spec.get("ports") or ()
    )
