"""
A node with 1,000 Services of three endpoints and the API server's own, as kube-proxy left it.

Beyond 1,000 endpoints kube-proxy names neither Services nor endpoints in the rules of endpoints.
The recording is 1.2 MB of four kinds of lines, so what is kept of it is who has which addresses
(thousand-services.txt), the rest is written anew, and a digest of the recording proves it right.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support.golden import DATA, Case, Manifest, Step, common_content, ruleset
from tests.support.iptables_text import Chain

POD_NETWORK = "10.244.0.0/16"
DIGESTS = {
    "iptables": "81ca588baef5e6e9baedccc7de8e1beb707c5707d380d99029b09a1b798032c4",
    "ip6tables": "f6540f7a2d7de128da656bbe242c4e415e7c763223b0b9889288f020550b3c27",
}
"""SHA-256 of the canonical text (iptables_text.py) of the recorded rules, with STALE chains."""

STALE = ("bench/svc-1:http", ("10.244.0.4:8080", "10.244.0.5:8080", "10.244.0.6:8080"))
"""Former endpoints whose chains nothing leads to: with so many, kube-proxy removes them later."""

_ACCEPTS = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
_MARTIANS = (
    '! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections"'
    " -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
)
# How iptables prints 1/n of 2³¹ of the kernel's random numbers.
_PROBABILITIES = {2: "0.50000000000", 3: "0.33333333349"}


class _Port(NamedTuple):
    """``name`` is NAMESPACE/NAME:PORT; targets are ADDRESS:PORT, in the order of the rules."""

    name: str
    vip: str
    port: int
    targets: tuple[str, ...]


def thousand_services() -> Case:
    """Return the case; its node's name was not recorded and is of no consequence."""
    ports = tuple(_ports())
    common = common_content("iptables")
    filters = {
        name: ["-"]
        for name in ("EXTERNAL-SERVICES", "FIREWALL", "NODEPORTS", "PROXY-FIREWALL", "SERVICES")
    }
    filters = {f"KUBE-{name}": chain for name, chain in filters.items()}
    rules = {
        "iptables": ruleset(
            common["iptables"],
            {"filter": filters | {"KUBE-FIREWALL": ["-", _MARTIANS]}, "nat": _nat(ports)},
        ),
        "ip6tables": ruleset(
            common["ip6tables"],
            {"nat": {"KUBE-NODEPORTS": ["-"], "KUBE-SERVICES": ["-", _accepting("! -d ::1/128 ")]}},
        ),
    }
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": "node-0",
        "detectLocalMode": "ClusterCIDR",
        "clusterCIDR": POD_NETWORK,
        "conntrack": {"maxPerCore": 0},
    }
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-0"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.99.2"}]},
    }
    objects = (node, *(manifest for port in ports for manifest in _objects(port)))
    step = Step(objects, rules, {"net.ipv4.conf.all.route_localnet": "1"})
    return Case("thousand-services", config, {"eth0": ("192.168.99.2/24",)}, (step,))


def _ports() -> Iterator[_Port]:
    for line in (DATA / "thousand-services.txt").read_text().splitlines():
        name, _, frontend, *targets = line.split()
        vip, _, port = frontend.partition(":")
        yield _Port(name, vip, int(port), tuple(targets))


def _objects(port: _Port) -> tuple[Manifest, Manifest]:
    namespace, _, rest = port.name.partition("/")
    name, _, port_name = rest.partition(":")
    target = int(port.targets[0].rpartition(":")[2])
    meta = {"name": name, "namespace": namespace}
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "clusterIP": port.vip,
            "ports": [{"name": port_name, "protocol": "TCP", "port": port.port}],
        },
    }
    endpoint_slice = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [text.rpartition(":")[0]]} for text in port.targets],
        "ports": [{"name": port_name, "protocol": "TCP", "port": target}],
    }
    return service, endpoint_slice


def _nat(ports: tuple[_Port, ...]) -> dict[str, list[str]]:
    chains = {"KUBE-NODEPORTS": ["-"], "KUBE-SERVICES": ["-"]}
    for port in ports:
        service = f"KUBE-SVC-{_hash(port.name)}"
        match = (
            f'-d {port.vip}/32 -p tcp -m comment --comment "{port.name} cluster IP"'
            f" -m tcp --dport {port.port}"
        )
        chains["KUBE-SERVICES"].append(f"{match} -j {service}")
        chains[service] = ["-", f"! -s {POD_NETWORK} {match} -j KUBE-MARK-MASQ"]
        for index, target in enumerate(port.targets):
            endpoint = f"KUBE-SEP-{_hash(port.name, target)}"
            left = len(port.targets) - index
            choice = (
                f"-m statistic --mode random --probability {_PROBABILITIES[left]} "
                if left > 1
                else ""
            )
            chains[service].append(f"{choice}-j {endpoint}")
            chains[endpoint] = _endpoint_chain(target)
    chains["KUBE-SERVICES"].append(_accepting(""))
    return chains


def stale_chains() -> dict[str, Chain]:
    """Return the chains of the nat table that were recorded and are no part of the case."""
    name, targets = STALE
    chains = {f"KUBE-SEP-{_hash(name, target)}": _endpoint_chain(target) for target in targets}
    return {chain: Chain(policy, tuple(rules)) for chain, (policy, *rules) in chains.items()}


def _endpoint_chain(target: str) -> list[str]:
    return [
        "-",
        f"-s {target.rpartition(':')[0]}/32 -j KUBE-MARK-MASQ",
        f"-p tcp -m tcp -j DNAT --to-destination {target}",
    ]


def _accepting(match: str) -> str:
    return (
        f'{match}-m comment --comment "{_ACCEPTS}" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS'
    )


def _hash(name: str, target: str = "") -> str:
    return b32encode(hashlib.sha256(f"{name}tcp{target}".encode()).digest())[:16].decode()
