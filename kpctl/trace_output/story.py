"""
A trace as a story: steps in order, forks where the way depends on chance or on what nobody knows.

Behind a fork ways usually do the same again (routing, FORWARD, POSTROUTING). What all ways of a
fork have in common there is told once, behind the fork.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice, takewhile

from diagnostics.trace.packet import Packet, place_text
from diagnostics.trace.walk import End, Step, Verdict

# Targets of iptables and statements of nftables; "ct status dnat" is none.
_TRANSLATES = re.compile(r" -j (?:DNAT|REDIRECT)\b|\bdnat (?:ip6? )?to |\bredirect\b")
_GOES_TO = " goes to "
_MOST_DEVICES = 3


@dataclass(frozen=True, slots=True)
class Told:
    """A step; ``to`` is the place ``address:port`` that it sends the packet to, or ""."""

    step: Step
    to: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """
    One side of a fork.

    ``ends`` are all that it leads to; ``like`` is the number, from 0, of an earlier side that goes
    on in the same way, so that nothing needs to be told twice.
    """

    share: Fraction
    maybe: bool
    ends: tuple[End, ...]
    items: tuple[Item, ...]
    like: int | None = None

    @property
    def packet(self) -> Packet | None:
        """The packet as it arrives; None if it does not, or if ends of this side differ."""
        states = {(end.branch.packet, end.verdict) for end in self.ends}
        packet, verdict = next(iter(states))
        return packet if len(states) == 1 and verdict is Verdict.ACCEPT else None


@dataclass(frozen=True, slots=True)
class Fork:
    """Ways that exclude each other."""

    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a way ends."""

    end: End


Item = Told | Fork | Ending


@dataclass(frozen=True, slots=True)
class _Tail:
    end: End
    left: tuple[Told, ...]


def goes_on(way: Way, like: Way) -> str:
    """Return how a way goes on that is like an earlier one."""
    if way.packet is None or like.packet is None or not like.packet.is_translated:
        return "then as above"
    said = f"then as for {place_text(like.packet.dst, like.packet.dport)}"
    oif = way.packet.oif
    return f"{said}, but to device {oif}" if oif and oif != like.packet.oif else said


def story(ends: Sequence[End]) -> tuple[Item, ...]:
    """Return what happens, in order; () for no ends."""
    tails = [_Tail(end, _told(end)) for end in ends]
    return _tell(tails, "") if tails else ()


def _told(end: End) -> tuple[Told, ...]:
    steps, packet = end.branch.steps(), end.branch.packet
    chooses = _translating(steps) if packet.is_translated else None
    to = place_text(packet.dst, packet.dport)
    return tuple(Told(step, to if number == chooses else "") for number, step in enumerate(steps))


def _translating(steps: Sequence[Step]) -> int | None:
    for number, step in reversed(list(enumerate(steps))):
        if step.table == "ipvs" and step.text.startswith("-> "):
            return number
        if _TRANSLATES.search(step.text):
            return number
    return None


def _tell(tails: list[_Tail], hook: str) -> tuple[Item, ...]:
    common = _common([tail.left for tail in tails])
    hook = common[-1].step.hook if common else hook
    rest = [replace(tail, left=tail.left[len(common) :]) for tail in tails]
    if len(rest) == 1 or not any(tail.left for tail in rest):
        endings = {tail.end.state: Ending(tail.end) for tail in rest}
        return (*common, *endings.values())
    groups: dict[Told | None, list[_Tail]] = {}
    for tail in rest:
        groups.setdefault(tail.left[0] if tail.left else None, []).append(tail)
    if not common or not hook:
        hook = next(tail.left[0].step.hook for tail in rest if tail.left)
    return (*common, *_forked([_way(group, hook) for group in groups.values()], hook))


def _common(lists: Sequence[Sequence[Told]]) -> tuple[Told, ...]:
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*lists, strict=False))
    return tuple(column[0] for column in alike)


def _way(tails: list[_Tail], hook: str) -> Way:
    ends = tuple(tail.end for tail in tails)
    share = sum((end.branch.probability for end in ends), Fraction(0))
    maybe = any(end.branch.maybe for end in ends)
    return Way(share, maybe, ends, _tell(tails, hook))


def _forked(ways: list[Way], hook: str) -> tuple[Item, ...]:
    """Return a fork, and behind it what its ways have in common in later hooks."""
    later = [_later(way.items, hook) for way in ways]
    marks = [_marks(items) for items in later]
    if len(set(marks)) == 1:
        own = (
            replace(way, items=way.items[: len(way.items) - len(late)])
            for way, late in zip(ways, later, strict=True)
        )
        return (Fork(tuple(own)), *_shared(later))
    told: dict[object, int] = {}
    shown = []
    for number, (way, late, mark) in enumerate(zip(ways, later, marks, strict=True)):
        if mark in told and len(late) > 1:
            kept = way.items[: len(way.items) - len(late)]
            shown.append(replace(way, items=kept, like=told[mark]))
        else:
            told.setdefault(mark, number)
            shown.append(way)
    return (Fork(tuple(shown)),)


def _shared(later: Sequence[tuple[Item, ...]]) -> tuple[Item, ...]:
    """Return what ways have in common; where they are routed to, for all of them."""
    return tuple(_of_all(items) for items in zip(*later, strict=True))


def _of_all(items: tuple[Item, ...]) -> Item:
    first = items[0]
    texts = [item.step.text for item in items if isinstance(item, Told)]
    if not isinstance(first, Told) or len(set(texts)) == 1:
        return first
    # "10.0.0.1 goes to device cni0": routing is all that may differ.
    devices = dict.fromkeys(text.partition(_GOES_TO)[2] for text in texts)
    text = f"each endpoint{_GOES_TO}{' or '.join(islice(devices, _MOST_DEVICES))}"
    return Told(replace(first.step, text=text + (" …" if len(devices) > _MOST_DEVICES else "")))


def _later(items: tuple[Item, ...], hook: str) -> tuple[Item, ...]:
    for number, item in enumerate(items):
        if isinstance(item, Ending) or (isinstance(item, Told) and item.step.hook != hook):
            return items[number:]
    return ()


def _marks(items: tuple[Item, ...]) -> object:
    """Return what must be alike for two ways to be told as one; the endpoint itself is not."""
    return tuple(_mark(item) for item in items)


def _mark(item: Item) -> object:
    if isinstance(item, Told):
        step = item.step
        if step.hook == "routing":
            return "routing"
        return step.hook, step.table, step.chain, step.place, step.text, step.result
    if isinstance(item, Fork):
        return tuple((way.share, way.maybe, _marks(way.items)) for way in item.ways)
    end = item.end
    packet = end.branch.packet
    arrived = end.verdict is Verdict.ACCEPT and packet.is_translated
    return end.verdict, end.how, arrived, packet.source_rewritten
