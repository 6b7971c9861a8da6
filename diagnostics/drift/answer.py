"""A drift report as the JSON object that ``kpctl drift -o json`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from diagnostics.drift.model import DriftReport
from diagnostics.fate.answer import API_VERSION, difference_object


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
