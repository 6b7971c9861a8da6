"""Counts the most frequent of any number of things in bounded memory (Misra and Gries, 1982)."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MOST_KEPT = 50_000


class HeavyHitters(Generic[K]):
    """
    Counts by key; exact until more than *most* keys were met.

    From then on the rarest keys are let go, and a count may be too low by at most ``error``.
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self.counts: dict[K, int] = {}
        self.error = 0

    def add(self, key: K) -> None:
        """Count one."""
        counts = self.counts
        counts[key] = counts.get(key, 0) + 1
        if len(counts) > self._most:
            self._shrink()

    def _shrink(self) -> None:
        """Take the median count off all keys, and let those go that have nothing left."""
        off = sorted(self.counts.values())[len(self.counts) // 2]
        self.error += off
        self.counts = {key: count - off for key, count in self.counts.items() if count > off}

    def top(self, most: int) -> list[tuple[K, int]]:
        """Return the keys with the highest counts, highest first."""
        return heapq.nlargest(most, self.counts.items(), key=lambda item: item[1])
