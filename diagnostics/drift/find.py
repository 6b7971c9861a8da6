"""
Compares a node's kernel with what the API asks for.

The intended rules are compiled from the API's objects by the project's own data planes and put in
the place of the node's; then the same calls are followed through both. So it does not matter who
wrote the node's rules, in which order, or in which layout: a difference is one that packets see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from diagnostics.cluster.plans import ObjectsMissing, load_cluster
from diagnostics.drift.age import dated
from diagnostics.drift.calls import KUBERNETES, FamilyCalls, family_calls, is_apiserver
from diagnostics.drift.model import DriftReport
from diagnostics.drift.outsiders import Outsiders
from diagnostics.drift.structure import structure
from diagnostics.fate.alike import Alike
from diagnostics.fate.compare import changes
from diagnostics.fate.difference import Difference, Kind
from diagnostics.fate.frontends import Frontend
from diagnostics.fate.judge import differences
from diagnostics.fate.probes import Call, Oracle
from diagnostics.intended.compile import CannotCompile, compile_cluster
from diagnostics.intended.node import IntendedNode
from diagnostics.intended.readable import readable_families
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.trace.question import Tracer
from diagnostics.trace.report import Trace

Progress = Callable[[int, int], None]
"""Told how many service ports of how many are done."""


def find_drift(node: NodeSnapshot, progress: Progress = lambda done, total: None) -> DriftReport:
    """Return how a node's kernel differs from the API's intentions."""
    mode = node.mode().mode
    try:
        cluster = load_cluster(node)
    except ObjectsMissing as error:
        why = "the API objects are not known"
        return DriftReport(node.name, mode, gaps=error.gaps, undetermined=why)
    mode = cluster.config.mode
    if not cluster.is_placed:
        why = "it is not known which Node this is, and so which endpoints are on it"
        return DriftReport(node.name, mode, gaps=cluster.gaps, undetermined=why)
    families, gaps = readable_families(node, mode)
    if not families:
        why = f"the rules of mode {mode} could not be read"
        return DriftReport(node.name, mode, gaps=gaps, undetermined=why)
    try:
        compiled = compile_cluster(cluster, families=families)
    except CannotCompile as error:
        return DriftReport(node.name, mode, gaps=gaps, undetermined=str(error))
    intended = IntendedNode(node, compiled)
    report = DriftReport(node.name, mode, gaps=(*cluster.gaps, *gaps))
    total = sum(len(cluster.planners[family]) for family in families)
    for family in families:
        asked = family_calls(node, cluster, family)
        before = report.compared

        def told(done: int, before: int = before) -> None:
            progress(before + done, total)

        found, notes = _family(node, intended, asked, told)
        report = replace(
            report,
            compared=before + len(cluster.planners[family]),
            differences=report.differences + tuple(dated(found, cluster.objects)),
            notes=report.notes + notes,
        )
    return report


def _family(
    node: NodeSnapshot, intended: NodeSnapshot, asked: FamilyCalls, told: Callable[[int], None]
) -> tuple[list[Difference], tuple[str, ...]]:
    unlisted = _unlisted(asked)
    before, after = Oracle(Tracer(intended)), Oracle(Tracer(node))
    wanted = ((n, call) for n, call in asked.each(told) if call.frontend not in unlisted)
    outsiders = Outsiders()

    def see(service: str, call: Call, trace: Trace) -> None:
        if call.frontend in asked.planned:
            outsiders.see(service, call, trace)

    family = asked.family.value
    alike = Alike(asked.cluster.planners[asked.family].all_effective(), asked.clients)
    found = list(differences(family, changes(wanted, before, after, see, alike)))
    found += outsiders.differences(family)
    seen = {difference.service for difference in found}
    for difference in structure(node, intended, asked):
        # What packets notice says more than which rules it comes from.
        explained = difference.service in seen and difference.kind is Kind.EDITED
        listed = unlisted and difference.service.partition(":")[0] == KUBERNETES
        if not listed and not (explained and difference.service):
            found.append(difference)
    lacking = (
        f"{frontend.text}: taken for {KUBERNETES}, which the list of Services lacks"
        for frontend in unlisted
    )
    return found, (*lacking, *outsiders.notes())


def _unlisted(asked: FamilyCalls) -> frozenset[Frontend]:
    """Return the API server's frontend if the list of Services was made without its Service."""
    if any(name.partition(":")[0] == KUBERNETES for name in asked.planned.values()):
        return frozenset()
    return frozenset(
        frontend for frontend, name in asked.unplanned.items() if is_apiserver(frontend, name)
    )
