"""Differences as JSON objects."""

from __future__ import annotations

from diagnostics.fate.difference import Difference

API_VERSION = "kpctl.io/v1"


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
