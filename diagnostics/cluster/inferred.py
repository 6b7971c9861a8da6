"""
The proxy's configuration, as far as its rules tell it.

A dump often comes without the configuration. What decides about packets can be read back: how
traffic of pods is recognised, who is masqueraded, which addresses answer NodePorts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from diagnostics.nftables.model import Table
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from proxy.backends.iptables import names
from proxy.backends.ipvs.names import DEVICE
from proxy.backends.nftables.layout import CLUSTER_IPS_CHECK, NODEPORT_IPS, TABLE
from proxy.config import types
from proxy.config.types import ProxyConfig
from proxy.model.addresses import IPFamily

# "! -s 10.0.0.0/8 -d 172.30.0.41/32 … -j KUBE-MARK-MASQ"; IPVS asks the set of cluster IPs.
_IPTABLES_LOCAL = re.compile(
    r"(?:! -s (?P<cidr>\S+) |! -i (?P<iface>\S+) )?(?:-d \S+ .*|-m comment .*)?"
    r"(?:--dport \d+|--match-set KUBE-(?:6-)?CLUSTER-IP (?P<sides>\S+)) -j KUBE-MARK-MASQ"
)
_MARK = re.compile(r"--set-xmark (0x[0-9a-f]+)/")
_NODE_PORT_ADDRESS = re.compile(r"-d (\S+) .*-j KUBE-NODEPORTS")
_NFT_LOCAL = re.compile(
    r"(?:ip6? saddr != (?P<cidr>\S+) |iifname != \"?(?P<iface>[^\s\"]+)\"? )?"
    r"meta mark set meta mark \|"
)
# Where marks are set for everybody, or taken off again: of 1.36 and ours, and of older releases.
_MARKING = ("services", "masquerading", "mark-for-masquerade")
_NFT_MARK = re.compile(r"meta mark set meta mark [|^] (0x[0-9a-f]+)")
_TO_CLUSTER_IPS = "cluster-ip-"
_UNUSED = re.compile(r"ip6? daddr (?:\{ ([^}]*) \}|(\S+)) drop")
_EVERY_ADDRESS = ("0.0.0.0/0", "::/0")


@dataclass(slots=True)
class _Clues:
    """What the rules of both families say."""

    cidrs: Counter[str]
    ifaces: Counter[str]
    marks: Counter[int]
    addresses: list[str]
    everything: bool = False
    no_loopback: bool = False

    @classmethod
    def none(cls) -> _Clues:
        return cls(Counter(), Counter(), Counter(), [])


def infer_config(node: NodeSnapshot, base: ProxyConfig) -> ProxyConfig:
    """Return *base*, which has the mode, with what the node's rules tell."""
    clues = _Clues.none()
    if base.mode == types.NFTABLES:
        tables = node.nft()
        if not isinstance(tables, Gap):
            for family in ("ip", "ip6"):
                if table := tables.tables.get((family, TABLE)):
                    _of_table(table, clues)
    else:
        for each in IPFamily:
            _of_iptables(node, each, clues)
        clues.addresses += _served_addresses(node)
    return _applied(base, clues, _scheduler(node))


def _of_iptables(node: NodeSnapshot, family: IPFamily, clues: _Clues) -> None:
    rules = node.iptables(family)
    services = None if isinstance(rules, Gap) else rules.chain("nat", names.SERVICES)
    if isinstance(rules, Gap) or services is None:
        return
    # A few Services are enough, and on a live node each chain costs a program's run.
    targets = (raw.rpartition(" ")[2] for raw in services.raw)
    some = islice((name for name in targets if name.startswith(names.SERVICE)), _MOST_CHAINS)
    for chain in (services, *(rules.chain("nat", name) for name in some)):
        for raw in chain.raw if chain else ():
            _local_traffic(_IPTABLES_LOCAL.fullmatch(raw), clues)
    for raw in services.raw[-_MOST_ADDRESSES:]:
        _node_ports(raw, clues)
    marking = rules.chain("nat", names.MARK_MASQ)
    for raw in marking.raw if marking else ():
        clues.marks.update(int(found, 16) for found in _MARK.findall(raw))


_MOST_CHAINS = 8
_MOST_ADDRESSES = 64


def _local_traffic(found: re.Match[str] | None, clues: _Clues) -> None:
    if found is None:
        return
    if found["cidr"]:
        clues.cidrs[found["cidr"]] += 1
    elif found["iface"]:
        clues.ifaces[found["iface"]] += 1
    elif "sides" not in found.re.groupindex or found["sides"] in (None, "dst,dst"):
        clues.everything = True


def _node_ports(raw: str, clues: _Clues) -> None:
    if not raw.endswith(f"-j {names.NODEPORTS}"):
        return
    if raw.startswith("! -d 127."):
        clues.no_loopback = True
    elif (found := _NODE_PORT_ADDRESS.match(raw)) is not None:
        clues.addresses.append(found[1])


def _of_table(table: Table, clues: _Clues) -> None:
    services = table.chains.get("services")
    rules = services.rules if services else ()
    for rule in rules:
        if "cluster-ips" in rule.text:  # kube-proxy tells all cluster IPs at once
            _local_traffic(_NFT_LOCAL.search(rule.text), clues)
    for name, chain in table.chains.items():
        if name.startswith(_TO_CLUSTER_IPS):  # our layout tells them apart by their endpoints
            for rule in chain.rules:
                _local_traffic(_NFT_LOCAL.search(rule.text), clues)
    for name in _MARKING:
        marking = table.chains.get(name)
        for rule in marking.rules if marking else ():
            clues.marks.update(int(found, 16) for found in _NFT_MARK.findall(rule.text))
    listed = table.sets.get(NODEPORT_IPS)
    if any("service-nodeports" in rule.text and "fib daddr" in rule.text for rule in rules):
        clues.addresses.append(_EVERY_ADDRESS[table.family == "ip6"])
    elif listed is not None:
        bits = 128 if table.family == "ip6" else 32
        clues.addresses += [f"{element.key}/{bits}" for element in listed.elements]


def infer_service_cidrs(node: NodeSnapshot) -> tuple[str, ...]:
    """Return the networks whose unused addresses the nftables mode drops; () where none does."""
    tables = node.nft()
    found: list[str] = []
    if isinstance(tables, Gap):
        return ()
    for family in ("ip", "ip6"):
        table = tables.tables.get((family, TABLE))
        chain = table.chains.get(CLUSTER_IPS_CHECK) if table else None
        for rule in chain.rules if chain else ():
            if match := _UNUSED.match(rule.text):
                found += (match[1] or match[2]).split(", ")
    return tuple(found)


def _served_addresses(node: NodeSnapshot) -> list[str]:
    """Return the node's own addresses at which IPVS answers: those that accept NodePorts."""
    servers, links = node.ipvs(), node.links()
    if isinstance(servers, Gap) or isinstance(links, Gap):
        return []
    called = {entry.server.key.address for entry in servers.servers}
    return [
        f"{entry.address}/{entry.address.max_prefixlen}"
        for link, entry in links.addresses()
        if link.name != DEVICE and entry.address.packed in called
    ]


def _scheduler(node: NodeSnapshot) -> str:
    servers = node.ipvs()
    if isinstance(servers, Gap) or not servers.servers:
        return ""
    counted = Counter(entry.server.scheduler for entry in servers.servers)
    return counted.most_common(1)[0][0]


def _applied(base: ProxyConfig, clues: _Clues, scheduler: str) -> ProxyConfig:
    config = replace(
        base,
        detect_local=_detection(base, clues),
        masquerade_all=clues.everything,
        node_port_addresses=tuple(dict.fromkeys(clues.addresses)) or base.node_port_addresses,
        iptables=replace(base.iptables, localhost_node_ports=not clues.no_loopback),
    )
    if scheduler:
        config = replace(config, ipvs=replace(config.ipvs, scheduler=scheduler))
    if clues.marks:
        bit = clues.marks.most_common(1)[0][0].bit_length() - 1
        config = replace(
            config,
            iptables=replace(config.iptables, masquerade_bit=bit),
            nftables=replace(config.nftables, masquerade_bit=bit),
        )
    return config


def _detection(base: ProxyConfig, clues: _Clues) -> types.DetectLocal:
    if clues.ifaces:
        name = clues.ifaces.most_common(1)[0][0]
        if name.endswith(("+", "*")):
            return replace(
                base.detect_local,
                mode=types.INTERFACE_NAME_PREFIX,
                interface_name_prefix=name.rstrip("+*"),
            )
        return replace(base.detect_local, mode=types.BRIDGE_INTERFACE, bridge_interface=name)
    return replace(
        base.detect_local, mode=types.CLUSTER_CIDR, cluster_cidrs=tuple(_main(clues.cidrs))
    )


def _main(cidrs: Counter[str]) -> Iterator[str]:
    """Yield the network of each family that most rules name."""
    for versions in (False, True):
        own: Iterable[str] = [cidr for cidr, _ in cidrs.most_common() if (":" in cidr) is versions]
        yield from list(own)[:1]
