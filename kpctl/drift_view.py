"""How drift looks on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from diagnostics.drift.model import DriftReport
from diagnostics.fate.difference import Kind
from kpctl.difference_view import Words, entries

_WORDS = Words(
    {
        Kind.JUMP: "JUMP: packets do not come to the proxy's rules",
        Kind.MISSING: "MISSING: in the API, not in the kernel",
        Kind.STALE: "STALE: in the kernel, not in the API",
        Kind.HIJACKED: "HIJACKED: somebody else's rules decide",
        Kind.POLICY: "POLICY: another fate",
        Kind.ENDPOINTS: "ENDPOINTS: wrong endpoints",
        Kind.PORT: "PORT: wrong ports of endpoints",
        Kind.WEIGHT: "WEIGHT: wrong probabilities",
        Kind.MASQUERADE: "MASQUERADE: wrong source address",
        Kind.AFFINITY: "AFFINITY: wrong session affinity",
        Kind.EDITED: "EDITED: rules that a proxy did not write so",
        Kind.LEFTOVER: "LEFTOVER: of another mode",
    },
    "expected",
    "actual",
    "the API objects last changed",
)


def view(report: DriftReport) -> RenderableType:
    """Return what to print of one node."""
    return Group(*entries(report.differences, _WORDS), summary(report))


def summary(report: DriftReport) -> Text:
    """Return the one sentence that says whether there is drift."""
    name = f"node {report.node}" if report.node else "the node"
    mode = f"mode {report.mode}, {report.compared} service ports"
    if report.undetermined:
        return Text(f"{name}: undetermined: {report.undetermined}", style="bold yellow")
    if not report.differences:
        return Text(f"{name}: kernel and API agree ({mode})", style="bold green")
    count = len(report.differences)
    said = f"{count} difference{'' if count == 1 else 's'}"
    return Text(f"{name}: {said} ({mode})", style="bold red")
