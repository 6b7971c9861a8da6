"""The proxy's rules against the compiled ones, rule by rule, and what other modes left behind."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.drift import (
    iptables_rules,
    ipvs_servers,
    nftables_affinity,
    nftables_rules,
)
from diagnostics.drift.calls import FamilyCalls
from diagnostics.fate.difference import Difference
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from proxy.config.types import IPVS, NFTABLES
from proxy.model.addresses import IPFamily


def structure(
    node: NodeSnapshot, intended: NodeSnapshot, asked: FamilyCalls
) -> Iterator[Difference]:
    """Yield what differs in one family's rules; what all families share with IPv4 alone."""
    mode, family = asked.cluster.config.mode, asked.family
    if mode == NFTABLES:
        yield from _nftables(node, intended, asked)
    else:
        yield from _iptables(node, intended, asked)
    rules = node.iptables(family)
    if not isinstance(rules, Gap):
        yield from iptables_rules.leftovers(rules, mode, family.value)
    if family is IPFamily.IPV4:
        yield from _leftovers(node, asked)


def _nftables(
    node: NodeSnapshot, intended: NodeSnapshot, asked: FamilyCalls
) -> Iterator[Difference]:
    actual, wanted = node.nft(), intended.nft()
    if isinstance(actual, Gap) or isinstance(wanted, Gap):
        return
    missing = nftables_rules.missing_table(actual, asked.family)
    if missing is not None:
        yield missing
        return
    yield from nftables_rules.edited(actual, wanted, asked.family)
    table = nftables_rules.table_of(actual, asked.family)
    if table is not None and not nftables_rules.is_ours(table):
        planner = asked.cluster.planners[asked.family]
        yield from nftables_affinity.edited(table, planner, asked.family)


def _iptables(
    node: NodeSnapshot, intended: NodeSnapshot, asked: FamilyCalls
) -> Iterator[Difference]:
    mode, family = asked.cluster.config.mode, asked.family
    actual, wanted = node.iptables(family), intended.iptables(family)
    if isinstance(actual, Gap) or isinstance(wanted, Gap):
        return
    if asked.planned or iptables_rules.is_served(actual):
        # Else the proxy may be one of the other family alone, and nobody misses anything.
        yield from iptables_rules.edited(actual, wanted, mode, family.value)
    servers, compiled = node.ipvs(), intended.ipvs()
    if mode == IPVS and not isinstance(servers, Gap) and not isinstance(compiled, Gap):
        yield from ipvs_servers.edited(servers, compiled, asked.planned, family)


def _leftovers(node: NodeSnapshot, asked: FamilyCalls) -> Iterator[Difference]:
    mode = asked.cluster.config.mode
    tables, servers = node.nft(), node.ipvs()
    if mode != NFTABLES and not isinstance(tables, Gap):
        yield from nftables_rules.leftover_tables(tables, mode)
    if mode != IPVS and not isinstance(servers, Gap):
        yield from ipvs_servers.leftover_servers(servers, asked.planned, mode)
