"""
A node with ``kpctl run`` on it and a cluster whose objects a test writes and changes.

Pods have addresses in 10.0.0.0/8 and fd00::/8 and reach the node through its device pods0, all
others through eth0; backends answer on port 8080, whatever their address.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proxy.backends.nftables.layout import AFFINITY, TABLE
from proxy.kernel.command import Completed
from proxy.kernel.nftables import NetlinkNft
from proxy.model.addresses import IPFamily, unpack_address
from tests.packets.flows.attempts import Outcome, Probe
from tests.packets.flows.daemon import KpctlRun, kpctl_run
from tests.packets.flows.probes import exchange
from tests.packets.flows.scenario import Change, Endpoint, Manifest, NodeSpec, Scenario, Stage
from tests.packets.flows.site import Site, site_for

NODE = "node-1"
NODE_IP, NODE_IP6, OTHER_NODE_IP = "192.0.2.1", "2001:db8::1", "198.51.100.1"
POD, POD_OF_OTHER_NODE, OUTSIDER = "10.1.0.5", "10.2.0.5", "203.0.113.9"
BACKEND_PORT = 8080
POD_NETWORKS = "10.0.0.0/8,fd00::/8"
SERVICE_CIDR = "172.30.0.0/16"
_LANDINGS = (Endpoint("10.180.0.1", BACKEND_PORT), Endpoint("fd00:10:180::1", BACKEND_PORT))
MODES = ("nftables", "iptables", "iptables-legacy")
_PROGRAMS = {4: "iptables", 6: "ip6tables"}
_KUBELETS_HINT = "KUBE-IPTABLES-HINT"  # by which programs know which backend the node uses
_ZONE = "topology.kubernetes.io/zone"


def backend(number: int, family: int = 4) -> str:
    """The address of a backend pod."""
    return f"10.180.0.{number}" if family == 4 else f"fd00:10:180::{number:x}"


def vip(number: int, family: int = 4) -> str:
    """The address of a Service."""
    return f"172.30.1.{number}" if family == 4 else f"fd00:172:30::{number:x}"


def node(zone: str = "", pod_cidrs: Sequence[str] = (), ips: Sequence[str] = ()) -> Manifest:
    """This node's object."""
    addresses = ips or (NODE_IP, NODE_IP6)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "labels": {_ZONE: zone} if zone else {}},
        "spec": {"podCIDRs": list(pod_cidrs), "podCIDR": next(iter(pod_cidrs), "")},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in addresses]},
    }


def service(
    name: str,
    *vips: str,
    protocol: str = "TCP",
    port: int = 80,
    node_port: int = 0,
    affinity_s: int = 0,
    **spec: Any,
) -> Manifest:
    """A Service with one port; *spec* adds to its spec."""
    families = ["IPv6" if ":" in ip else "IPv4" for ip in vips]
    made: dict[str, Any] = {
        "type": "NodePort" if node_port else "ClusterIP",
        "clusterIP": vips[0],
        "clusterIPs": list(vips),
        "ipFamilies": families,
        "ports": [{"name": "p", "protocol": protocol, "port": port, "nodePort": node_port}],
        "sessionAffinity": "ClientIP" if affinity_s else "None",
    }
    if affinity_s:
        made["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": affinity_s}}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": made | spec,
    }


def pod(address: str, *, here: bool = False, state: str = "ready", zone: str = "") -> Manifest:
    """One endpoint of a slice; state is ready, draining or dead, *here* is on this node."""
    endpoint: dict[str, Any] = {
        "addresses": [address],
        "nodeName": NODE if here else "node-2",
        "conditions": {
            "ready": state == "ready",
            "serving": state != "dead",
            "terminating": state == "draining",
        },
    }
    return endpoint | ({"hints": {"forZones": [{"name": zone}]}} if zone else {})


def slice_of(name: str, *pods: Manifest | str, protocol: str = "TCP", family: int = 4) -> Manifest:
    """The EndpointSlice of a Service in one family."""
    endpoints = [pod(each) if isinstance(each, str) else each for each in pods]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{family}",
            "namespace": "ns",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": f"IPv{family}",
        "ports": [{"name": "p", "protocol": protocol, "port": BACKEND_PORT}],
        "endpoints": endpoints,
    }


class Cluster:
    """The node, its proxy, and packets through it."""

    def __init__(self, site: Site, run: KpctlRun, mode: str) -> None:
        self.site = site
        self.mode = mode
        self._run = run

    def start(self, *objects: Manifest) -> None:
        """Start the proxy with these objects; returns when it serves them."""
        self._run.start(Stage("at start", (), (node(), *objects), ()))

    def apply(self, *objects: Manifest) -> None:
        """Write objects; returns when the proxy has followed."""
        changes = tuple(Change("update", each) for each in objects)
        self._run.follow(Stage("apply", changes, objects, ()))

    def delete(self, *objects: Manifest) -> None:
        """Delete objects; returns when the proxy has followed."""
        changes = tuple(Change("delete", each) for each in objects)
        self._run.follow(Stage("delete", changes, (), ()))

    def stop(self) -> None:
        """Kill the proxy's process; its rules stay."""
        self._run.stop()

    def restart(self, *objects: Manifest) -> None:
        """Kill the proxy's process, write objects, and start another; returns when it serves."""
        changes = tuple(Change("update", each) for each in objects)
        self._run.follow(Stage("restart", changes, objects, (), restart=True))

    def send(
        self, source: str, ip: str, port: int = 80, protocol: str = "TCP", count: int = 1
    ) -> list[Outcome]:
        """Make new connections one after the other's start; what became of each, in order."""
        return self.send_from([source] * count, ip, port, protocol)

    def send_from(
        self, sources: Sequence[str], ip: str, port: int = 80, protocol: str = "TCP"
    ) -> list[Outcome]:
        """Make one new connection from each source."""
        probes = [Probe(source, Endpoint(ip, port), protocol) for source in sources]
        with exchange(self.site, probes, _LANDINGS) as made:
            return made.send(probes)

    def is_silent(self, source: str, ip: str, port: int = 80, protocol: str = "TCP") -> bool:
        """Whether a packet vanishes."""
        probes = [Probe(source, Endpoint(ip, port), protocol)]
        with exchange(self.site, probes, _LANDINGS) as made:
            return made.send_expecting_silence(probes)[0].fate == "silent"

    def landings(
        self, sources: Sequence[str], ip: str, port: int = 80, protocol: str = "TCP"
    ) -> list[str]:
        """The backends that one connection from each source reaches; anything else fails."""
        found = self.send_from(sources, ip, port, protocol)
        assert all(o.fate == "landed" and o.answered for o in found), (found, self._run.evidence())
        return [outcome.at.ip for outcome in found if outcome.at is not None]

    def landing(self, source: str, ip: str, port: int = 80, protocol: str = "TCP") -> str:
        """The backend that one connection reaches; anything else fails."""
        return self.landings([source], ip, port, protocol)[0]

    def edit(self, script: str) -> None:
        """Change the node's rules, as another program does."""
        self.site.node.run(["nft", "-f", "-"], stdin=script)

    def rules(self, family: str = "ip") -> str:
        """The table as nft lists it; "" when there is none."""
        listing = self.site.node.run(["nft", "list", "table", family, TABLE], check=False)
        return listing.stdout

    def iptables(self, *arguments: str, family: int = 4, check: bool = True) -> Completed:
        """Change the node's iptables rules, as another program does."""
        program = f"{_PROGRAMS[family]}-{self._backend}"
        return self.site.node.run([program, "-w", *arguments], check=check)

    def add_rule(self, mark: str) -> None:
        """Add a rule about an address to a chain of the proxy, as another program does."""
        if self.mode == "nftables":
            self.edit(f"add rule ip kube-proxy masquerading ip daddr {mark} accept")
        else:
            self.iptables("-t", "nat", "-I", "KUBE-POSTROUTING", "-d", mark, "-j", "ACCEPT")

    def flush(self) -> None:
        """Remove all rules of the node, as another program does; legacy keeps the chains."""
        if self._backend == "nft":
            self.edit("flush ruleset")
            return
        for family in _PROGRAMS:
            for table in ("nat", "filter", "mangle"):
                self.iptables("-t", table, "-F", family=family)

    def listing(self, family: int = 4) -> str:
        """The proxy's rules, or all rules of iptables, as people see them."""
        if self.mode == "nftables":
            return self.rules("ip" if family == 4 else "ip6")
        return self.site.node.run([f"{_PROGRAMS[family]}-{self._backend}-save"]).stdout

    @property
    def _backend(self) -> str:
        return "legacy" if self.mode.endswith("-legacy") else "nft"

    def remembered(self) -> dict[str, str]:
        """The backend by client that session affinity remembers, IPv4."""
        with self.site.node.enter():
            nft = NetlinkNft(IPFamily.IPV4)
        try:
            found = nft.elements(TABLE, AFFINITY)
        finally:
            nft.close()
        return {unpack_address(key[:4]): unpack_address(data[:4]) for key, data in found}

    def evidence(self) -> str:
        """What the proxy said lately."""
        return self._run.evidence()

    def log(self) -> str:
        """All that the proxy said."""
        return self._run.log()


@contextmanager
def cluster(
    directory: Path,
    *objects: Manifest,
    detect: Mapping[str, Any] | None = None,
    masquerade_all: bool = False,
    node_port_addresses: Sequence[str] = (),
    localhost_node_ports: bool = False,
    mode: str = "nftables",
) -> Iterator[Cluster]:
    """
    A node with the proxy running on these objects.

    *detect* is its detectLocal settings, *mode* one of MODES.
    """
    spec = NodeSpec(
        name=NODE,
        ip_family=4,
        ips=(NODE_IP,),
        interfaces={"eth0": (f"{NODE_IP}/24", f"{NODE_IP6}/64", f"{OTHER_NODE_IP}/24")},
        labels={},
        cluster_cidr=None,
        masquerade_all=masquerade_all,
        node_port_addresses=tuple(node_port_addresses),
        localhost_node_ports=localhost_node_ports,
        service_cidrs=(SERVICE_CIDR,),
    )
    scenario = Scenario("cluster", "", mode.removesuffix("-legacy"), spec, ())
    directory.mkdir(exist_ok=True)
    with site_for(scenario) as site, kpctl_run(scenario, site, directory) as run:
        _configure(directory / "config.yaml", detect)
        made = Cluster(site, run, mode)
        if mode == "iptables-legacy":
            for family in _PROGRAMS:
                made.iptables("-t", "mangle", "-N", _KUBELETS_HINT, family=family)
        made.start(*objects)
        yield made
        assert "Traceback" not in run.log(), run.log()


def _configure(path: Path, detect: Mapping[str, Any] | None) -> None:
    config = json.loads(path.read_text())
    config |= detect or {"detectLocalMode": "ClusterCIDR", "clusterCIDR": POD_NETWORKS}
    path.write_text(json.dumps(config))
