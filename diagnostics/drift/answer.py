"""A drift report as the JSON object that ``kpctl drift -o json`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from diagnostics.drift.model import Difference, DriftReport

API_VERSION = "kpctl.io/v1"


def answer(reports: Sequence[DriftReport]) -> dict[str, object]:
    """Return the object for one node or several."""
    return {
        "apiVersion": API_VERSION,
        "kind": "DriftReport",
        "nodes": [_node(report) for report in reports],
    }


def _node(report: DriftReport) -> dict[str, object]:
    return {
        "node": report.node,
        "mode": report.mode,
        "servicePorts": report.compared,
        "undetermined": report.undetermined or None,
        "differences": [difference_object(one) for one in report.differences],
        "notes": list(report.notes),
        "gaps": [str(gap) for gap in report.gaps],
    }


def difference_object(one: Difference) -> dict[str, object]:
    """Return one difference; ``service`` is null for one of the whole node."""
    return {
        "kind": one.kind.value,
        "service": one.service or None,
        "family": one.family or None,
        "subject": list(one.subject),
        "expected": one.expected,
        "actual": one.actual,
        "clients": list(one.clients),
        "evidence": list(one.evidence),
        "since": one.since or None,
    }
