"""Counts everything that a node's rules consist of."""

from __future__ import annotations

from diagnostics.cluster.names import Names
from diagnostics.nftables.collector import paused_collector
from diagnostics.rules.iptables import count_iptables
from diagnostics.rules.ipvs import count_ipsets, count_ipvs
from diagnostics.rules.known import KnownEndpoints
from diagnostics.rules.model import Inventory
from diagnostics.rules.nftables import count_nftables
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import FACTS, Gap, Part
from proxy.model.addresses import IPFamily

_FAMILIES = {IPFamily.IPV4: "ip", IPFamily.IPV6: "ip6"}
# Tables in which iptables' nf_tables backend keeps its rules.
_IPTABLES = frozenset({"raw", "mangle", "nat", "filter", "security"})


_COUNTED = (Part.IPTABLES, Part.IP6TABLES, Part.NFT_JSON, Part.IPVS, Part.IPSET, Part.SLICES)
_PLANNED = (Part.SERVICES, Part.SLICES, Part.NODES, Part.CONFIG)


def relevant_gaps(snapshot: NodeSnapshot, *, prediction: bool = False) -> list[Gap]:
    """Return the gaps met so far that make an inventory, or a prediction, incomplete."""
    names = {FACTS[part].what for part in (_PLANNED if prediction else _COUNTED)}
    return [one for one in snapshot.gaps() if one.what in names]


def take_inventory(snapshot: NodeSnapshot) -> Inventory | None:
    """
    Return the counts of a node's rules, None when there are no rules to count.

    What could not be read is among the gaps of *snapshot*.
    """
    inventory = Inventory()
    with paused_collector():
        known = _iptables(inventory, snapshot)
        tables = snapshot.nft()
        if not isinstance(tables, Gap):
            count_nftables(inventory, tables, _IPTABLES if known else frozenset())
        servers = snapshot.ipvs()
        if not isinstance(servers, Gap) and servers.servers:
            count_ipvs(inventory, servers, Names.of(snapshot))
        sets = snapshot.ipsets()
        if not isinstance(sets, Gap):
            count_ipsets(inventory, sets)
    nothing = not known and all(isinstance(part, Gap) for part in (tables, servers))
    return None if nothing else inventory


def _iptables(inventory: Inventory, snapshot: NodeSnapshot) -> bool:
    """Count both families; return whether one of them is known."""
    known = False
    slices = snapshot.objects().slices
    endpoints = None if slices is None else KnownEndpoints(slices)
    sets = snapshot.ipsets()
    for family, name in _FAMILIES.items():
        rules = snapshot.iptables(family)
        if not isinstance(rules, Gap):
            known = True
            usable = None if isinstance(sets, Gap) else sets
            count_iptables(inventory, rules, name, endpoints, usable)
    return known
