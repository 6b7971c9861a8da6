"""A trace at length, in plain sentences: what each hook and chain is for, and why it matters."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from diagnostics.trace.chain_names import meanings, service_called
from diagnostics.trace.replies import Surroundings, replies
from diagnostics.trace.report import CERTAIN, DNAT, UNKNOWN, Trace
from diagnostics.trace.summary import client_sees, sentence
from diagnostics.trace.walk import Tri
from kpctl.trace_output.folding import folded
from kpctl.trace_output.purposes import HOOKS, purpose
from kpctl.trace_output.story import Fork, Item, Told, Way, goes_on, story
from kpctl.trace_output.way_back import grouped
from kpctl.trace_output.wording import called, cited, ending, notes, place, source, who

_INDENT = "    "


def explain(
    trace: Trace,
    around: Surroundings | None = None,
    *,
    width: int = 80,
    everything: bool = False,
) -> str:
    """
    Return the long form as plain text.

    Args:
        trace: The answer.
        around: Who is who; without it there are no names and no way back.
        width: In characters; rules themselves are never broken.
        everything: Tell every endpoint's way instead of the first of many alike.
    """
    teller = _Teller(trace, around, everything=everything)
    return "\n".join(_wrapped(teller.lines(), max(width, 40)))


def _wrapped(lines: Iterator[str], width: int) -> Iterator[str]:
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        if "  | " in line or not line.strip():
            yield line.rstrip()
        else:
            yield textwrap.fill(
                line, width, subsequent_indent=indent, break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip


class _Teller:
    def __init__(self, trace: Trace, around: Surroundings | None, *, everything: bool) -> None:
        self._trace = trace
        self._around = around
        self._everything = everything
        self._meanings: Mapping[str, str] = meanings(trace, around)
        self._explained: set[str] = set()

    def lines(self) -> Iterator[str]:
        yield from self._beginning()
        yield from self._items(story(self._trace.ends), "", "")
        if self._around is not None:
            yield from self._back(self._around)
        yield ""
        yield sentence(self._trace, self._around)
        if self._trace.certainty not in (CERTAIN, UNKNOWN):
            yield (
                "Where it says maybe, a rule asks for something that only the kernel knows at that "
                "moment; both ways are told."
            )
        around = self._around
        back = replies(self._trace, around) if around else ()
        if noticed := client_sees(self._trace, back):
            yield noticed

    def _beginning(self) -> Iterator[str]:
        packet = self._trace.packet
        yield (
            f"A client at {who(str(packet.src), self._meanings)} opens a connection to "
            f"{who(called(self._trace), self._meanings)}."
        )
        if service := service_called(self._trace, self._around):
            yield (
                f"That is {service}, a port of a Service. Nobody answers there: the kernel of "
                "this node replaces a Service's address by that of a pod that does the work, an "
                "endpoint."
            )

    def _items(self, items: Sequence[Item], hook: str, indent: str) -> Iterator[str]:
        for item in items:
            if isinstance(item, Told):
                if item.step.hook != hook:
                    hook = item.step.hook
                    yield ""
                    yield indent + self._hook(hook)
                yield from self._step(item, indent)
            elif isinstance(item, Fork):
                yield from self._fork(item, hook, indent)
            else:
                yield ""
                if item.end.branch.packet.is_translated and len(self._trace.destinations) > 1:
                    yield f"{indent}The endpoint {source(item.end.branch.packet)}."
                else:
                    yield f"{indent}The packet ends here: {ending(item.end)}."

    def _hook(self, hook: str) -> str:
        if hook in self._explained:
            return hook.upper()
        self._explained.add(hook)
        return HOOKS.get(hook, hook.upper())

    def _step(self, told: Told, indent: str) -> Iterator[str]:
        step, deeper = told.step, indent + _INDENT
        if step.hook == "routing":
            yield f"{deeper}{step.text}."
            return
        doubt = " It is not certain that it applies." if step.result is Tri.MAYBE else ""
        yield f"{indent}  {cited(step)}:{doubt}"
        yield f"{deeper}  | {step.text}"
        said = purpose(step.chain)
        if said and step.chain not in self._explained:
            self._explained.add(step.chain)
            yield f"{deeper}The chain {step.chain} {said}."
        if found := notes(step, self._trace, self._meanings):
            yield f"{deeper}Here: {'; '.join(found)}."
        if told.to:
            yield f"{deeper}The destination becomes {who(told.to, self._meanings)}."

    def _fork(self, fork: Fork, hook: str, indent: str) -> Iterator[str]:
        shown = folded(fork, everything=self._everything)
        maybe = any(way.maybe for way in fork.ways)
        yield ""
        count = len(fork.ways)
        yield indent + (
            f"From here there are {count} ways; which one is taken cannot be told from outside."
            if maybe
            else f"From here there are {count} ways; the kernel takes one for each new connection."
        )
        for _, way in shown.shown:
            yield ""
            yield indent + self._label(way)
            yield from self._items(way.items, hook, indent + _INDENT)
            if way.like is not None:
                on = goes_on(way, fork.ways[way.like]).removeprefix("then ")
                yield f"{indent}{_INDENT}Then it goes on {on}."
        if shown.hidden:
            yield ""
            yield indent + shown.text

    def _label(self, way: Way) -> str:
        chance = "Perhaps" if way.maybe else f"With probability {way.share}"
        packet = way.packet
        if packet is None:
            return f"{chance}:"
        if not packet.is_translated:
            return f"{chance}: no translation."
        return f"{chance}: to {who(place(packet), self._meanings)}, which {source(packet)}."

    def _back(self, around: Surroundings) -> Iterator[str]:
        found = replies(self._trace, around) if self._trace.verdict == DNAT else ()
        if not found:
            return
        yield ""
        yield (
            "REPLY: the client waits for an answer from the address that it called, so whoever "
            "translated the packet must translate the answer back. The kernel remembers each "
            "connection (conntrack) and does that by itself."
        )
        for group in grouped(found):
            yield f"  {group.whom}:"
            yield f"{_INDENT}{group.passing}"
            for line in group.lines:
                yield f"{_INDENT}{line}."
