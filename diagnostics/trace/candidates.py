"""
Which rules of a long chain can concern a destination at all.

KUBE-SERVICES has a rule for every address of every Service; all but a few name another one.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from heapq import merge
from typing import NamedTuple

from diagnostics.iptables.model import Chain
from diagnostics.trace.packet import Address

_LONG = 64
_HOST = re.compile(r"-d (\S+?)/(?:32|128) ")


class _Index(NamedTuple):
    by_host: dict[str, list[int]]
    others: list[int]


class Candidates:
    """Indexes of long chains, made when first asked for."""

    def __init__(self) -> None:
        self._indexes: dict[int, _Index] = {}

    def of(self, chain: Chain, destination: Address, start: int) -> Iterable[int]:
        """Return the rules, from *start* on and in order, that may concern a destination."""
        if len(chain.raw) < _LONG:
            return range(start, len(chain.raw))
        index = self._indexes.get(id(chain))
        if index is None:
            index = self._indexes[id(chain)] = _index(chain)
        named = index.by_host.get(str(destination), [])
        return merge(
            named[bisect_left(named, start) :], index.others[bisect_left(index.others, start) :]
        )


def _index(chain: Chain) -> _Index:
    by_host: dict[str, list[int]] = defaultdict(list)
    others: list[int] = []
    for number, text in enumerate(chain.raw):
        # A negation stands before the option: "! -d 10.0.0.1/32".
        found = _HOST.match(text)
        if found:
            by_host[found[1]].append(number)
        else:
            others.append(number)
    return _Index(dict(by_host), others)
