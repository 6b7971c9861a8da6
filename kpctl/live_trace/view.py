"""How real packets look on a terminal: hop by hop, like a trace through the rules."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from diagnostics.trace.walk import Step
from kpctl.live_trace.answer import connection_text, probe_exit_code, probe_text, story_text
from kpctl.live_trace.probe import Probed
from kpctl.live_trace.translate import Outcome, PacketStory, Translator, headers_text
from kpctl.trace_output.wording import cited, comment, short

_COLOURS = {
    Outcome.SENT: "green",
    Outcome.DELIVERED: "green",
    Outcome.DROPPED: "red",
    Outcome.REJECTED: "red",
    Outcome.VANISHED: "yellow",
}


def packet_line(story: PacketStory, translator: Translator, clock: str) -> Text:
    """Return one line: when, which packet, where it got to."""
    line = Text(f"{clock} ", style="dim")
    line.append(headers_text(story.called), style="bold")
    if story.service:
        line.append(f" ({story.service})", style="cyan")
    line.append(f" {story_text(story, translator)}", style=_COLOURS[story.outcome])
    return line


def packet_tree(story: PacketStory, head: Text) -> Tree:
    """Return the rules that a packet met, below *head*."""
    tree = Tree(head, guide_style="dim")
    for hook, steps in groupby(story.steps, key=lambda step: step.hook):
        branch = tree.add(Text(hook.upper(), style="bold cyan"))
        for step in steps:
            branch.add(_line(step))
    return tree


def _line(step: Step) -> Text:
    line = Text("● ", style="green")
    line.append(cited(step), style="default")
    line.append("  " if step.chain else "").append(short(step), style="dim")
    if said := comment(step):
        line.append(f"  “{said}”", style="dim italic")
    if step.why:
        line.append(f"  ({step.why})", style="italic default")
    return line


def probe_view(
    probed: Probed, stories: list[PacketStory], translator: Translator
) -> RenderableType:
    """Return what became of a probe: its first packet's way, its connection, one sentence."""
    parts: list[RenderableType] = []
    if stories:
        first = stories[0]
        head = packet_line(first, translator, "").copy()
        parts.append(packet_tree(first, head[1:]))
        if len(stories) > 1:
            parts.append(Text(f"sent again {len(stories) - 1} times, to the same end", "dim"))
    if probed.entry is not None:
        parts.append(Text(f"connection table: {connection_text(probed.entry)}", style="dim"))
    colour = "red" if probe_exit_code(probed) else "green"
    parts.append(Text(probe_text(probed, stories, translator), style=f"bold {colour}"))
    return Group(*parts)
