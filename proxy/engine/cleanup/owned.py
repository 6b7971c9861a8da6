"""
Which chains and jumps of the iptables tables belong to a node proxy, by mode.

The two modes share names: nat KUBE-SERVICES is both, and both lead to filter KUBE-PROXY-FIREWALL,
but with different jumps. So what is a leftover depends on what is running.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from proxy.backends.iptables import names as iptables_names
from proxy.backends.ipvs import names as ipvs_names
from proxy.backends.xtables import FILTER, MANGLE, NAT, Jump

TABLES = (NAT, FILTER, MANGLE)
BUILT_IN_CHAINS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})

JumpKey = tuple[str, str, tuple[str, ...]]  # table, chain, words of the rule
# Chains for external traffic, until Kubernetes 1.24 renamed them to KUBE-EXT-.
_OLD_PREFIX = "KUBE-XLB-"


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """
    What one mode keeps in the iptables tables.

    Attributes:
        chains: (table, name) of its fixed chains; those shared with kubelet are not among them.
        service_prefixes: what the names of further chains in the nat table begin with.
        jumps: from built-in chains to its own.
    """

    chains: frozenset[tuple[str, str]]
    service_prefixes: tuple[str, ...]
    jumps: tuple[Jump, ...]

    def owns(self, table: str, chain: str) -> bool:
        """Return whether a chain is of this mode."""
        if (table, chain) in self.chains:
            return True
        return table == NAT and chain.startswith(self.service_prefixes)


def _in_table(table: str, chains: Iterable[str]) -> frozenset[tuple[str, str]]:
    return frozenset((table, chain) for chain in chains)


NOTHING = ProxyRules(frozenset(), (), ())
IPTABLES = ProxyRules(
    chains=_in_table(NAT, iptables_names.NAT_CHAINS)
    | _in_table(FILTER, iptables_names.FILTER_CHAINS)
    | frozenset((table, iptables_names.CANARY) for table in iptables_names.CANARY_TABLES),
    service_prefixes=iptables_names.SERVICE_PREFIXES,
    jumps=iptables_names.JUMPS,
)
IPVS = ProxyRules(
    chains=_in_table(NAT, ipvs_names.NAT_CHAINS) | _in_table(FILTER, ipvs_names.FILTER_CHAINS),
    service_prefixes=(),
    jumps=ipvs_names.JUMPS,
)
_ALL = ProxyRules(
    chains=IPTABLES.chains | IPVS.chains,
    service_prefixes=(*IPTABLES.service_prefixes, _OLD_PREFIX),
    jumps=(*IPTABLES.jumps, *IPVS.jumps),
)


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is to go while *running* stays; NOTHING runs when all is to go."""

    running: ProxyRules

    def has_chain(self, table: str, chain: str) -> bool:
        """Return whether a chain is to go."""
        return _ALL.owns(table, chain) and not self.running.owns(table, chain)

    def has_jump(self, table: str, chain: str, rule: str) -> bool:
        """
        Return whether a rule of a built-in chain is to go.

        That is every rule that leads to a chain which is to go, in whatever form: older releases
        wrote other ones. Of rules that lead to a chain which stays, only the exact jumps of the
        other mode.
        """
        words = rule_words(rule)
        target = target_of(words)
        if target == "":
            return False
        if self.has_chain(table, target):
            return True
        key = (table, chain, words)
        return key in jump_keys(_ALL.jumps) and key not in jump_keys(self.running.jumps)


def rule_words(rule: str) -> tuple[str, ...]:
    """Return the words of a rule; empty when its quotes do not match."""
    try:
        return tuple(shlex.split(rule))
    except ValueError:
        return ()


def target_of(words: tuple[str, ...]) -> str:
    """
    Return the user-defined chain a rule may lead to, "" for none.

    Such a target is listed last and takes no options, so nothing that follows ``--comment`` or
    ``--log-prefix`` can be mistaken for it.
    """
    if len(words) >= 2 and words[-2] in ("-j", "-g"):
        return words[-1]
    return ""


@cache
def jump_keys(jumps: tuple[Jump, ...]) -> frozenset[JumpKey]:
    """Return jumps in a form in which a listed rule can be looked up."""
    return frozenset((jump.table, jump.chain, tuple(jump.arguments)) for jump in jumps)
