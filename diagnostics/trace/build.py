"""Builds a node to walk through out of a snapshot."""

from __future__ import annotations

from collections.abc import Collection, Iterator

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
from diagnostics.trace.xtables import BuiltInChain, Natives
from proxy.model.addresses import IPFamily


def node_of(snapshot: NodeSnapshot, family: IPFamily) -> Node:
    """Return the node of a snapshot as packets of a family meet it."""
    facts = SnapshotFacts(snapshot)
    listeners: list[Listener] = []
    found = snapshot.rulesets(family)
    backends = () if isinstance(found, Gap) else found
    for rules in backends:
        listeners += _built_in_chains(rules, snapshot, family, facts)
    tables = snapshot.nft()
    if not isinstance(tables, Gap):
        shown = {name for rules in backends if rules.backend != _LEGACY for name in rules.tables}
        listeners += _base_chains(tables, family, facts, shown)
    servers = snapshot.ipvs()
    if not isinstance(servers, Gap):
        listeners += [IpvsHook(servers, hook) for hook in (Hook.INPUT, Hook.OUTPUT)]
    return Node(tuple(listeners), facts)


def _built_in_chains(
    rules: Ruleset, snapshot: NodeSnapshot, family: IPFamily, facts: Facts
) -> Iterator[Listener]:
    conditions, candidates = Conditions(facts), Candidates()
    for table in rules.tables.values():
        native = None
        if rules.backend != _LEGACY:
            natives = snapshot.natives(family, table.name)
            native = None if natives is None else Natives(natives, facts)
        for hook in Hook:
            if hook.name in table.chains:
                yield BuiltInChain(table, hook, conditions, candidates, native)


_LEGACY = "legacy"
_BUILT_IN = frozenset(hook.name for hook in Hook)


def _base_chains(
    ruleset: NftRuleset, family: IPFamily, facts: Facts, shown: Collection[str]
) -> Iterator[Listener]:
    """Yield base chains, but iptables' own in the tables *shown*: iptables tells their rules."""
    own = "ip" if family is IPFamily.IPV4 else "ip6"
    hooks = {hook.value for hook in Hook}
    for table in ruleset.tables.values():
        if table.family not in (own, "inet", "netdev") or "dormant" in table.flags:
            continue
        told = _BUILT_IN if table.family == own and table.name in shown else ()
        expressions = Expressions(table, facts)
        for chain in table.chains.values():
            if chain.hook in hooks and chain.name not in told:
                yield BaseChain(table, chain, expressions)
