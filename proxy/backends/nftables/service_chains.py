"""
The chains that Services share: one per number of endpoints, never one per Service.

``lb-3`` sends a packet to one of three endpoints found in a map by the address it called, so every
Service with three endpoints uses it. Around it stand chains that differ in what is done before:

    cluster-ip-lb-3          masquerade clients outside the cluster, then lb-3
    external-lb-3            masquerade always, then lb-3
    external-local-lb-3-1    pods and the node: lb-3; everybody else: local-lb-1
    sticky-lb-3              first the endpoint this client had, then lb-3
    nodeport-lb-3 …          the same, looked up by port alone
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from proxy.backends.nftables import layout
from proxy.backends.settings import Settings
from proxy.model.addresses import IPFamily
from proxy.netfilter.fields import (
    CT_ORIGINAL_DPORT,
    L4PROTO,
    TRANSPORT_DPORT,
    Key,
    ct_original_daddr,
    ct_original_saddr,
    daddr,
    random_index,
)
from proxy.netfilter.objects import Chain, rule
from proxy.netfilter.statements import (
    Statement,
    dnat_by_map,
    goto,
    protocol_is,
    remember,
    set_mark_bit,
    transport_is,
    verdict,
)
from proxy.plan.service_plan import Frontend, FrontendKind, Route


class Entry(NamedTuple):
    """Which shared chains a frontend needs; ``chains`` builds them, ``name`` is where it starts."""

    route: Route
    always_masquerade: bool
    node_port: bool
    sticky: bool
    cluster_count: int
    local_count: int


def entry_of(frontend: Frontend, sticky: bool, cluster: int, local: int) -> Entry:
    """Return the entry of a frontend with *cluster* and *local* endpoints in its pools."""
    if frontend.route is Route.CLUSTER:
        local = 0
    elif frontend.route is Route.LOCAL:
        cluster = 0
    node_port = frontend.kind is FrontendKind.NODE_PORT
    return Entry(frontend.route, frontend.always_masquerade, node_port, sticky, cluster, local)


@lru_cache(maxsize=4096)
def entry_chains(entry: Entry, settings: Settings) -> tuple[Chain, ...]:
    """Return the chains of an entry, those jumped to first; the last one is the entry itself."""
    if entry.route is Route.SHORT_CIRCUIT:
        return _short_circuit(entry, settings)
    chains = _pool(entry, settings.family, local=entry.route is Route.LOCAL)
    target = chains[-1].name
    if entry.always_masquerade:
        mark = rule(set_mark_bit(settings.mark), comment="masquerade")
        return (*chains, Chain(f"external-{target}", (mark, rule(verdict(goto(target))))))
    masquerade = layout.masquerade_outsiders(settings)
    if not masquerade:
        return chains
    return (*chains, Chain(f"cluster-ip-{target}", (*masquerade, rule(verdict(goto(target))))))


def _short_circuit(entry: Entry, settings: Settings) -> tuple[Chain, ...]:
    cluster = _pool(entry, settings.family, local=False)
    local = _pool(entry, settings.family, local=True) if entry.local_count else ()
    rules = list(layout.short_circuit(settings, cluster[-1].name))
    if local:
        rules.append(rule(verdict(goto(local[-1].name))))
    # Without local endpoints the packet returns and meets the drop in the filter chains.
    name = f"external-local-{cluster[-1].name}-{entry.local_count}"
    return (*cluster, *local, Chain(name, tuple(rules)))


def _pool(entry: Entry, family: IPFamily, *, local: bool) -> tuple[Chain, ...]:
    count = entry.local_count if local else entry.cluster_count
    prefix = ("nodeport-" if entry.node_port else "") + ("local-" if local else "")
    spread = Chain(f"{prefix}lb-{count}", (rule(*_to_random(entry, family, local, count)),))
    if not entry.sticky:
        return (spread,)
    known = rule(
        transport_is(layout.PROTOCOLS),
        dnat_by_map(family, layout.affinity_key(family), layout.AFFINITY),
    )
    sticky = Chain(f"sticky-{spread.name}", (known, rule(verdict(goto(spread.name)))))
    return (spread, sticky)


def _to_random(
    entry: Entry, family: IPFamily, local: bool, count: int
) -> tuple[Statement, Statement]:
    frontend: Key = layout.NODEPORT_KEY if entry.node_port else layout.vip_key(family)
    return (
        transport_is(layout.PROTOCOLS),
        dnat_by_map(family, (*frontend, random_index(count)), pool_map(entry.node_port, local)),
    )


def pool_map(node_port: bool, local: bool) -> str:
    """Return the name of the map that holds a pool's endpoints."""
    if node_port:
        return layout.NODEPORT_LOCAL_ENDPOINTS if local else layout.NODEPORT_ENDPOINTS
    return layout.LOCAL_ENDPOINTS if local else layout.ENDPOINTS


@lru_cache(maxsize=256)
def learn_chain(family: IPFamily, timeout_s: int) -> Chain:
    """Return the chain that remembers for *timeout_s* seconds which endpoint a client got."""
    rules = []
    for protocol in layout.PROTOCOLS:
        client = (ct_original_saddr(family), ct_original_daddr(family), L4PROTO, CT_ORIGINAL_DPORT)
        target = (daddr(family), TRANSPORT_DPORT[protocol])
        stored = remember(client, layout.AFFINITY, target, timeout_s)
        rules.append(rule(protocol_is(protocol), stored))
    return Chain(f"affinity-learn-{timeout_s}", tuple(rules))
