"""
A node as it should be: the proxy's part of its kernel replaced by what was compiled.

Rules of third parties stay as they are, so that comparing the two shows the proxy's part alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

from diagnostics.intended.compile import Compiled
from diagnostics.iptables.model import Chain, Ruleset, Table
from diagnostics.nftables.model import NftRuleset
from diagnostics.readers.addresses import Link, Links
from diagnostics.readers.ipset import IpSets
from diagnostics.readers.ipvs import IpvsTable
from diagnostics.readers.routes import NextHop, RouteEntry
from diagnostics.readers.routing import Routing
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from proxy.backends.iptables.names import KUBELET_FIREWALL
from proxy.backends.ipvs.names import DEVICE
from proxy.engine.cleanup.owned import (
    BUILT_IN_CHAINS,
    NOTHING,
    Leftovers,
    rule_words,
)
from proxy.model.addresses import IPFamily

NFT_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))
_EVERYTHING = Leftovers(NOTHING)
_OWN_SET = "KUBE-"


class IntendedNode(NodeSnapshot):
    """*actual* with the proxy's part replaced; everything else is read from *actual*."""

    def __init__(self, actual: NodeSnapshot, compiled: Compiled) -> None:
        super().__init__(actual.source, actual.name)
        self._actual = actual
        self._compiled = compiled

    def iptables(self, family: IPFamily) -> Ruleset | Gap:
        """Return the compiled rules amid those of third parties."""
        return self._once(f"intended iptables {family}", lambda: self._iptables(family))

    def _iptables(self, family: IPFamily) -> Ruleset | Gap:
        actual = self._actual.iptables(family)
        compiled = self._compiled.iptables.get(family)
        if isinstance(actual, Gap):
            return actual if compiled is None else compiled
        return overlaid(actual, compiled or Ruleset())

    def rulesets(self, family: IPFamily) -> tuple[Ruleset, ...] | Gap:
        """Return the compiled rules, and what a second backend holds of third parties."""
        mine, actual = self.iptables(family), self._actual.rulesets(family)
        if isinstance(mine, Gap):
            return actual
        others = () if isinstance(actual, Gap) else actual[1:]
        return mine, *(overlaid(other, Ruleset()) for other in others)

    def nft(self) -> NftRuleset | Gap:
        """Return the compiled tables beside those of third parties."""
        actual = self._actual.nft()
        if isinstance(actual, Gap):
            return self._compiled.nft if self._compiled.nft.tables else actual
        others = {key: table for key, table in actual.tables.items() if key not in NFT_TABLES}
        return NftRuleset({**others, **self._compiled.nft.tables}, actual.gaps)

    def ipvs(self) -> IpvsTable | Gap:
        """Return the compiled virtual servers."""
        return self._compiled.ipvs

    def ipsets(self) -> IpSets | Gap:
        """Return the compiled sets beside those of third parties."""
        actual, compiled = self._actual.ipsets(), self._compiled.ipsets
        if compiled is None:
            return actual
        if isinstance(actual, Gap):
            return compiled
        others = {name: found for name, found in actual.by_name.items() if not is_own_set(name)}
        return replace(actual, by_name={**others, **compiled.by_name})

    def links(self) -> Links | Gap:
        """Return the interfaces, kube-ipvs0 with the compiled addresses or without any."""
        actual, device = self._actual.links(), self._compiled.device
        if isinstance(actual, Gap):
            return actual
        links = {name: link for name, link in actual.by_name.items() if name != DEVICE}
        return Links(links if device is None else {**links, DEVICE: device}, actual.problems)

    def _make_routing(self) -> Routing | Gap:
        actual = self._actual.routing()
        links = self.links()
        if isinstance(actual, Gap) or isinstance(links, Gap):
            return actual
        others = [route for route in actual.routes if not _leads_to(route, DEVICE)]
        # Without a dump of the local table, addresses of the interfaces stand for it.
        dumped = {route.network.version for route in others if route.table == "local"}
        if self._compiled.device is not None:
            routes = _local_routes(self._compiled.device)
            others += [route for route in routes if route.network.version in dumped]
        return actual.replacing(links, others)


def is_own_set(name: str) -> bool:
    """Return whether an ipset is named like a node proxy's."""
    return name.startswith(_OWN_SET)


def _leads_to(route: RouteEntry, device: str) -> bool:
    return any(hop.device == device for hop in route.hops)


def _local_routes(device: Link) -> Iterator[RouteEntry]:
    for entry in device.addresses:
        hop = NextHop(device.name)
        yield RouteEntry(ip_network(entry.address), (hop,), "local", "local")


def overlaid(actual: Ruleset, compiled: Ruleset) -> Ruleset:
    """Return *actual* with every chain and jump of a node proxy replaced by *compiled*'s."""
    result = Ruleset(family=actual.family, backend=actual.backend)
    for name in {**actual.tables, **compiled.tables}:
        table = Table(name, complete=True)
        before, after = actual.tables.get(name, Table(name)), compiled.tables.get(name, Table(name))
        for chain in before.chains.values():
            if chain.name in BUILT_IN_CHAINS:
                jumps = after.chains.get(chain.name)
                table.chains[chain.name] = _built_in(name, chain, jumps)
            elif not _EVERYTHING.has_chain(name, chain.name):
                table.chains[chain.name] = chain
        for chain in after.chains.values():
            if chain.name == KUBELET_FIREWALL and chain.name in table.chains:
                table.chains[chain.name] = _joined(table.chains[chain.name], chain)
            else:
                table.chains.setdefault(chain.name, chain)
        result.tables[name] = table
    return result


def _built_in(table: str, chain: Chain, jumps: Chain | None) -> Chain:
    """
    Return a built-in chain whose jumps to a proxy's chains are the compiled ones.

    A jump that is there stays in its place: third parties may stand before it on purpose.
    """
    wanted = list(jumps.raw) if jumps else []
    result = Chain(chain.name, chain.policy)
    for raw in chain.raw:
        kept = _matching(raw, wanted)
        if kept:
            wanted.remove(kept)
            result.rules.raw.append(kept)
        elif not _EVERYTHING.has_jump(table, chain.name, raw):
            result.rules.raw.append(raw)
    result.rules.raw[:0] = wanted
    return result


def _matching(raw: str, wanted: list[str]) -> str | None:
    if raw in wanted:
        return raw
    words = rule_words(raw)
    return next((one for one in wanted if rule_words(one) == words), None)


def _joined(actual: Chain, compiled: Chain) -> Chain:
    """Return kubelet's chain with the rules that the proxy needs in it."""
    result = Chain(actual.name, actual.policy)
    result.rules.raw.extend(actual.raw)
    result.rules.raw.extend(raw for raw in compiled.raw if _matching(raw, list(actual.raw)) is None)
    return result
