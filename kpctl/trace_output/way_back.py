"""The way back in words: endpoints whose answers fare alike are told of once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diagnostics.trace.packet import place_text
from diagnostics.trace.replies import Reply, Rewrite
from diagnostics.trace.walk import Tri
from kpctl.trace_output.wording import cited, short

_PASSES = {
    Tri.YES: "The answer comes by this node",
    Tri.MAYBE: "The answer may come by this node",
    Tri.NO: "The answer does not come by this node",
}
_UNDONE = {"destination": "undoes the masquerade", "source": "undoes the DNAT"}


@dataclass(frozen=True, slots=True)
class ReplyGroup:
    """Answers alike; never empty."""

    replies: tuple[Reply, ...]

    @property
    def passes(self) -> Tri:
        """Whether they come by this node."""
        return self.replies[0].passes

    @property
    def whom(self) -> str:
        """Whose answers these are: ``10.0.0.1:80 and 2 more``."""
        more = len(self.replies) - 1
        return f"from {_place(self.replies[0])}" + (f" and {more} more" if more else "")

    @property
    def passing(self) -> str:
        """Whether they come by this node, and why, in a sentence."""
        return f"{_PASSES[self.passes]}: {self.replies[0].why}."

    @property
    def lines(self) -> tuple[str, ...]:
        """What is rewritten on the way, a line for each."""
        return (*(self._line(rewrite) for rewrite in self.replies[0].rewrites), *self._lost())

    def _lost(self) -> Iterator[str]:
        """Yield what drops the answers, if something does."""
        first = self.replies[0]
        if first.delivered in (None, Tri.YES):
            return
        step = first.steps[-1]
        sure = "drops the answer" if first.delivered is Tri.NO else "may drop the answer"
        yield " ".join(filter(None, (f"{step.hook}: {cited(step)}", f"{sure}: {short(step)}")))

    def _line(self, rewrite: Rewrite) -> str:
        before = rewrite.before
        if rewrite.field == "source" and len(self.replies) > 1:
            before = "the endpoint's"
        change = f"{rewrite.field} {before} → {rewrite.after}"
        return f"{rewrite.hook}: {rewrite.by} {_UNDONE[rewrite.field]}: {change}"


def grouped(replies: Sequence[Reply]) -> tuple[ReplyGroup, ...]:
    """Return the answers, those together that fare alike, in the order of the first of each."""
    found: dict[object, list[Reply]] = {}
    for reply in replies:
        found.setdefault(tuple(_key(reply)), []).append(reply)
    return tuple(ReplyGroup(tuple(group)) for group in found.values())


def _key(reply: Reply) -> Iterator[object]:
    yield reply.passes
    yield reply.why
    for rewrite in reply.rewrites:
        before = "" if rewrite.field == "source" else rewrite.before
        yield rewrite.hook, rewrite.by, before, rewrite.after
    lost = reply.delivered not in (None, Tri.YES)
    yield lost and (reply.delivered, reply.steps[-1])


def _place(reply: Reply) -> str:
    return place_text(reply.destination.address, reply.destination.port)
