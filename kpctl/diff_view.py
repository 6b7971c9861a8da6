"""How two dumps, or two futures, differ on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from diagnostics.diff.find import DiffReport
from diagnostics.fate.difference import Kind
from diagnostics.whatif.find import WhatIfReport
from kpctl.difference_view import Words, entries

_HEADINGS = {
    Kind.MISSING: "REMOVED: no longer served",
    Kind.STALE: "ADDED: served anew",
    Kind.POLICY: "POLICY: another fate",
    Kind.ENDPOINTS: "ENDPOINTS: other endpoints",
    Kind.PORT: "PORT: other ports of endpoints",
    Kind.WEIGHT: "WEIGHT: other probabilities",
    Kind.MASQUERADE: "MASQUERADE: another source address",
    Kind.AFFINITY: "AFFINITY: another session affinity",
}


def view(report: DiffReport) -> RenderableType:
    """Return what to print of two dumps."""
    found = entries(report.differences, Words(_HEADINGS, "before", "after", ""))
    return Group(*found, _summary(report))


def _summary(report: DiffReport) -> Text:
    if report.undetermined:
        return Text(f"undetermined: {report.undetermined}", style="bold yellow")
    count = len(report.differences)
    if not count:
        said = f"no call ends differently ({report.frontends} frontends compared)"
        return Text(said, style="bold green")
    plural = "" if count == 1 else "s"
    return Text(f"{count} difference{plural} in {report.frontends} frontends", style="bold red")


def whatif_view(report: WhatIfReport) -> RenderableType:
    """Return what to print of a change that was not made."""
    found = entries(report.differences, Words(_HEADINGS, "now", "then", ""))
    count = len(report.differences)
    name = f"node {report.node}" if report.node else "this node"
    if not report.touched:
        said = f"nothing would change on {name}: no Service is planned differently"
    elif not count:
        said = f"no call would end differently on {name}, though plans change"
    else:
        ports = len(set(report.touched))
        said = f"{count} change{'' if count == 1 else 's'} of {ports} service ports on {name}"
    return Group(*found, Text(f"{said} (mode {report.mode})", style="bold"))
