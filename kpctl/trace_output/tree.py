"""A trace on a terminal: hop by hop, branches as branches, the way back, and the verdict."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import islice

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from diagnostics.trace.chain_names import meanings, service_called
from diagnostics.trace.packet import place_text
from diagnostics.trace.replies import Reply, Surroundings, replies
from diagnostics.trace.report import ACCEPT, CERTAIN, DNAT, DROP, NONE, REJECT, Destination, Trace
from diagnostics.trace.summary import client_sees, sentence
from diagnostics.trace.walk import Tri, Verdict
from kpctl.trace_output.folding import folded
from kpctl.trace_output.story import Ending, Fork, Item, Told, Way, goes_on, story
from kpctl.trace_output.way_back import grouped
from kpctl.trace_output.wording import cited, comment, ending, notes, place, short, source, who

_MARKS = {Tri.YES: ("●", "green"), Tri.MAYBE: ("◐", "yellow"), Tri.NO: ("○", "red")}
_COLOURS = {DNAT: "green", ACCEPT: "green", NONE: "yellow", REJECT: "red", DROP: "red"}
_WIDTH_OF_FILES = 120
_ROWS = 10


def console() -> Console:
    """Return where to print: as wide as the terminal, a file as wide as is good to read."""
    made = Console(highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _WIDTH_OF_FILES
    return made


def view(
    trace: Trace, around: Surroundings | None = None, *, everything: bool = False
) -> RenderableType:
    """
    Return what to print.

    Args:
        trace: The answer.
        around: Who is who; without it there are no names and no way back.
        everything: Show every endpoint's way instead of the first of many alike.
    """
    parts: list[RenderableType] = [_Drawing(trace, around, everything=everything).tree(), ""]
    if trace.destinations:
        parts += [_destinations(trace.destinations, around, everything=everything), ""]
    parts.append(Text(sentence(trace, around), style=f"bold {_COLOURS[trace.verdict]}"))
    if noticed := client_sees(trace, replies(trace, around) if around else ()):
        parts.append(Text(noticed))
    return Group(*parts)


class _Drawing:
    def __init__(self, trace: Trace, around: Surroundings | None, *, everything: bool) -> None:
        self._trace = trace
        self._around = around
        self._everything = everything
        self._meanings: Mapping[str, str] = meanings(trace, around)

    def tree(self) -> Tree:
        tree = Tree(self._title(), guide_style="dim")
        self._items(tree, story(self._trace.ends), "")
        if self._around is not None:
            self._replies(tree, replies(self._trace, self._around))
        return tree

    def _title(self) -> Text:
        packet = self._trace.packet
        title = Text(packet.text().replace("->", "→"), style="bold")
        about = []
        if owner := self._meanings.get(str(packet.src)):
            about.append(f"from {owner}")
        service = service_called(self._trace, self._around)
        target = service or self._meanings.get(str(packet.dst), "")
        if target:
            about.append(f"to {target}")
        if about:
            title.append("\n" + ", ".join(about), style="not bold")
        return title

    def _items(self, tree: Tree, items: Sequence[Item], hook: str, within: str = "") -> None:
        here = tree
        for item in items:
            if isinstance(item, Told):
                if item.step.hook != hook:
                    hook = item.step.hook
                    here = tree.add(Text(hook.upper(), style="bold cyan"))
                here.add(self._line(item, within))
            elif isinstance(item, Fork):
                self._fork(here, item, hook)
            elif not within or not item.end.branch.packet.is_translated:
                tree.add(self._ending(item))

    def _line(self, told: Told, within: str) -> Table:
        step = told.step
        line = Text(cited(step), style="" if step.result is not Tri.MAYBE else "yellow")
        line.append("  " if line else "").append(short(step), style="dim")
        if said := comment(step):
            line.append(f"  “{said}”", style="dim italic")
        found = notes(step, self._trace, self._meanings)
        # What is behind an endpoint's chain stands at its branch already.
        found = [note for note in found if not within or f"= {within}" not in note]
        if told.to and not within and "DNAT" not in step.text:
            found.append(f"to {who(told.to, self._meanings)}")
        if found:
            line.append("\n" + "; ".join(found), style="not dim italic")
        return _marked(step.result, line)

    def _fork(self, tree: Tree, fork: Fork, hook: str) -> None:
        shown = folded(fork, everything=self._everything)
        for _, way in shown.shown:
            branch = tree.add(self._label(way))
            self._items(branch, way.items, hook, place(way.packet) if way.packet else "")
            if way.like is not None:
                branch.add(Text(goes_on(way, fork.ways[way.like]), style="italic"))
        if shown.hidden:
            tree.add(Text(shown.text, style="magenta"))

    def _label(self, way: Way) -> Text:
        label = Text("perhaps" if way.maybe else str(way.share), style="bold magenta")
        packet = way.packet
        if packet is None or not packet.is_translated:
            return label
        label.append(f"  {place(packet)}", style="bold")
        owner = self._meanings.get(str(packet.dst), "")
        label.append(f", {owner}" if owner else "", style="not bold")
        if packet.source_rewritten:
            label.append(", source rewritten", style="not bold yellow")
        return label

    def _ending(self, item: Ending) -> Text:
        end = item.end
        if end.branch.packet.is_translated and len(self._trace.destinations) > 1:
            return Text(f"the endpoint {source(end.branch.packet)}", style="bold")
        unsure = end.branch.maybe and self._trace.certainty != CERTAIN
        perhaps = "perhaps " if unsure and end.verdict is not Verdict.ACCEPT else ""
        return Text(perhaps + ending(end), style="bold")

    def _replies(self, tree: Tree, found: Sequence[Reply]) -> None:
        if not found:
            return
        branch = tree.add(Text("REPLY", style="bold cyan"))
        groups = grouped(found)
        for group in groups:
            here = branch if len(groups) == 1 else branch.add(Text(group.whom, style="bold"))
            here.add(_marked(group.passes, Text(group.passing)))
            for line in group.lines:
                here.add(_marked(group.passes, Text(line)))


def _marked(result: Tri, line: Text) -> Table:
    """Return a line behind its mark; what does not fit goes on below the line, not the mark."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    mark, colour = _MARKS[result]
    grid.add_row(Text(mark, style=colour), line)
    return grid


def _destinations(
    found: Sequence[Destination], around: Surroundings | None, *, everything: bool
) -> Table:
    owners = [around.names.owner(one.address) if around else "" for one in found]
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["ENDPOINT", "PROBABILITY", "SOURCE ADDRESS", *(["WHO"] if any(owners) else [])]
    for name in columns:
        table.add_column(name, overflow="fold")
    most = len(found) if everything or len(found) <= _ROWS + 1 else _ROWS
    for one, owner in islice(zip(found, owners, strict=True), most):
        kept = "rewritten" if one.masquerade else "kept"
        row = [place_text(one.address, one.port), str(one.probability), kept, owner]
        # Not markup: [fd00::1]:80 would be a tag.
        table.add_row(*map(Text, row[: len(columns)]))
    if most < len(found):
        table.add_row(f"… {len(found) - most} more")
    return table
