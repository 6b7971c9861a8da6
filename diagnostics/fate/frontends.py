"""The frontends that a kernel serves or refuses, read from all three data planes' rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from diagnostics.iptables.model import Ruleset
from diagnostics.nftables.elements import Element
from diagnostics.nftables.model import NamedSet, NftRuleset
from diagnostics.readers.ipvs import IpvsTable
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from diagnostics.trace.packet import PROTOCOL_NAMES, PROTOCOLS, Address, place_text
from proxy.backends.iptables import names as chains
from proxy.backends.ipvs.names import DEVICE
from proxy.backends.nftables import layout
from proxy.model.addresses import IPFamily
from proxy.plan.planner import Planner
from proxy.plan.service_plan import ServicePortPlan


class Frontend(NamedTuple):
    """One address and port that clients call; ``address`` is None for a NodePort."""

    address: Address | None
    port: int
    protocol: int

    @property
    def text(self) -> str:
        """``10.96.0.10:80/TCP`` or ``NodePort 30080/TCP``."""
        protocol = PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        if self.address is None:
            return f"NodePort {self.port}/{protocol}"
        return f"{place_text(self.address, self.port)}/{protocol}"


Frontends = dict[Frontend, str]
"""The service port that each belongs to, ``shop/web:http``, or "" where nothing tells."""


def planned_frontends(planner: Planner) -> Frontends:
    """Return the frontends that a node proxy should know."""
    return {
        frontend: str(plan.name)
        for plan in planner.all_effective()
        for frontend in frontends_of(plan)
    }


def frontends_of(plan: ServicePortPlan) -> Iterator[Frontend]:
    """Yield the frontends of one service port."""
    for one in plan.frontends:
        yield Frontend(ip_address(one.address) if one.address else None, one.port, plan.protocol)


def kernel_frontends(node: NodeSnapshot, family: IPFamily) -> Frontends:
    """Return the frontends that a node's rules name, with the Service in their comments."""
    found: Frontends = {}
    rules, tables, servers = node.iptables(family), node.nft(), node.ipvs()
    if not isinstance(rules, Gap):
        found |= _in_iptables(rules)
    if not isinstance(tables, Gap):
        found |= _in_nftables(tables, family)
    if not isinstance(servers, Gap) and servers.servers:
        for frontend in _in_ipvs(servers, family, _node_addresses(node)):
            found.setdefault(frontend, "")
    return found


# -- iptables --------------------------------------------------------------------------------

_DISPATCHING = {
    "nat": (chains.SERVICES, chains.NODEPORTS),
    "filter": (chains.SERVICES, chains.EXTERNAL_SERVICES, chains.PROXY_FIREWALL),
}
_RULE = re.compile(r"(?:-d (\S+?)/(?:32|128) )?-p (tcp|udp|sctp) .*--dport (\d+) ")
_NAME = re.compile(r'--comment "?([a-z0-9.-]+/[a-z0-9.-]+(?::[A-Za-z0-9.-]+)?)[" ]')


def _in_iptables(rules: Ruleset) -> Iterator[tuple[Frontend, str]]:
    for table, wanted in _DISPATCHING.items():
        for name in wanted:
            chain = rules.chain(table, name)
            for raw in chain.raw if chain else ():
                found = _RULE.match(raw)
                if found is None:
                    continue
                address = ip_address(found[1]) if found[1] else None
                named = _NAME.search(raw)
                frontend = Frontend(address, int(found[3]), PROTOCOLS[found[2].upper()])
                yield frontend, named[1] if named else ""


# -- nftables --------------------------------------------------------------------------------

_DISPATCH_MAPS = (
    layout.SERVICE_IPS,
    layout.SERVICE_NODEPORTS,
    layout.NO_ENDPOINT_SERVICES,
    layout.NO_ENDPOINT_NODEPORTS,
    layout.FIREWALL_IPS,
)
# kube-proxy's chains: "service-4AT6LBPK-shop/web/tcp/http", "external-…", "firewall-…".
_CHAIN = re.compile(r"[a-z]+-[A-Z0-9]{8}-([^/]+/[^/]+)/\w+/(.*)")


def _in_nftables(tables: NftRuleset, family: IPFamily) -> Iterator[tuple[Frontend, str]]:
    table = tables.tables.get(("ip" if family is IPFamily.IPV4 else "ip6", layout.TABLE))
    for name in _DISPATCH_MAPS:
        found = table.sets.get(name) if table else None
        if found is not None:
            yield from _elements(found)


def _elements(found: NamedSet) -> Iterator[tuple[Frontend, str]]:
    for element in found.elements:
        if not element.spans or len(element.spans) not in (2, 3):
            continue
        *addresses, protocol, port = (low for low, _ in element.spans)
        address = None
        if addresses:
            address = ip_address(addresses[0].to_bytes(_BYTES[found.key_types[0]], "big"))
        yield Frontend(address, port, protocol), _service(element)


_BYTES = {"ipv4_addr": 4, "ipv6_addr": 16}


def _service(element: Element) -> str:
    if element.comment:
        return element.comment
    data = element.data
    target = next(iter(data.values()), None) if isinstance(data, dict) else None
    named = _CHAIN.fullmatch(str(target.get("target", ""))) if isinstance(target, dict) else None
    if named is None:
        return ""
    return f"{named[1]}:{named[2]}" if named[2] else named[1]


# -- IPVS ------------------------------------------------------------------------------------


def _node_addresses(node: NodeSnapshot) -> frozenset[bytes]:
    links = node.links()
    if isinstance(links, Gap):
        return frozenset()
    return frozenset(
        entry.address.packed for link, entry in links.addresses() if link.name != DEVICE
    )


def _in_ipvs(servers: IpvsTable, family: IPFamily, own: frozenset[bytes]) -> Iterator[Frontend]:
    length = 4 if family is IPFamily.IPV4 else 16
    for entry in servers.servers:
        key = entry.server.key
        if len(key.address) == length and not entry.fwmark:
            address = None if key.address in own else ip_address(key.address)
            yield Frontend(address, key.port, key.protocol)
