"""Differences as they come and go."""

from __future__ import annotations

import time
from collections.abc import Callable

from diagnostics.drift.model import DriftReport
from diagnostics.fate.difference import Difference

_Identity = tuple[str, str, str, tuple[str, ...]]


class Watch:
    """
    Tells what is new and what is gone since the last look.

    Args:
        say: Prints a line.
        now: The wall clock, seconds since the epoch.
    """

    def __init__(self, say: Callable[[str], None], now: Callable[[], float] = time.time) -> None:
        self._say = say
        self._now = now
        self._since: dict[_Identity, float] = {}
        self._first = True

    def seen(self, report: DriftReport) -> None:
        """Compare with the last report; one without an answer changes nothing."""
        if report.undetermined:
            self._say(f"{self._clock()} undetermined: {report.undetermined}")
            return
        current = {_identity(one): one for one in report.differences}
        for identity in [known for known in self._since if known not in current]:
            age = self._now() - self._since.pop(identity)
            self._say(f"{self._clock()} - {_words(identity)}: gone after {age:.0f} s")
        for identity, one in current.items():
            if identity not in self._since:
                self._since[identity] = self._now()
                said = f"expected: {one.expected}; actual: {one.actual}"
                self._say(f"{self._clock()} + {_words(identity)}: {said}")
        if self._first and not current:
            self._say(f"{self._clock()} kernel and API agree")
        self._first = False

    def _clock(self) -> str:
        return time.strftime("%H:%M:%S", time.localtime(self._now()))


def _identity(one: Difference) -> _Identity:
    return one.kind.value, one.service, one.family, one.subject


def _words(identity: _Identity) -> str:
    kind, service, family, subject = identity
    return " ".join(filter(None, (kind, service, family, ", ".join(subject))))
