"""
The map and set elements of one service port.

Elements are the only thing that changes when Services or endpoints change, so this is the hot
path: keys are packed bytes, and a service port's elements are computed anew from its plan and its
placement whenever they are needed instead of being kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from proxy.backends.nftables import layout
from proxy.backends.nftables.service_chains import entry_chains, entry_of, learn_chain, pool_map
from proxy.backends.settings import Settings
from proxy.netfilter.objects import Chain
from proxy.netfilter.statements import DROP, Verdict, goto
from proxy.plan.service_plan import (
    Frontend,
    FrontendKind,
    Refusal,
    Route,
    ServicePortPlan,
    Target,
)

ElementKey = tuple[str, bytes]  # set name, packed key
# Data of a map, end of a range, the verdict of a verdict map, or b"" for a plain set.
ElementValue = bytes | Verdict
Elements = dict[ElementKey, ElementValue]


class Placed(NamedTuple):
    """A plan together with the order in which its endpoints stand in the maps."""

    plan: ServicePortPlan
    cluster: tuple[Target, ...]
    local: tuple[Target, ...]


def place(plan: ServicePortPlan, before: Placed | None) -> Placed:
    """Return *plan* with endpoints placed so that as few of them as possible move."""
    if before is None:
        return Placed(plan, plan.cluster, plan.local)
    return Placed(
        plan, _keep_places(before.cluster, plan.cluster), _keep_places(before.local, plan.local)
    )


def _keep_places(before: tuple[Target, ...], wanted: tuple[Target, ...]) -> tuple[Target, ...]:
    """
    Return *wanted* in an order close to *before*.

    Who stays keeps its index; newcomers fill the gaps; a gap left over is filled from the end. So
    one endpoint that leaves costs at most two elements, however many there are.
    """
    if before == wanted:
        return before
    staying = set(wanted)
    placed: list[Target | None] = [t if t in staying else None for t in before]
    known = set(before)
    newcomers = [target for target in wanted if target not in known]
    gaps = [index for index, target in enumerate(placed) if target is None]
    for index, target in zip(gaps, newcomers, strict=False):
        placed[index] = target
    placed += newcomers[len(gaps) :]
    for index in gaps[len(newcomers) :]:
        while placed and placed[-1] is None:
            placed.pop()
        if index < len(placed):
            placed[index] = placed.pop()
    return tuple(target for target in placed if target is not None)


def port_elements(placed: Placed, settings: Settings) -> tuple[Elements, list[Chain]]:
    """Return the elements that belong to one service port alone, and the chains they need."""
    elements: Elements = {}
    chains: list[Chain] = []
    for frontend in placed.plan.frontends:
        _add_frontend(elements, chains, placed, frontend, settings)
    return elements, chains


def _add_frontend(
    elements: Elements,
    chains: list[Chain],
    placed: Placed,
    frontend: Frontend,
    settings: Settings,
) -> None:
    node_port = frontend.kind is FrontendKind.NODE_PORT
    key = frontend_key(placed.plan.protocol, frontend)
    if frontend.refusal is not Refusal.NONE:
        name = layout.NO_ENDPOINT_NODEPORTS if node_port else layout.NO_ENDPOINT_SERVICES
        elements[name, key] = _REFUSALS[frontend.refusal]
    if frontend.restricted:
        elements[layout.FIREWALL_IPS, key] = _TO_SOURCES
        for network in placed.plan.allowed_sources:
            first = key + network.network_address.packed
            elements[layout.ALLOWED_SOURCES, first] = key + network.broadcast_address.packed
    if frontend.route is Route.NOWHERE:
        return
    sticky = placed.plan.affinity_timeout_s > 0
    entry = entry_of(frontend, sticky, len(placed.cluster), len(placed.local))
    needed = entry_chains(entry, settings)
    chains += needed
    name = layout.SERVICE_NODEPORTS if node_port else layout.SERVICE_IPS
    elements[name, key] = goto(needed[-1].name)
    for pool_name, targets in _pools(frontend, placed):
        for index, target in enumerate(targets):
            elements[pool_name, key + index.to_bytes(4, "little")] = pad(target)
    if sticky:
        _add_affinity(elements, chains, placed, frontend, settings)


_REFUSALS = {Refusal.REJECT: goto(layout.REJECT_CHAIN), Refusal.DROP: DROP}
_TO_SOURCES = goto(layout.SOURCES_CHAIN)


def _add_affinity(
    elements: Elements,
    chains: list[Chain],
    placed: Placed,
    frontend: Frontend,
    settings: Settings,
) -> None:
    chain = learn_chain(settings.family, placed.plan.affinity_timeout_s)
    chains.append(chain)
    node_port = frontend.kind is FrontendKind.NODE_PORT
    name = layout.AFFINITY_LEARN_NODEPORTS if node_port else layout.AFFINITY_LEARN
    key = frontend_key(placed.plan.protocol, frontend)
    for _, targets in _pools(frontend, placed):
        for target in targets:
            elements[name, key + pad(target)] = goto(chain.name)


def _pools(frontend: Frontend, placed: Placed) -> Iterator[tuple[str, tuple[Target, ...]]]:
    node_port = frontend.kind is FrontendKind.NODE_PORT
    if frontend.route in (Route.CLUSTER, Route.SHORT_CIRCUIT):
        yield pool_map(node_port, local=False), placed.cluster
    if frontend.route in (Route.LOCAL, Route.SHORT_CIRCUIT):
        yield pool_map(node_port, local=True), placed.local


def shared_elements(plan: ServicePortPlan) -> Iterator[ElementKey]:
    """Yield the elements that other service ports may need too; they are counted."""
    for frontend in plan.frontends:
        if frontend.kind is FrontendKind.CLUSTER_IP:
            yield layout.CLUSTER_IPS, frontend.address
    for address in plan.hairpins:
        yield layout.HAIRPIN, address + address


def frontend_key(protocol: int, frontend: Frontend) -> bytes:
    """Return the packed key of a frontend: address, protocol and port, each padded to four."""
    port = frontend.port.to_bytes(2, "big")
    return frontend.address + bytes((protocol, 0, 0, 0)) + port + b"\0\0"


def pad(target: Target) -> bytes:
    """Return a target as map data: address, then the port padded to four bytes."""
    return target + b"\0\0"
