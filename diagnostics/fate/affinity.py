"""How long clients are remembered, read from all three data planes' rules."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diagnostics.fate.frontends import Frontend, kernel_frontends
from diagnostics.iptables.matches import Recent
from diagnostics.iptables.model import Ruleset
from diagnostics.nftables.model import NftRuleset, Table
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from proxy.backends.iptables import names as chains
from proxy.backends.nftables import layout
from proxy.model.addresses import IPFamily

_NAME = re.compile(r'--comment "?([a-z0-9.-]+/[a-z0-9.-]+(?::[A-Za-z0-9.-]+)?) ')
# kube-proxy: "affinity-GTK6MW7G-ns5/svc5/tcp/p80__10.180.0.3/80", one set for each endpoint.
_SET = re.compile(r"affinity-[A-Z0-9]{8}-(?P<service>[^/]+/[^/]+)/\w+/(?P<port>[^_]*)__.*")
_LEARN = re.compile(r"affinity-learn-(\d+)")


def affinities(node: NodeSnapshot, family: IPFamily) -> dict[str, int]:
    """Return the seconds by service port; IPVS knows no names, so the frontend stands for it."""
    found: dict[str, int] = {}
    rules, tables = node.iptables(family), node.nft()
    if not isinstance(rules, Gap):
        found |= _in_iptables(rules)
    if not isinstance(tables, Gap):
        found |= _in_nftables(tables, family)
    return found | dict(_in_ipvs(node, family))


def _in_iptables(rules: Ruleset) -> Iterator[tuple[str, int]]:
    table = rules.tables.get("nat")
    for name, chain in table.chains.items() if table else ():
        if not name.startswith((chains.SERVICE, chains.LOCAL)):
            continue
        for index, raw in enumerate(chain.raw):
            named = _NAME.search(raw) if "--rcheck" in raw else None
            if named is None:
                continue
            for match in chain.rules[index].matches:
                if isinstance(match, Recent):
                    yield named[1], match.seconds or 0


def _in_nftables(tables: NftRuleset, family: IPFamily) -> Iterator[tuple[str, int]]:
    table = tables.tables.get(("ip" if family is IPFamily.IPV4 else "ip6", layout.TABLE))
    if table is None:
        return
    yield from _learnt(table)
    for name, one in table.sets.items():
        if named := _SET.fullmatch(name):
            port = f":{named['port']}" if named["port"] else ""
            yield f"{named['service']}{port}", one.timeout or 0


def _learnt(table: Table) -> Iterator[tuple[str, int]]:
    for name in (layout.AFFINITY_LEARN, layout.AFFINITY_LEARN_NODEPORTS):
        one = table.sets.get(name)
        for element in one.elements if one else ():
            if found := _LEARN.search(str(element.data)):
                yield element.comment, int(found[1])


def _in_ipvs(node: NodeSnapshot, family: IPFamily) -> Iterator[tuple[str, int]]:
    servers = node.ipvs()
    if isinstance(servers, Gap) or not servers.servers:
        return
    for frontend in kernel_frontends(node, family):
        if isinstance(frontend, Frontend) and frontend.address is not None:
            entry = servers.find(frontend.address.packed, frontend.port, frontend.protocol)
            if entry is not None and entry.server.timeout_s:
                yield frontend.text, entry.server.timeout_s
