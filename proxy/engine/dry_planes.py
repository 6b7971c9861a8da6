"""Data planes that write nothing, and what they would have written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.backends.nftables.text import render_table
from proxy.config.types import IPTABLES, IPVS, ProxyConfig
from proxy.engine.data_plane import DataPlane
from proxy.engine.family import FamilyProxy
from proxy.engine.iptables.plane import IptablesPlane, KernelFacts
from proxy.engine.ipvs.plane import IpvsOptions, IpvsPlane
from proxy.engine.ipvs.ports import IpvsPorts
from proxy.engine.nftables.plane import NftablesPlane
from proxy.engine.nftables.reconciler import NftReconciler
from proxy.kernel.dry_ipvs import AcceptingIpset, AcceptingIpvs, AcceptingLinks
from proxy.kernel.dry_run import AcceptingIptables, AcceptingNft
from proxy.kernel.xtables_backend import Backend
from proxy.model.addresses import IPFamily


@dataclass(frozen=True, slots=True)
class DryPlane:
    """
    A data plane on kernels that hold nothing and accept everything.

    ``text`` returns what a family's kernel would hold, or be told, after the first
    synchronisation: input for the programs that write such things.
    """

    plane: DataPlane
    text: Callable[[FamilyProxy], str]


def build_dry_plane(config: ProxyConfig, families: Sequence[IPFamily]) -> DryPlane:
    """Return the configured mode's plane; needs no rights."""
    if config.mode == IPTABLES:
        return _iptables(families)
    return _ipvs(families) if config.mode == IPVS else _nftables(families)


def _nftables(families: Sequence[IPFamily]) -> DryPlane:
    def text(proxy: FamilyProxy) -> str:
        reconciler = proxy.reconciler
        return render_table(reconciler.table) if isinstance(reconciler, NftReconciler) else ""

    return DryPlane(NftablesPlane({family: AcceptingNft() for family in families}), text)


def _iptables(families: Sequence[IPFamily]) -> DryPlane:
    """
    Suppose a present-day iptables, and a kernel without packet counters (nfacct).

    To see which backend the node uses and which counters it has would need rights.
    """
    ports = {family: AcceptingIptables() for family in families}
    plane = IptablesPlane(
        ports,
        Backend("nft", "nothing is written"),
        KernelFacts(),
        allow_localnet=lambda: None,
    )

    def text(proxy: FamilyProxy) -> str:
        return _restore_input(proxy, ports[proxy.family])

    return DryPlane(plane, text)


def _ipvs(families: Sequence[IPFamily]) -> DryPlane:
    """Suppose an IPVS that knows the scheduler, and a present-day iptables."""
    rules = {family: AcceptingIptables() for family in families}
    servers = {family: AcceptingIpvs() for family in families}
    sets = {family: AcceptingIpset() for family in families}
    links = {family: AcceptingLinks() for family in families}
    ports = {f: IpvsPorts(servers[f], sets[f], links[f], rules[f]) for f in families}

    def text(proxy: FamilyProxy) -> str:
        family = proxy.family
        parts = (
            ("ip -batch -", links[family].lines),
            ("ipset restore", sets[family].lines),
            ("ipvsadm --restore", servers[family].lines),
        )
        told = [
            f"# {program}, {proxy.name}\n" + "".join(map("{}\n".format, lines))
            for program, lines in parts
        ]
        return "".join(told) + _restore_input(proxy, rules[family])

    return DryPlane(IpvsPlane(ports, IpvsOptions(drain_limit_s=0)), text)


def _restore_input(proxy: FamilyProxy, port: AcceptingIptables) -> str:
    header = f"# {_RESTORE[proxy.family]} --noflush, {proxy.name}\n"
    return header + "".join(port.inputs)


_RESTORE = {IPFamily.IPV4: "iptables-restore", IPFamily.IPV6: "ip6tables-restore"}
