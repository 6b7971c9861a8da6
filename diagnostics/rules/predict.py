"""
How many rules there will be: by a rule of thumb, and exactly, by compiling them.

The rule of thumb is 4 rules for each Service, 3 for each of its endpoints and 2 more for a
NodePort; it is one for mode iptables and knows no other. The exact count is that of the project's
own data planes; in mode iptables they write kube-proxy's rules. A mode whose proxy writes a
different layout is told apart: of kube-proxy's nftables rules there are as many as were counted on
a real node.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diagnostics.cluster.plans import Cluster, load_cluster
from diagnostics.intended.compile import CannotCompile, compile_cluster
from diagnostics.readers.objects import ClusterObjects
from diagnostics.rules.costs import KPCTL, KUBE_PROXY, Cost, costs
from diagnostics.rules.iptables import count_iptables
from diagnostics.rules.model import Inventory
from diagnostics.rules.nftables import count_nftables
from diagnostics.rules.synthetic import synthetic_objects
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.source import MemorySource
from proxy.config.types import IPTABLES, IPVS, NFTABLES
from proxy.model.addresses import IPFamily
from proxy.plan.service_plan import FrontendKind

MODES = (NFTABLES, IPTABLES, IPVS)
Counts = dict[str, int]
# Two sizes whose difference is what one more Service adds; a test compares with a third one.
_SMALL, _LARGE = 10, 20


@dataclass(frozen=True, slots=True)
class Size:
    """Services, endpoints of all of them together, and Services with a NodePort."""

    services: int
    endpoints: int
    node_ports: int = 0

    def grown(self, factor: float) -> Size:
        """Return the size *factor* times as large."""
        return Size(*(round(n * factor) for n in (self.services, self.endpoints, self.node_ports)))


@dataclass(frozen=True, slots=True)
class ModeCount:
    """
    What a mode's kernel holds.

    Attributes:
        counts: chains, rules, sets, elements, virtualServers, realServers, those that are not 0.
        source: where the numbers come from.
        problem: why there are none, "" if there are.
    """

    program: str
    mode: str
    counts: Counts
    source: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One size, *month* months from now."""

    month: int
    size: Size
    rule_of_thumb: int
    modes: tuple[ModeCount, ...]
    costs: tuple[Cost, ...]


def rule_of_thumb(size: Size) -> int:
    """Return 4 rules a Service, 3 an endpoint and 2 a NodePort."""
    return 4 * size.services + 3 * size.endpoints + 2 * size.node_ports


def predict_size(services: int, endpoints: int, growth: float, months: int) -> list[Prediction]:
    """
    Return predictions for now and every month.

    Args:
        services: Each with one port and a ClusterIP.
        endpoints: Of each Service.
        growth: Of one month, 0.1 for ten percent.
        months: How many.
    """
    small, large = (_compiled_counts(_cluster(n, endpoints)) for n in (_SMALL, _LARGE))
    source = f"compiled with {_SMALL} and {_LARGE} Services; each one adds the same"

    def counts(size: Size) -> Iterator[ModeCount]:
        for low, high in zip(small, large, strict=True):
            names = {**low.counts, **high.counts}
            steps = {n: high.counts.get(n, 0) - low.counts.get(n, 0) for n in names}
            found = {
                name: low.counts.get(name, 0) + step * (size.services - _SMALL) // (_LARGE - _SMALL)
                for name, step in steps.items()
            }
            yield ModeCount(low.program, low.mode, found, source, low.problem or high.problem)

    now = Size(services, services * endpoints)
    sizes = [now.grown((1 + growth) ** month) for month in range(months + 1)]
    return [_prediction(month, size, tuple(counts(size))) for month, size in enumerate(sizes)]


def predict_snapshot(snapshot: NodeSnapshot, growth: float, months: int) -> list[Prediction]:
    """
    Return predictions for a snapshot's own Services; raises ObjectsMissing.

    Later months grow all that belongs to Services in proportion.
    """
    cluster = load_cluster(snapshot)
    now = size_of(cluster)
    exact = _compiled_counts(cluster)
    empty = _compiled_counts(_cluster(0, 0))
    found = [_prediction(0, now, exact)]
    for month in range(1, months + 1):
        factor = (1 + growth) ** month
        grown = tuple(_scaled(*pair, factor) for pair in zip(exact, empty, strict=True))
        found.append(_prediction(month, now.grown(factor), grown))
    return found


def _scaled(exact: ModeCount, empty: ModeCount, factor: float) -> ModeCount:
    counts = {
        name: round(empty.counts.get(name, 0) + factor * (count - empty.counts.get(name, 0)))
        for name, count in exact.counts.items()
    }
    source = f"today's count grown {factor:.2f} times"
    return ModeCount(exact.program, exact.mode, counts, source, exact.problem)


def _prediction(month: int, size: Size, modes: tuple[ModeCount, ...]) -> Prediction:
    all_modes = (*modes, _kube_proxy_nftables(size))
    return Prediction(
        month, size, rule_of_thumb(size), all_modes, costs(size.services, size.endpoints)
    )


def _kube_proxy_nftables(size: Size) -> ModeCount:
    """Return chains and elements as on a node of kube-proxy 1.36 with 1,000 Services."""
    services = size.services
    # One chain and one rule for each, an element of service-ips and one of cluster-ips.
    counts = {"chains": services + 31, "rules": services + 44, "elements": 2 * services + 3}
    source = (
        "as counted on a node of kube-proxy 1.36 with 1,000 Services that have a ClusterIP alone"
    )
    return ModeCount(KUBE_PROXY, NFTABLES, {**counts, "sets": 15}, source)


def size_of(cluster: Cluster) -> Size:
    """Return what the plans of a cluster have of Services, endpoints and NodePorts."""
    names: set[str] = set()
    node_ports: set[str] = set()
    places: set[tuple[str, object]] = set()
    for family, planner in cluster.planners.items():
        for plan in planner.all_effective():
            name = str(plan.name)
            names.add(name)
            if any(one.kind is FrontendKind.NODE_PORT for one in plan.frontends):
                node_ports.add(name)
            found = cluster.store.endpoints(plan.name.service, family)
            for each in found.get((plan.name.port, plan.name.protocol), ()):
                places.add((name, each.target))
    return Size(len(names), len(places), len(node_ports))


def _cluster(services: int, endpoints: int) -> Cluster:
    snapshot = NodeSnapshot(MemorySource({}, "a prediction"), "node")
    objects: ClusterObjects = synthetic_objects(services, endpoints)
    return load_cluster(snapshot, objects)


def _compiled_counts(cluster: Cluster) -> tuple[ModeCount, ...]:
    source = "compiled from these Services and EndpointSlices"
    found = []
    for mode in MODES:
        try:
            found.append(ModeCount(KPCTL, mode, _counts(cluster, mode), source))
        except CannotCompile as error:
            found.append(ModeCount(KPCTL, mode, {}, source, str(error)))
    return tuple(found)


def _counts(cluster: Cluster, mode: str) -> Counts:
    compiled = compile_cluster(cluster, mode)
    inventory = Inventory()
    for family, rules in compiled.iptables.items():
        count_iptables(inventory, rules, "ip" if family is IPFamily.IPV4 else "ip6")
    count_nftables(inventory, compiled.nft, frozenset())
    totals = inventory.totals()
    totals["virtualServers"] = len(compiled.ipvs.servers)
    totals["realServers"] = sum(len(entry.reals) for entry in compiled.ipvs.servers)
    if compiled.ipsets is not None:
        sets = compiled.ipsets.by_name.values()
        totals |= {"sets": len(sets), "elements": sum(map(len, sets))}
    return {name: count for name, count in totals.items() if count}
