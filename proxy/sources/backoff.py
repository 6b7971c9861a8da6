"""Waiting times between failed attempts, spread so that nodes do not come back in step."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 0.8
LONGEST_S = 30.0


class Backoff:
    """
    Doubling waits with jitter.

    The n-th wait is random in [d, 2d) with d = 0.8 s · 2ⁿ, and never over 30 s: the range the
    Kubernetes client libraries use between attempts to list and watch.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._base_s = FIRST_S

    def next_s(self) -> float:
        """Return the next wait in seconds, and make the one after it longer."""
        wait_s = self._base_s * (1 + self._random())
        self._base_s = min(self._base_s * 2, LONGEST_S / 2)
        return wait_s

    def reset(self) -> None:
        """Start again with the shortest wait: things work."""
        self._base_s = FIRST_S
