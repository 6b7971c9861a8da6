"""How drift looks on a terminal: like differences together, each with the rule that proves it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from diagnostics.drift.model import Difference, DriftReport, Kind

_MOST_ALIKE = 3
_HEADINGS = {
    Kind.JUMP: "packets do not come to the proxy's rules",
    Kind.MISSING: "not in the kernel",
    Kind.STALE: "in the kernel, not in the API",
    Kind.HIJACKED: "somebody else's rules decide",
    Kind.POLICY: "another fate",
    Kind.ENDPOINTS: "wrong endpoints",
    Kind.PORT: "wrong ports",
    Kind.WEIGHT: "wrong probabilities",
    Kind.MASQUERADE: "wrong source address",
    Kind.AFFINITY: "wrong session affinity",
    Kind.EDITED: "edited rules",
    Kind.LEFTOVER: "left over from another mode",
}


def view(report: DriftReport) -> RenderableType:
    """Return what to print of one node."""
    parts: list[RenderableType] = []
    for kind, heading in _HEADINGS.items():
        found = [one for one in report.differences if one.kind is kind]
        if found:
            title = f"{kind.value.upper()}: {heading} ({len(found)})"
            parts.append(Text(title, style="bold red"))
            parts += _entries(found)
    parts.append(summary(report))
    return Group(*parts)


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


def _entries(found: Sequence[Difference]) -> Iterator[RenderableType]:
    """Yield differences; of many with the same cause the first few, and how many there are."""
    groups: dict[object, list[Difference]] = {}
    for one in found:
        groups.setdefault((one.expected, one.actual) if one.service == "" else _cause(one), [])
        groups[(one.expected, one.actual) if one.service == "" else _cause(one)].append(one)
    for alike in groups.values():
        for one in alike[:_MOST_ALIKE]:
            yield from _entry(one)
        if len(alike) > _MOST_ALIKE:
            yield Text(f"  … and {len(alike) - _MOST_ALIKE} more alike", style="dim")


def _cause(one: Difference) -> object:
    verbs = tuple(text.partition(" 1")[0][:12] for text in (one.expected, one.actual))
    return one.family, one.clients, verbs


def _entry(one: Difference) -> Iterator[Text]:
    line = Text("  ")
    line.append(one.service or "the whole node", style="bold")
    line.append(f"  {', '.join(one.subject)}")
    if one.family and not one.service:
        line.append(f"  {one.family}", style="dim")
    yield line
    yield Text(f"    expected: {one.expected}")
    yield Text(f"    actual:   {one.actual}")
    if one.clients:
        yield Text(f"    seen by:  {', '.join(one.clients)}", style="dim")
    for text in one.evidence[:2]:
        yield Text(f"    {text}", style="dim")
    if one.since:
        yield Text(f"    the API objects last changed {one.since}", style="dim")
