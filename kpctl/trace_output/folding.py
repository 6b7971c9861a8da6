"""Which ways of a fork to show when there are many alike: the first three, and how many more."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import NamedTuple

from kpctl.trace_output.story import Fork, Told, Way
from kpctl.trace_output.wording import kind_of_chain, place

SHOWN = 3
_MOST_UNFOLDED = SHOWN + 1


class Folded(NamedTuple):
    """What is shown of a fork, with the numbers of its ways, and what is not."""

    shown: tuple[tuple[int, Way], ...]
    hidden: tuple[Way, ...] = ()

    @property
    def text(self) -> str:
        """``… 47 more alike: 10.0.0.4:80, 10.0.0.5:80 … (1/50 each)``."""
        places = list(dict.fromkeys(place(way.packet) for way in self.hidden if way.packet))
        named = ", ".join(islice(places, SHOWN)) + (" …" if len(places) > SHOWN else "")
        shares = {way.share for way in self.hidden}
        each = f" ({shares.pop()} each)" if len(shares) == 1 else ""
        return f"… {len(self.hidden)} more alike: {named}{each}; --all shows them"


def folded(fork: Fork, *, everything: bool) -> Folded:
    """Return what to show of a fork."""
    if everything:
        return Folded(tuple(enumerate(fork.ways)))
    kinds = [_kind(number, way) for number, way in enumerate(fork.ways)]
    many = Counter(kinds)
    seen: Counter[object] = Counter()
    shown, hidden = [], []
    for number, (way, kind) in enumerate(zip(fork.ways, kinds, strict=True)):
        seen[kind] += 1
        if many[kind] > _MOST_UNFOLDED and seen[kind] > SHOWN:
            hidden.append(way)
        else:
            shown.append((number, way))
    return Folded(tuple(shown), tuple(hidden))


def _kind(number: int, way: Way) -> object:
    """Return what ways alike share: the kinds of their chains, and how they go on behind them."""
    hook = next((item.step.hook for item in way.items if isinstance(item, Told)), "")
    own: list[object] = []
    later = False
    for item in way.items:
        if isinstance(item, Told) and item.step.hook == hook:
            own.append((item.step.table, kind_of_chain(item.step.chain), item.step.result))
        elif isinstance(item, Fork):
            own.append(tuple(_kind(at, one) for at, one in enumerate(item.ways)))
        else:
            later = True
    # One that is told to its end is like those that refer to it.
    on = way.like if way.like is not None else number if later else None
    return way.maybe, way.packet is None, tuple(own), on
