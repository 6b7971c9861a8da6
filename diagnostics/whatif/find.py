"""Which calls end differently once a proxy has followed changed API objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diagnostics.cluster.plans import Cluster, load_cluster
from diagnostics.fate.clients import Clients, clients_of, special_clients
from diagnostics.fate.compare import changes
from diagnostics.fate.difference import Difference, Kind
from diagnostics.fate.frontends import frontends_of
from diagnostics.fate.judge import differences
from diagnostics.fate.probes import Call, Oracle, calls
from diagnostics.intended.compile import compile_cluster
from diagnostics.intended.node import IntendedNode
from diagnostics.readers.objects import ClusterObjects
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from diagnostics.trace.question import Tracer
from proxy.model.addresses import IPFamily
from proxy.model.services import ServicePortName
from proxy.plan.service_plan import ServicePortPlan


@dataclass(frozen=True, slots=True)
class WhatIfReport:
    """
    What would change on one node.

    MISSING is what would not be served any more, STALE what would be served anew. ``touched`` are
    the service ports whose plan changes.
    """

    node: str
    mode: str
    touched: tuple[str, ...]
    differences: tuple[Difference, ...]
    gaps: tuple[Gap, ...]


def find_changes(node: NodeSnapshot, objects: ClusterObjects) -> WhatIfReport:
    """
    Return what becomes different on a node if the API had *objects* instead of its own.

    Both sides are compiled, so that drift of the node does not mix in.

    Raises:
        ObjectsMissing: The node's own objects are not known.
        CannotCompile: The configuration cannot work.
    """
    before, after = load_cluster(node), load_cluster(node, objects)
    old = Oracle(Tracer(IntendedNode(node, compile_cluster(before))))
    new = Oracle(Tracer(IntendedNode(node, compile_cluster(after))))
    found: list[Difference] = []
    touched: list[str] = []
    for family in IPFamily:
        plans = list(_changed(before, after, family))
        touched += [str(_either(*pair).name) for pair in plans]
        clients = clients_of(node, after, family)
        asked = (pair for plan in plans for pair in _calls(*plan, clients))
        found += differences(family.value, changes(asked, old, new))
        for one, other in plans:
            found += _affinity(one, other, family)
    return WhatIfReport(
        before.node_name, before.config.mode, tuple(touched), tuple(found), before.gaps
    )


Pair = tuple[ServicePortPlan | None, ServicePortPlan | None]


def _changed(before: Cluster, after: Cluster, family: IPFamily) -> Iterator[Pair]:
    old, new = _plans(before, family), _plans(after, family)
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            yield old.get(name), new.get(name)


def _plans(cluster: Cluster, family: IPFamily) -> dict[ServicePortName, ServicePortPlan]:
    return {plan.name: plan for plan in cluster.planners[family].all_effective()}


def _either(old: ServicePortPlan | None, new: ServicePortPlan | None) -> ServicePortPlan:
    found = new or old
    assert found is not None
    return found


def _calls(
    old: ServicePortPlan | None, new: ServicePortPlan | None, clients: Clients
) -> Iterator[tuple[str, Call]]:
    plans = [plan for plan in (old, new) if plan is not None]
    frontends = dict.fromkeys(front for plan in plans for front in frontends_of(plan))
    special = dict.fromkeys(client for plan in plans for client in special_clients(plan, clients))
    for frontend in frontends:
        for call in calls(frontend, clients, special):
            yield str(plans[0].name), call


def _affinity(
    old: ServicePortPlan | None, new: ServicePortPlan | None, family: IPFamily
) -> Iterator[Difference]:
    if old is None or new is None or old.affinity_timeout_s == new.affinity_timeout_s:
        return
    words = [
        f"remembered for {plan.affinity_timeout_s} s" if plan.affinity_timeout_s else "forgotten"
        for plan in (old, new)
    ]
    yield Difference(Kind.AFFINITY, str(new.name), family.value, ("clients",), words[0], words[1])
