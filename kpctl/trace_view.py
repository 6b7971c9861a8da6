"""How a trace looks on a terminal: hop by hop, and the verdict in one sentence at the end."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from diagnostics.trace.answer import dataplane_of, service_of
from diagnostics.trace.packet import place_text
from diagnostics.trace.report import ACCEPT, CERTAIN, DNAT, DROP, NONE, REJECT, UNKNOWN, Trace
from diagnostics.trace.walk import Step, Tri

_MARKS = {Tri.YES: ("●", "green"), Tri.MAYBE: ("◐", "yellow"), Tri.NO: ("○", "dim")}
_COLOURS = {DNAT: "green", ACCEPT: "green", NONE: "yellow", REJECT: "red", DROP: "red"}


def view(trace: Trace) -> RenderableType:
    """Return what to print."""
    parts: list[RenderableType] = [_tree(trace)]
    if trace.destinations:
        parts.append(_destinations(trace))
    parts.append(Text(sentence(trace), style=f"bold {_COLOURS[trace.verdict]}"))
    return Group(*parts)


def sentence(trace: Trace) -> str:
    """Return the verdict with its certainty."""
    service = service_of(trace.steps)
    plane = dataplane_of(trace.steps)
    by = f" by {plane}" if plane else ""
    count = len(trace.destinations)
    said = {
        DNAT: f"goes to {'one' if count == 1 else f'one of {count}'} endpoint"
        f"{'' if count == 1 else 's'}{f' of {service}' if service else ''}{by}",
        DROP: f"is dropped{by}",
        REJECT: f"is rejected{by}",
        ACCEPT: "is let in by a rule, and its destination stays",
        NONE: "is touched by no proxy: it keeps its destination",
    }[trace.verdict]
    doubt = {
        CERTAIN: "",
        UNKNOWN: " (unknown: there were no rules to follow)",
    }.get(trace.certainty, " (maybe: a match on the way cannot be decided from outside)")
    return f"The packet {said}{doubt}."


def _tree(trace: Trace) -> Tree:
    tree = Tree(Text(trace.packet.text(), style="bold"))
    for hook, steps in groupby(trace.steps, key=lambda step: step.hook):
        branch = tree.add(Text(hook, style="cyan"))
        for step in steps:
            branch.add(_line(step))
    return tree


def _line(step: Step) -> Text:
    mark, colour = _MARKS[step.result]
    where = " ".join(part for part in (step.table, step.chain, step.place) if part)
    line = Text(f"{mark} ", style=colour)
    if where:
        line.append(f"{where}: ", style="dim")
    line.append(step.text)
    if step.why:
        line.append(f"  ({step.why})", style="dim italic")
    return line


def _destinations(trace: Trace) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("ENDPOINT", "PROBABILITY", "SOURCE ADDRESS"):
        table.add_column(name)
    for one in trace.destinations:
        source = "rewritten" if one.masquerade else "kept"
        table.add_row(place_text(one.address, one.port), str(one.probability), source)
    return table
