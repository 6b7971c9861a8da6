"""
What a walk through rules produces: steps, branches with exact probabilities, and outcomes.

A branch either happens with a known probability (``statistic``, ``numgen``, a scheduler), or it is
MAYBE: whether a match holds cannot be decided from outside the kernel, so both ways are followed
and say so, each with half of the probability, so that all ends together always have 1. Two ways
that end alike are one again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from diagnostics.trace.packet import Packet


class Tri(enum.Enum):
    """Whether a match holds."""

    NO = "no-match"
    YES = "match"
    MAYBE = "maybe"

    def __invert__(self) -> Tri:
        return {Tri.NO: Tri.YES, Tri.YES: Tri.NO, Tri.MAYBE: Tri.MAYBE}[self]


def tri(value: bool) -> Tri:
    """Return YES or NO."""
    return Tri.YES if value else Tri.NO


class Verdict(enum.Enum):
    """How a hook ends for a packet."""

    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Step:
    """
    One rule, map element, virtual server or routing decision that the packet met.

    ``place`` cites it (``rule 4``, ``handle 12``, ``policy``), ``text`` is its own text, ``why``
    says in words why it matters.
    """

    hook: str
    table: str
    chain: str
    place: str
    text: str
    result: Tri
    why: str


@dataclass(frozen=True, slots=True)
class Trail:
    """Steps so far, as a linked list: branches share what they have in common."""

    step: Step
    before: Trail | None = None

    def steps(self) -> tuple[Step, ...]:
        """Return all steps in order."""
        found: list[Step] = []
        here: Trail | None = self
        while here is not None:
            found.append(here.step)
            here = here.before
        return tuple(reversed(found))


@dataclass(frozen=True, slots=True)
class Branch:
    """
    A packet in one of the states it may be in.

    ``probability`` is the branch's part of all packets; ``maybe`` says that the branch exists only
    if an undecidable match goes one way, which counts for half. ``opaque``: what a rule does with
    it cannot be told, so that its end may be another one.
    """

    packet: Packet
    probability: Fraction = Fraction(1)
    maybe: bool = False
    opaque: bool = False
    trail: Trail | None = None

    def met(self, step: Step) -> Branch:
        """Return the branch with one more step."""
        trail = Trail(step, self.trail)
        return Branch(self.packet, self.probability, self.maybe, self.opaque, trail)

    def as_(self, packet: Packet) -> Branch:
        """Return the branch with another state of the packet."""
        return Branch(packet, self.probability, self.maybe, self.opaque, self.trail)

    def share(self, part: Fraction) -> Branch:
        """Return the branch with a part of its probability."""
        # Most rules do not draw: fractions and copies are the dear part of a walk.
        if part == 1:
            return self
        return replace(self, probability=self.probability * part)

    def steps(self) -> tuple[Step, ...]:
        """Return the steps of this branch in order."""
        return self.trail.steps() if self.trail else ()


@dataclass(frozen=True, slots=True)
class End:
    """How a branch left a hook; ``how`` says what a REJECT answers, "" otherwise."""

    branch: Branch
    verdict: Verdict
    how: str = ""

    @property
    def state(self) -> tuple[Packet, Verdict, str]:
        """What two ends must share to be the same."""
        return self.branch.packet, self.verdict, self.how


def either(yes: Iterable[End], no: Iterable[End]) -> Iterator[End]:
    """
    Return the ends of a MAYBE: one of the two ways, or halves of both, marked, if they differ.

    The probabilities of each way sum to that of the branch before the match, and so do those of
    the result. A way that was not followed has no ends.
    """
    first, second = list(yes), list(no)
    if _distribution(first) == _distribution(second):
        yield from first
        return
    part = Fraction(1, 2) if first and second else Fraction(1)
    halves = [
        replace(end, branch=replace(end.branch.share(part), maybe=True))
        for end in (*first, *second)
    ]
    shares = _distribution(halves)
    for end in halves:
        # Of several that end alike the first tells how; else their number doubles at each MAYBE.
        if (share := shares.pop(end.state, None)) is not None:
            yield replace(end, branch=replace(end.branch, probability=share))


def _distribution(ends: Iterable[End]) -> dict[tuple[Packet, Verdict, str], Fraction]:
    found: dict[tuple[Packet, Verdict, str], Fraction] = {}
    for end in ends:
        found[end.state] = found.get(end.state, Fraction(0)) + end.branch.probability
    return found
