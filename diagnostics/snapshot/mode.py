"""Which of kube-proxy's modes a node is in: as configured, else as its kernel looks."""

from __future__ import annotations

import re
from dataclasses import dataclass

# What only a proxy in that mode leaves in the kernel; kube-proxy's canary chains say nothing.
_NFTABLES = re.compile(r'"name": ?"kube-proxy"|table ip6? kube-proxy')
_IPTABLES = re.compile(r"^-A KUBE-SERVICES .*-j KUBE-SVC-", re.MULTILINE)
_IPTABLES_CHAIN = re.compile(r"^:KUBE-SERVICES ", re.MULTILINE)
_IPVS_RULES = re.compile(r"--match-set KUBE-(?:6-)?CLUSTER-IP ")


@dataclass(frozen=True, slots=True)
class ModeGuess:
    """A mode, "" when nothing tells; ``others`` are modes that left traces as well."""

    mode: str
    why: str
    others: tuple[str, ...] = ()


def guess_mode(configured: str, iptables: str | None, nft: str | None, ipvs: bool) -> ModeGuess:
    """
    Return the mode of a node.

    Args:
        configured: ``mode`` of the configuration, "" when it is not known.
        iptables: The rules of both families as iptables-save prints them, None if not known.
        nft: The ruleset as text or JSON, None if not known.
        ipvs: Whether there are virtual servers.
    """
    found = []
    if nft is not None and _NFTABLES.search(nft):
        found.append(("nftables", "there is a table kube-proxy"))
    if iptables is not None and _IPVS_RULES.search(iptables):
        found.append(("ipvs", "iptables asks the ipset KUBE-CLUSTER-IP"))
    elif ipvs:
        found.append(("ipvs", "there are IPVS virtual servers"))
    if iptables is not None and _IPTABLES.search(iptables):
        found.append(("iptables", "KUBE-SERVICES leads to KUBE-SVC chains"))
    elif not found and iptables is not None and _IPTABLES_CHAIN.search(iptables):
        found.append(("iptables", "there is a chain KUBE-SERVICES"))
    seen = tuple(mode for mode, _ in found)
    if configured:
        others = tuple(mode for mode in seen if mode != configured)
        return ModeGuess(configured, "its configuration says so", others)
    if not found:
        return ModeGuess("", "neither configuration nor rules of a proxy were found")
    return ModeGuess(*found[0], seen[1:])
