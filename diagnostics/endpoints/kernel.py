"""
Whether a node's kernel sends a Service's clients to the endpoints that the plan has.

The Service's intended rules are put in the place of the node's, and the same calls are followed
through both; an endpoint agrees when the same calls may reach it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from diagnostics.cluster.plans import Cluster, load_cluster
from diagnostics.fate.clients import clients_of, special_clients
from diagnostics.fate.frontends import frontends_of
from diagnostics.fate.probes import Call, Oracle, Outcome, calls
from diagnostics.intended.compile import CannotCompile, compile_cluster
from diagnostics.intended.node import IntendedNode
from diagnostics.intended.readable import readable_families
from diagnostics.readers.objects import ClusterObjects
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.trace.question import Tracer
from diagnostics.trace.report import UNKNOWN
from proxy.config.types import IPVS
from proxy.model.addresses import IPFamily
from proxy.model.endpoints import service_of
from proxy.model.objects import EndpointSlice, Service
from proxy.model.services import ServiceName

PortKey = tuple[str, str]
"""Service port, ``shop/web:http``, and protocol."""
TargetKey = tuple[str, str, str]
"""``IP:port`` and both of the above."""


class Kernel(enum.StrEnum):
    """What the kernel makes of one endpoint; NOT_ASKED: nobody is to reach it."""

    AGREES = "agrees"
    MISSING = "missing"  # calls that should reach it do not
    EXTRA = "extra"  # calls that should not reach it do
    UNKNOWN = "unknown"
    NOT_ASKED = "not-asked"


@dataclass(frozen=True, slots=True)
class CallDifference:
    """A call that ends otherwise than planned; ``expected`` and ``actual`` in words."""

    service_port: str
    protocol: str
    client: str
    frontend: str
    expected: str
    actual: str


@dataclass(frozen=True, slots=True)
class KernelReport:
    """
    What the kernel does for a Service.

    Attributes:
        by_target: by ``IP:port``, service port and protocol, for all that any call may reach.
        differences: calls with another verdict or other endpoints, those without any included.
        unknown: families whose rules could not be followed.
        gaps: why.
        unreached: what is said of planned endpoints that no call should reach. In mode ipvs that
            happens; elsewhere it means that the right call could not be made.
    """

    by_target: dict[TargetKey, Kernel]
    differences: tuple[CallDifference, ...] = ()
    unknown: frozenset[IPFamily] = frozenset()
    gaps: tuple[str, ...] = ()
    unreached: Kernel = Kernel.UNKNOWN

    def of(self, target: str, service_port: str, protocol: str, *, planned: bool) -> Kernel:
        """Return what the kernel makes of an endpoint that the plan has, or has not."""
        found = self.by_target.get((target, service_port, protocol))
        if found is not None:
            return found
        family = IPFamily.IPV6 if target.startswith("[") else IPFamily.IPV4
        if family in self.unknown:
            return Kernel.UNKNOWN
        return self.unreached if planned else Kernel.AGREES


def compare_kernel(node: NodeSnapshot, cluster: Cluster, name: ServiceName) -> KernelReport:
    """Return how a node's kernel serves a Service, compared with the plan."""
    readable, gaps = readable_families(node, cluster.config.mode)
    known = frozenset(readable)
    planned = [f for f in IPFamily if cluster.planners[f].plans_of(name)]
    families = [family for family in planned if family in known]
    lost = frozenset(planned) - known
    if not families:
        return KernelReport({}, unknown=lost, gaps=tuple(map(str, gaps)) if lost else ())
    alone = load_cluster(node, _objects_of(cluster, name))
    try:
        compiled = compile_cluster(alone, families=families)
    except CannotCompile as error:
        return KernelReport({}, unknown=frozenset(planned), gaps=(str(error),))
    before = Oracle(Tracer(IntendedNode(node, compiled)))
    tally = _Tally(before, Oracle(Tracer(node)))
    for family in families:
        for port, call in _calls(node, cluster, name, family):
            tally.ask(port, call)
    said = tuple(map(str, gaps)) if lost else ()
    unreached = Kernel.NOT_ASKED if cluster.config.mode == IPVS else Kernel.UNKNOWN
    unknown = lost | tally.unknown
    return KernelReport(tally.by_target(), tuple(tally.differences), unknown, said, unreached)


def _objects_of(cluster: Cluster, name: ServiceName) -> ClusterObjects:
    """Return the objects of a Service, and of those it shares frontends with."""
    wanted = {name}
    for planner in cluster.planners.values():
        for conflict in planner.conflicts():
            pair = {conflict.loser.service, conflict.winner.service}
            if name in pair:
                wanted |= pair

    def is_wanted(one: Service) -> bool:
        return ServiceName(one.metadata.namespace, one.metadata.name) in wanted

    def belongs(one: EndpointSlice) -> bool:
        return ServiceName(one.metadata.namespace, service_of(one)) in wanted

    objects = cluster.objects
    services = tuple(one for one in objects.services or () if is_wanted(one))
    slices = tuple(one for one in objects.slices or () if belongs(one))
    return replace(objects, services=services, slices=slices)


def _calls(
    node: NodeSnapshot, cluster: Cluster, name: ServiceName, family: IPFamily
) -> Iterator[tuple[PortKey, Call]]:
    clients = clients_of(node, cluster, family)
    for plan in cluster.planners[family].plans_of(name):
        special = list(special_clients(plan, clients))
        for frontend in frontends_of(plan):
            for call in calls(frontend, clients, special):
                yield (str(plan.name), plan.name.protocol), call


class _Tally:
    """Counts which calls may reach which endpoint on both sides."""

    def __init__(self, intended: Oracle, actual: Oracle) -> None:
        self._intended = intended
        self._actual = actual
        self._found: dict[TargetKey, set[Kernel]] = {}
        self._differences: dict[CallDifference, None] = {}
        self.unknown: frozenset[IPFamily] = frozenset()

    @property
    def differences(self) -> Iterable[CallDifference]:
        """Calls that end differently, each once."""
        return self._differences

    def ask(self, port: PortKey, call: Call) -> None:
        """Follow a call through both."""
        expected, actual = self._intended.outcome(call), self._actual.outcome(call)
        wanted, found = _places(expected), _places(actual)
        if UNKNOWN in (expected.certainty, actual.certainty):
            family = IPFamily.IPV4 if call.address.version == 4 else IPFamily.IPV6
            self.unknown |= {family}
            self._note(port, wanted | found, Kernel.UNKNOWN)
            return
        self._note(port, wanted & found, Kernel.AGREES)
        self._note(port, wanted - found, Kernel.MISSING)
        self._note(port, found - wanted, Kernel.EXTRA)
        if (expected.verdict, wanted) != (actual.verdict, found):
            difference = CallDifference(
                *port, call.client.kind, call.frontend.text, expected.text, actual.text
            )
            self._differences[difference] = None

    def _note(self, port: PortKey, places: Iterable[str], what: Kernel) -> None:
        for place in places:
            self._found.setdefault((place, *port), set()).add(what)

    def by_target(self) -> dict[TargetKey, Kernel]:
        """Return the worst that was found of each endpoint."""
        order = (Kernel.MISSING, Kernel.EXTRA, Kernel.UNKNOWN, Kernel.AGREES)
        return {
            key: next(kind for kind in order if kind in found) for key, found in self._found.items()
        }


def _places(outcome: Outcome) -> frozenset[str]:
    return frozenset(target.place for target, _ in outcome.shares)
