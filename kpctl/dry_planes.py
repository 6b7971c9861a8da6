"""Data planes that write nothing, and what they would have written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.backends.nftables.text import render_table
from proxy.config.types import IPTABLES, NFTABLES, ProxyConfig
from proxy.engine.data_plane import DataPlane
from proxy.engine.family import FamilyProxy
from proxy.engine.iptables.plane import IptablesPlane, KernelFacts
from proxy.engine.nftables.plane import NftablesPlane
from proxy.engine.nftables.reconciler import NftReconciler
from proxy.kernel.dry_run import AcceptingIptables, AcceptingNft
from proxy.kernel.xtables_backend import Backend
from proxy.model.addresses import IPFamily


@dataclass(frozen=True, slots=True)
class DryPlane:
    """
    A data plane on kernels that hold nothing and accept everything.

    ``text`` returns what a family's kernel would hold, or be told, after the first
    synchronisation: input for the program that writes such rules.
    """

    plane: DataPlane
    text: Callable[[FamilyProxy], str]


def build_dry_plane(config: ProxyConfig, families: Sequence[IPFamily]) -> DryPlane | None:
    """Return the configured mode's plane, None for a mode that cannot be shown; needs no rights."""
    build = _BUILDERS.get(config.mode)
    return build(families) if build else None


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
        program = _RESTORE[proxy.family]
        header = f"# {program} --noflush, {proxy.name}\n"
        return header + "".join(ports[proxy.family].inputs)

    return DryPlane(plane, text)


_RESTORE = {IPFamily.IPV4: "iptables-restore", IPFamily.IPV6: "ip6tables-restore"}
_BUILDERS: Mapping[str, Callable[[Sequence[IPFamily]], DryPlane]] = {
    NFTABLES: _nftables,
    IPTABLES: _iptables,
}
