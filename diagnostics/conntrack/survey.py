"""One walk over a connection table: who fills it, in which states, and what in it is stale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from diagnostics.conntrack.heavy import HeavyHitters
from diagnostics.conntrack.model import ASSURED, SEEN_REPLY, Entry
from diagnostics.conntrack.truth import Truth
from diagnostics.readers.problems import LineProblem
from proxy.conntrack.entries import TCP_STATES
from proxy.conntrack.stale import Place, Reason

MOST_STALE = 10_000
"""Stale entries kept for the list, unless more are wanted; the others are only counted."""

TCP, UDP = 6, 17
ESTABLISHED = TCP_STATES.index("ESTABLISHED")
ENDING = frozenset(
    TCP_STATES.index(name) for name in ("FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE")
)
"""TCP states of connections that end or have ended: no client waits on them for an answer."""

_HOUR_S = 3600
_REPLY_AND_ASSURED = SEEN_REPLY | ASSURED
_MOST_REMEMBERED = 20_000


Pair = tuple[int, Place, Place]
"""Protocol, the place that was called, and the endpoint; a plain tuple, as a walk makes many."""


class StaleEntry(NamedTuple):
    """An entry that leads where no Service points; ``raw`` as its table lists it."""

    reason: Reason
    protocol: int
    called: Place
    target: Place
    raw: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    Which stale entries are of interest.

    Attributes:
        protocols: their numbers; empty for all.
        ending: TCP connections that end, too.
        most: how many to keep of UDP, and as many of others.
    """

    protocols: frozenset[int] = frozenset()
    ending: bool = False
    most: int = MOST_STALE

    def __call__(self, entry: Entry) -> bool:
        """Return whether an entry is one of them."""
        if self.protocols and entry.protocol not in self.protocols:
            return False
        return self.ending or entry.protocol != TCP or entry.state not in ENDING


@dataclass(slots=True)
class Survey:
    """
    What a walk found.

    Attributes:
        total: entries.
        kinds: how many by protocol, TCP state number and status (SEEN_REPLY and ASSURED).
        sources: how many by the client's packed address.
        pairs: how many by called place and endpoint, of entries to a Service.
        others: the same of other translated entries; all of them where Services are not known.
        left_hours: how many established TCP connections by whole hours left.
        stale, stale_others: the stale entries kept of UDP and of other protocols, so that many
            of the one do not crowd out the other.
        stale_total: all of them, by protocol and reason.
        problems, notes: lines that are no entries, and what makes the numbers inexact.
    """

    total: int = 0
    kinds: dict[tuple[int, int, int], int] = field(default_factory=dict)
    sources: HeavyHitters[bytes] = field(default_factory=HeavyHitters)
    pairs: HeavyHitters[Pair] = field(default_factory=HeavyHitters)
    others: HeavyHitters[Pair] = field(default_factory=HeavyHitters)
    left_hours: Counter[int] = field(default_factory=Counter)
    stale: list[StaleEntry] = field(default_factory=list)
    stale_others: list[StaleEntry] = field(default_factory=list)
    stale_total: Counter[tuple[int, Reason]] = field(default_factory=Counter)
    problems: tuple[LineProblem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> int:
        """By how much one of them may be too low."""
        return max(self.sources.error, self.pairs.error, self.others.error)

    def unreplied(self) -> int:
        """Return how many entries never saw an answer."""
        return sum(count for kind, count in self.kinds.items() if not kind[2] & SEEN_REPLY)

    def droppable(self) -> int:
        """Return how many entries the kernel may throw out early: those that are not assured."""
        return sum(count for kind, count in self.kinds.items() if not kind[2] & ASSURED)

    def established(self) -> int:
        """Return how many TCP connections are established."""
        return sum(n for kind, n in self.kinds.items() if kind[:2] == (TCP, ESTABLISHED))

    def idle_longer(self, than_s: int, timeout_s: int) -> int:
        """
        Return how many established TCP connections have been idle longer, to the hour.

        Args:
            than_s: How long, in seconds.
            timeout_s: What the time left starts from, nf_conntrack_tcp_timeout_established.
        """
        most = (timeout_s - than_s) // _HOUR_S
        return sum(count for hours, count in self.left_hours.items() if hours < most)


def survey(entries: Iterable[Entry], truth: Truth | None, wanted: Wanted | None = None) -> Survey:
    """
    Walk *entries* once; memory is bounded however many there are.

    Args:
        entries: A table's.
        truth: Where Services are; None leaves it open what is stale.
        wanted: Which stale entries to keep; None keeps none and only counts.
    """
    found = Survey()
    kinds, left_hours, sources = found.kinds, found.left_hours, found.sources.add
    pairs, others = found.pairs.add, found.others.add
    known = truth.known if truth else _unknown
    reason_of = _remembered(truth)
    total = 0
    for entry in entries:
        total += 1
        protocol, client, called, target, status, state, left, _ = entry
        kind = (protocol, state, status & _REPLY_AND_ASSURED)
        kinds[kind] = kinds.get(kind, 0) + 1
        sources(client)
        if state == ESTABLISHED and left >= 0:
            left_hours[left // _HOUR_S] += 1
        pair = (protocol, called, target)
        if known(protocol, called):
            pairs(pair)
        elif called != target:
            others(pair)
        else:
            continue  # untranslated, and no Service's: nobody's rules made it
        reason = reason_of(pair)
        if reason is not None:
            _keep(found, reason, entry, wanted)
    found.total = total
    return found


def _remembered(truth: Truth | None) -> Callable[[Pair], Reason | None]:
    """Return a function that gives verdicts; most entries have a pair that was there before."""
    if truth is None:
        return lambda _pair: None
    remembered: dict[Pair, Reason | None] = {}

    def reason_of(pair: Pair) -> Reason | None:
        try:
            return remembered[pair]
        except KeyError:
            pass
        if len(remembered) > _MOST_REMEMBERED:
            remembered.clear()
        reason = remembered[pair] = truth.verdict(*pair)
        return reason

    return reason_of


def _keep(found: Survey, reason: Reason, entry: Entry, wanted: Wanted | None) -> None:
    if not (wanted or Wanted())(entry):
        return
    found.stale_total[entry.protocol, reason] += 1
    kept = found.stale if entry.protocol == UDP else found.stale_others
    if wanted is not None and len(kept) < wanted.most:
        kept.append(
            StaleEntry(reason, entry.protocol, entry.called, entry.target, bytes(entry.raw))
        )


def _unknown(_protocol: int, _called: Place) -> bool:
    return False


def state_names(found: Survey) -> Iterator[tuple[int, str, int]]:
    """Yield protocol, state and number, most numerous first; but for TCP, whether answered."""
    counted: Counter[tuple[int, str]] = Counter()
    for (protocol, state, status), count in found.kinds.items():
        name = TCP_STATES[state] if protocol == TCP and state < len(TCP_STATES) else ""
        if protocol != TCP:
            name = "answered" if status & SEEN_REPLY else "UNREPLIED"
        counted[protocol, name] += count
    for (protocol, name), count in counted.most_common():
        yield protocol, name, count
