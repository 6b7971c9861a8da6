"""
Runs ``kpctl run --manifests`` on the node of a site, as its user would.

To know when the proxy has caught up without guessing a time, every stage ends with one more
Service, written after all others: when a packet to its ClusterIP is answered, the proxy is there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from proxy.kernel.command import STDOUT, Process
from tests.packets.flows.attempts import Probe
from tests.packets.flows.probes import exchange
from tests.packets.flows.scenario import Endpoint, Manifest, Scenario, Stage
from tests.packets.flows.site import Site

START_PATIENCE_S = 30.0  # generous for a busy machine: only a failing test waits for it
_POLL_S = 0.02
_LOG_TAIL_LINES = 25
_SENTINEL_NAMESPACE = "sentinel"
_SENTINEL_PORT = 4090
_SENTINEL_BACKEND = {4: "10.255.255.254", 6: "fd00:255::fe"}
_SENTINEL_CLIENT = {4: "10.255.255.253", 6: "fd00:255::fd"}


class KpctlRun:
    """The proxy under test; a ProxyUnderTest of play.py."""

    def __init__(self, scenario: Scenario, site: Site, directory: Path) -> None:
        self._scenario = scenario
        self._site = site
        self._manifests = directory / "manifests"
        self._staging = directory / "staging"
        self._config = directory / "config.yaml"
        self._log = directory / "kpctl.log"
        self._process: Process | None = None
        self._stages = 0
        self._manifests.mkdir()
        self._staging.mkdir()
        self._config.write_text(json.dumps(_config(scenario), indent=2))

    def start(self, stage: Stage) -> None:
        """Write the objects, start the process, and wait until it serves."""
        for manifest in (*_cluster_objects(self._scenario), *stage.objects):
            self._write(_file_name(manifest), manifest)
        sentinel = self._write_sentinel()
        self._spawn()
        self._wait_for(sentinel, stage)

    def follow(self, stage: Stage) -> None:
        """Change the manifests and wait until the proxy serves accordingly."""
        if stage.restart:
            self.stop()
        for change in stage.changes:
            if change.op == "delete":
                (self._manifests / _file_name(change.manifest)).unlink()
            else:
                self._write(_file_name(change.manifest), change.manifest)
        if not stage.changes:
            for manifest in stage.objects:
                self._write(_file_name(manifest), manifest)
        sentinel = self._write_sentinel()
        if stage.restart:
            self._spawn()
        self._wait_for(sentinel, stage)

    def stop(self) -> None:
        """Kill the process; what it wrote to the kernel stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """All that the process has written."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def evidence(self) -> str:
        """The end of the log."""
        tail = self.log().splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join(["the proxy's log ends with:", *(f"    {line}" for line in tail)])

    def _spawn(self) -> None:
        kpctl = Path(sys.executable).with_name("kpctl")
        argv = [kpctl, "run", "--config", self._config, "--manifests", self._manifests]
        with self._log.open("ab") as log:
            self._process = self._site.node.spawn(
                [str(word) for word in argv], stdout=log, stderr=STDOUT
            )

    def _write(self, name: str, manifest: Manifest) -> None:
        """Put a file into place at once, as a careful user of a watched directory does."""
        (self._staging / name).write_text(json.dumps(manifest))
        (self._staging / name).replace(self._manifests / name)

    def _write_sentinel(self) -> Probe:
        """Write the Service that ends a stage; return the packet that tells when it is served."""
        self._stages += 1
        node = self._scenario.node
        vip = str(ip_network(node.service_cidrs[0])[-1 - self._stages])
        sentinel = _sentinel(f"stage-{self._stages}", vip, node.ip_family)
        self._write("sentinel.json", sentinel)
        return Probe(_SENTINEL_CLIENT[node.ip_family], Endpoint(vip, _SENTINEL_PORT), "UDP")

    def _wait_for(self, sentinel: Probe, stage: Stage) -> None:
        backend = Endpoint(_SENTINEL_BACKEND[self._scenario.node.ip_family], _SENTINEL_PORT)
        deadline = time.monotonic() + START_PATIENCE_S
        with exchange(self._site, [sentinel], [backend]) as made:
            while made.send([sentinel], _POLL_S)[0].at != backend:
                what = self._trouble(deadline)
                if what:
                    place = f"{self._scenario.name} | {stage.name}"
                    raise AssertionError(f"{place} | {what}\n{self.evidence()}")

    def _trouble(self, deadline: float) -> str:
        """Why there is no point in waiting any longer; empty if there is."""
        assert self._process is not None
        if (status := self._process.poll()) is not None:
            return f"kpctl run ended with status {status}"
        if time.monotonic() > deadline:
            return f"kpctl run did not serve the stage within {START_PATIENCE_S:g} s"
        return ""


@contextmanager
def kpctl_run(scenario: Scenario, site: Site, directory: Path) -> Iterator[KpctlRun]:
    """The proxy for a scenario, not started yet; its process ends with the context."""
    daemon = KpctlRun(scenario, site, directory)
    try:
        yield daemon
    finally:
        daemon.stop()


def _config(scenario: Scenario) -> Manifest:
    """The KubeProxyConfiguration that the scenario's node stands for."""
    node = scenario.node
    config: dict[str, Any] = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": scenario.mode,
        "hostnameOverride": node.name,
        "nodePortAddresses": list(node.node_port_addresses),
        # The size of the table belongs to the machine, not to a network namespace.
        "conntrack": {"maxPerCore": 0},
        "nftables": {"masqueradeAll": node.masquerade_all},
        "iptables": {
            "masqueradeAll": node.masquerade_all,
            "localhostNodePorts": node.localhost_node_ports,
        },
    }
    if node.cluster_cidr is not None:
        config |= {"detectLocalMode": "ClusterCIDR", "clusterCIDR": node.cluster_cidr}
    return config


def _cluster_objects(scenario: Scenario) -> Iterator[Manifest]:
    """The objects that exist in every cluster and that scenarios tell by other means."""
    node = scenario.node
    yield {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": dict(node.labels)},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in node.ips[:1]]},
    }
    yield {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": list(node.service_cidrs)},
    }


def _sentinel(name: str, vip: str, family: int) -> Manifest:
    """A Service with one backend."""
    meta = {"name": name, "namespace": _SENTINEL_NAMESPACE}
    port = {"name": "", "protocol": "UDP", "port": _SENTINEL_PORT}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": vip,
            "clusterIPs": [vip],
            "ipFamilies": [f"IPv{family}"],
            "ports": [port],
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
        },
    }
    endpoint_slice = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": {"kubernetes.io/service-name": name}},
        "addressType": f"IPv{family}",
        "ports": [port],
        "endpoints": [{"addresses": [_SENTINEL_BACKEND[family]], "conditions": {"ready": True}}],
    }
    return {"apiVersion": "v1", "kind": "List", "items": [service, endpoint_slice]}


def _file_name(manifest: Manifest) -> str:
    meta = manifest["metadata"]
    return f"{manifest['kind']}.{meta.get('namespace', '')}.{meta['name']}.json".lower()
