"""Builds a node to walk through out of a snapshot."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.iptables.model import Ruleset
from diagnostics.nftables.model import NftRuleset
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from diagnostics.trace.candidates import Candidates
from diagnostics.trace.conditions import Conditions
from diagnostics.trace.facts import Facts
from diagnostics.trace.ipvs import IpvsHook
from diagnostics.trace.nft_values import Expressions
from diagnostics.trace.nftables import BaseChain
from diagnostics.trace.node import Hook, Listener, Node
from diagnostics.trace.snapshot_facts import SnapshotFacts
from diagnostics.trace.xtables import BuiltInChain
from proxy.model.addresses import IPFamily


def node_of(snapshot: NodeSnapshot, family: IPFamily) -> Node:
    """Return the node of a snapshot as packets of a family meet it."""
    facts = SnapshotFacts(snapshot)
    listeners: list[Listener] = []
    rules = snapshot.iptables(family)
    if not isinstance(rules, Gap):
        listeners += _built_in_chains(rules, facts)
    tables = snapshot.nft()
    if not isinstance(tables, Gap):
        listeners += _base_chains(tables, family, facts, iptables=bool(listeners))
    servers = snapshot.ipvs()
    if not isinstance(servers, Gap):
        listeners += [IpvsHook(servers, hook) for hook in (Hook.INPUT, Hook.OUTPUT)]
    return Node(tuple(listeners), facts)


def _built_in_chains(rules: Ruleset, facts: Facts) -> Iterator[Listener]:
    conditions, candidates = Conditions(facts), Candidates()
    for table in rules.tables.values():
        for hook in Hook:
            if hook.name in table.chains:
                yield BuiltInChain(table, hook, conditions, candidates)


# Tables that iptables-nft keeps; iptables-save shows their rules better.
_IPTABLES = frozenset({"raw", "mangle", "nat", "filter", "security"})


def _base_chains(
    ruleset: NftRuleset, family: IPFamily, facts: Facts, *, iptables: bool
) -> Iterator[Listener]:
    own = "ip" if family is IPFamily.IPV4 else "ip6"
    hooks = {hook.value for hook in Hook}
    for table in ruleset.tables.values():
        if table.family not in (own, "inet") or "dormant" in table.flags:
            continue
        if iptables and table.family == own and table.name in _IPTABLES:
            continue
        expressions = Expressions(table, facts)
        for chain in table.chains.values():
            if chain.hook in hooks:
                yield BaseChain(table, chain, expressions)
