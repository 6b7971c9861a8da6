"""
Compares two snapshots by following the same calls through both.

The order of rules, counters, names of chains, and even the data plane may differ without making a
difference; what counts is what becomes of calls.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from diagnostics.cluster.plans import Cluster, ObjectsMissing, load_cluster
from diagnostics.fate.affinity import affinities
from diagnostics.fate.clients import (
    OWN_ENDPOINT,
    Client,
    Clients,
    clients_of,
    local_endpoints,
)
from diagnostics.fate.compare import changes
from diagnostics.fate.difference import Difference, Kind
from diagnostics.fate.frontends import Frontends, kernel_frontends, planned_frontends
from diagnostics.fate.judge import differences
from diagnostics.fate.probes import Call, Oracle, calls
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from diagnostics.trace.packet import Address
from diagnostics.trace.question import Tracer
from proxy.model.addresses import IPFamily


@dataclass(frozen=True, slots=True)
class DiffReport:
    """
    What differs from *before* to *after*.

    MISSING is what only *before* serves, STALE what only *after* does. ``undetermined`` says why
    there is no answer, "" when there is one.
    """

    frontends: int = 0
    differences: tuple[Difference, ...] = ()
    gaps: tuple[Gap, ...] = ()
    undetermined: str = ""


def find_diff(before: NodeSnapshot, after: NodeSnapshot) -> DiffReport:
    """Return how calls end differently on two nodes, or on one at two times."""
    gaps = tuple(gap for node in (before, after) if (gap := _blind(node)) is not None)
    if gaps:
        return DiffReport(gaps=gaps, undetermined="one side has no rules that could be read")
    clusters = [one for one in (_cluster(after), _cluster(before)) if one is not None]
    cluster = next(iter(clusters), None)
    old, new = Oracle(Tracer(before)), Oracle(Tracer(after))
    found: list[Difference] = []
    total = 0
    for family in IPFamily:
        frontends = _frontends(after, family) | _frontends(before, family)
        total += len(frontends)
        clients = clients_of(after, cluster, family)
        here = {address for one in clusters for address in local_endpoints(one, family)}
        asked = _calls(frontends, clients, old, here if clusters else None)
        found += differences(family.value, changes(asked, old, new))
        found += _affinity(before, after, family)
    return DiffReport(total, tuple(found))


def _blind(node: NodeSnapshot) -> Gap | None:
    """Return the gap when no rules of any data plane are known."""
    parts = [node.iptables(family) for family in IPFamily]
    gaps = [part for part in (*parts, node.nft(), node.ipvs()) if isinstance(part, Gap)]
    return gaps[0] if len(gaps) == len(parts) + 2 else None


def _cluster(node: NodeSnapshot) -> Cluster | None:
    try:
        return load_cluster(node)
    except ObjectsMissing:
        return None


def _frontends(node: NodeSnapshot, family: IPFamily) -> Frontends:
    """Return what a node's rules name, with the names that the API tells."""
    found = kernel_frontends(node, family)
    cluster = _cluster(node)
    planned = planned_frontends(cluster.planners[family]) if cluster else {}
    return {frontend: name or planned.get(frontend, "") for frontend, name in found.items()}


def _calls(
    frontends: Frontends, clients: Clients, oracle: Oracle, here: Container[Address] | None
) -> Iterator[tuple[str, Call]]:
    for frontend, name in frontends.items():
        plain = list(calls(frontend, clients))
        for call in (*plain, *_by_itself(plain, oracle, here)):
            yield name, call


def _by_itself(
    plain: Iterable[Call], oracle: Oracle, here: Container[Address] | None
) -> Iterator[Call]:
    """
    Yield the call of an endpoint to its own Service, whose source must be rewritten.

    It is one of those *here*, on this node, if that is known: others do not call through it.
    """
    for call in plain:
        found = [target.address for target, _ in oracle.outcome(call).shares]
        if found:
            mine = [address for address in found if here is None or address in here]
            for address in mine[:1]:
                yield Call(Client(OWN_ENDPOINT, address), call.frontend, call.address)
            return


def _affinity(before: NodeSnapshot, after: NodeSnapshot, family: IPFamily) -> Iterator[Difference]:
    old, new = affinities(before, family), affinities(after, family)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and before.mode().mode == after.mode().mode:
            words = [_remembered(one.get(name)) for one in (old, new)]
            yield Difference(Kind.AFFINITY, name, family.value, ("clients",), words[0], words[1])


def _remembered(seconds: int | None) -> str:
    return "are not remembered" if seconds is None else f"are remembered for {seconds} s"
