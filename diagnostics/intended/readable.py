"""Whether a node's rules are known well enough to be compared with compiled ones."""

from __future__ import annotations

from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from proxy.config.types import IPVS, NFTABLES
from proxy.model.addresses import IPFamily


def readable_families(
    node: NodeSnapshot, mode: str
) -> tuple[tuple[IPFamily, ...], tuple[Gap, ...]]:
    """Return the families whose rules of a mode are known, and why others are not."""
    shared = {NFTABLES: node.nft, IPVS: node.ipvs}.get(mode)
    found = shared() if shared else None
    if isinstance(found, Gap):
        return (), (found,)
    if mode == NFTABLES:
        return tuple(IPFamily), ()
    rules = {family: node.iptables(family) for family in IPFamily}
    gaps = {family: one for family, one in rules.items() if isinstance(one, Gap)}
    return tuple(family for family in rules if family not in gaps), tuple(gaps.values())
