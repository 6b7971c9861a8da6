"""A trace as a graph, for pictures: boxes in the order of the packet, and arrows between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diagnostics.trace.chain_names import meanings, service_called
from diagnostics.trace.replies import Surroundings, replies
from diagnostics.trace.report import Trace
from diagnostics.trace.summary import sentence
from diagnostics.trace.walk import Tri, Verdict
from kpctl.trace_output.folding import folded
from kpctl.trace_output.story import Ending, Fork, Item, Told, Way, story
from kpctl.trace_output.way_back import grouped
from kpctl.trace_output.wording import called, cited, ending, place, source

CLIENT, HOOK, ENDPOINT, GOOD, BAD, MORE = "client", "hook", "endpoint", "good", "bad", "more"
_MOST_LINES = 12


@dataclass(slots=True)
class Box:
    """One box; ``kind`` is one of the words above."""

    name: str
    kind: str
    title: str
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Arrow:
    """From box to box, by their names; ``maybe`` is drawn dashed, ``back`` is the answer."""

    start: str
    end: str
    label: str = ""
    maybe: bool = False
    back: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """Boxes in the order of the packet; arrows lead from earlier boxes to later ones or back."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def graph(trace: Trace, around: Surroundings | None = None, *, everything: bool = False) -> Graph:
    """Return the picture of a trace; see ``tree.view`` for the arguments."""
    return _Drawer(trace, around, everything=everything).graph()


class _Drawer:
    def __init__(self, trace: Trace, around: Surroundings | None, *, everything: bool) -> None:
        self._trace = trace
        self._around = around
        self._everything = everything
        self._meanings: Mapping[str, str] = meanings(trace, around)
        self._boxes: list[Box] = []
        self._arrows: list[Arrow] = []

    def graph(self) -> Graph:
        packet = self._trace.packet
        lines = [self._meanings.get(str(packet.src), ""), f"calls {called(self._trace)}"]
        lines.append(service_called(self._trace, self._around))
        client = self._box(CLIENT, str(packet.src), [line for line in lines if line])
        last = self._items(story(self._trace.ends), [(client.name, "", False)], "")
        self._back([name for name, _, _ in last], client)
        title = sentence(self._trace, self._around)
        return Graph(title, tuple(self._boxes), tuple(self._arrows))

    def _box(self, kind: str, title: str, lines: Sequence[str] = ()) -> Box:
        box = Box(f"n{len(self._boxes)}", kind, title, list(lines))
        self._boxes.append(box)
        return box

    def _items(
        self, items: Sequence[Item], before: list[tuple[str, str, bool]], hook: str
    ) -> list[tuple[str, str, bool]]:
        """Draw items behind boxes *before* (name, label, maybe); return what is last."""
        box: Box | None = None
        ended: list[tuple[str, str, bool]] = []
        for item in items:
            if isinstance(item, Told):
                if box is None or item.step.hook != hook:
                    hook = item.step.hook
                    box = self._box(HOOK, hook.upper())
                    before = self._joined(before, box)
                self._add(box, item)
            elif isinstance(item, Fork):
                before, box = self._fork(item, before, hook), None
            else:
                ended += self._joined(before, self._ending(item))
        return ended or before

    def _joined(
        self, before: Sequence[tuple[str, str, bool]], box: Box
    ) -> list[tuple[str, str, bool]]:
        for name, label, maybe in before:
            self._arrows.append(Arrow(name, box.name, label, maybe))
        return [(box.name, "", False)]

    def _add(self, box: Box, told: Told) -> None:
        step = told.step
        text = step.text if step.hook == "routing" else cited(step)
        text = f"{text} (maybe)" if step.result is Tri.MAYBE else text
        if len(box.lines) < _MOST_LINES:
            box.lines.append(text)
        elif box.lines[-1] != "…":
            box.lines.append("…")

    def _fork(
        self, fork: Fork, before: list[tuple[str, str, bool]], hook: str
    ) -> list[tuple[str, str, bool]]:
        shown = folded(fork, everything=self._everything)
        last: list[tuple[str, str, bool]] = []
        firsts: dict[int, str] = {}
        for number, way in shown.shown:
            box = self._way(way)
            label = "maybe" if way.maybe else str(way.share)
            self._joined([(name, label, way.maybe) for name, _, _ in before], box)
            own = self._own(way, box, hook)
            firsts[number] = box.name
            if way.like is not None:
                self._as(box, firsts[way.like])
                continue
            last += self._items(way.items[own:], [(box.name, "", False)], hook)
        if shown.hidden:
            box = self._box(MORE, f"{len(shown.hidden)} more alike")
            self._joined([(name, "", False) for name, _, _ in before], box)
            likes = {way.like for way in shown.hidden}
            for like in likes - {None}:
                self._as(box, firsts.get(like or 0, ""))
            if likes == {None}:
                last.append((box.name, "", False))
        return last

    def _as(self, box: Box, name: str) -> None:
        """Let a box go on where an earlier one does."""
        for arrow in [arrow for arrow in self._arrows if arrow.start == name]:
            self._arrows.append(Arrow(box.name, arrow.end, "", arrow.maybe))

    def _way(self, way: Way) -> Box:
        packet = way.packet
        if packet is None or not packet.is_translated:
            return self._box(HOOK, "perhaps" if way.maybe else "one way")
        owner = self._meanings.get(str(packet.dst), "")
        rewritten = "source rewritten" if packet.source_rewritten else "source kept"
        return self._box(ENDPOINT, place(packet), [line for line in (owner, rewritten) if line])

    def _own(self, way: Way, box: Box, hook: str) -> int:
        """Write the steps of a way's own hook into its box; return how many there are."""
        count = 0
        for item in way.items:
            if not isinstance(item, Told) or item.step.hook != hook:
                break
            self._add(box, item)
            count += 1
        return count

    def _ending(self, item: Ending) -> Box:
        end = item.end
        if end.verdict is not Verdict.ACCEPT:
            return self._box(BAD, end.verdict.value.upper(), [ending(end)])
        packet = end.branch.packet
        if packet.is_translated and len(self._trace.destinations) > 1:
            return self._box(GOOD, "ENDPOINT", [source(packet)])
        if packet.is_translated:
            owner = self._meanings.get(str(packet.dst), "")
            lines = [line for line in (owner, source(packet)) if line]
            return self._box(GOOD, place(packet), lines)
        return self._box(GOOD, "NOT TRANSLATED", [ending(end)])

    def _back(self, last: Sequence[str], client: Box) -> None:
        """Draw the answer, from the first end that answers."""
        if self._around is None:
            return
        groups = grouped(replies(self._trace, self._around))
        answering = [box.name for box in self._boxes if box.kind == GOOD and box.name in last]
        if not groups or not answering:
            return
        passes = {group.passes for group in groups}
        label = {
            frozenset({Tri.YES}): "reply, translated back here",
            frozenset({Tri.NO}): "reply does not come by",
        }.get(frozenset(passes), "reply, translated back if it comes by")
        self._arrows.append(
            Arrow(answering[0], client.name, label, Tri.YES not in passes, back=True)
        )
