"""Compiles a cluster's plans with the data plane of a mode, as ``kpctl run --dry-run`` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

from diagnostics.cluster.plans import Cluster
from diagnostics.intended.restore import restored
from diagnostics.iptables.model import Ruleset
from diagnostics.nftables.model import NftRuleset
from diagnostics.nftables.text_reader import read_text
from diagnostics.readers.addresses import Link, LinkAddress
from diagnostics.readers.ipset import IpSets, read_ipset
from diagnostics.readers.ipvs import IpvsTable, read_ipvsadm_save
from proxy.backends.ipvs.names import DEVICE
from proxy.config.types import IPVS, NFTABLES
from proxy.engine.dry_planes import build_dry_plane
from proxy.engine.family import FamilyProxy
from proxy.engine.start_gate import FatalError
from proxy.model.addresses import IPFamily


class CannotCompile(Exception):
    """The configuration cannot work on this node; the text says why."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """
    What a proxy in a mode would have written.

    Attributes:
        iptables: by family; no entry in mode nftables.
        nft: the tables ``kube-proxy`` of all families.
        device: kube-ipvs0 with its addresses; None unless the mode is ipvs.
    """

    mode: str
    iptables: dict[IPFamily, Ruleset] = field(default_factory=dict)
    nft: NftRuleset = NftRuleset({})  # noqa: RUF009 - immutable
    ipvs: IpvsTable = IpvsTable()  # noqa: RUF009 - immutable
    ipsets: IpSets | None = None
    device: Link | None = None


def compile_cluster(
    cluster: Cluster, mode: str = "", families: Sequence[IPFamily] = ()
) -> Compiled:
    """
    Return the rules of a cluster's plans.

    Args:
        cluster: Plans, configuration and node.
        mode: nftables, iptables or ipvs instead of the configured one.
        families: all when empty.

    Raises:
        CannotCompile: The configuration asks for what cannot be, such as unknown pod CIDRs.
    """
    families = tuple(families) or tuple(IPFamily)
    config = replace(cluster.config, mode=mode) if mode else cluster.config
    dry = build_dry_plane(config, families)
    texts = []
    try:
        for family in families:
            settings = dry.plane.settings(config, cluster.view, family)
            planner = cluster.planners[family]
            proxy = FamilyProxy(
                family, cluster.store, planner, dry.plane.reconciler(family, settings, planner)
            )
            result = proxy.restate().result
            if result.error:
                raise CannotCompile(result.error)
            texts.append(dry.text(proxy))
    except FatalError as error:
        raise CannotCompile(str(error)) from error
    if config.mode == NFTABLES:
        return Compiled(config.mode, nft=read_text("\n".join(texts)))
    parts = [dict(_sections(text)) for text in texts]
    rules = {
        family: restored(part["iptables-restore"])
        for family, part in zip(families, parts, strict=True)
    }
    if config.mode != IPVS:
        return Compiled(config.mode, rules)
    return Compiled(
        config.mode,
        rules,
        ipvs=read_ipvsadm_save("\n".join(_joined(parts, "ipvsadm"))),
        ipsets=read_ipset("\n".join(_joined(parts, "ipset"))),
        device=_device(_joined(parts, "ip")),
    )


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines for each program; a comment ``# PROGRAM …, FAMILY`` begins them."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("# "):
            program = line[2:].split()[0].replace("ip6tables", "iptables")
            lines = []
            yield program, lines
        else:
            lines.append(line)


def _joined(parts: Sequence[dict[str, list[str]]], program: str) -> list[str]:
    return [line for part in parts for line in part.get(program, ())]


def _device(lines: Sequence[str]) -> Link:
    words = [line.split() for line in lines]
    addresses = tuple(
        LinkAddress(ip_interface(line[line.index("add") + 1]))
        for line in words
        if "add" in line and line[0].startswith("addr")
    )
    return Link(DEVICE, 0, frozenset({"BROADCAST", "NOARP"}), addresses)
