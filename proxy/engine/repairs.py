"""When to repair what somebody else changed: at once, but not in a race with another writer."""

from __future__ import annotations

_QUIET_S = 10.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class RepairPacing:
    """
    Paces the repairs of one table.

    The first repair is due at once. Repairs that follow each other within ten seconds wait longer
    and longer, because then two programs rewrite the same table in turn.
    """

    def __init__(self) -> None:
        self.due = float("inf")
        self._last = float("-inf")
        self._pause_s = 0.0

    def needed(self, now: float) -> None:
        """Note a foreign change at *now* (monotonic seconds)."""
        if now - self._last > _QUIET_S + self._pause_s:
            self._pause_s = 0.0
        self.due = min(self.due, max(now, self._last + self._pause_s))

    def settled(self, now: float) -> None:
        """Note that the table was restored at *now*, if that was needed at all."""
        if self.due < float("inf"):
            self.done(now)

    def done(self, now: float) -> None:
        """Note that the table was restored at *now*."""
        self.due = float("inf")
        self._last = now
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
