"""How fast the table fills: what two looks at it tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import msgspec

from diagnostics.conntrack.counters import Counters


class SampleError(ValueError):
    """A file is no former answer of ``kpctl conntrack status -o json``."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the table; ``at_s`` in seconds since 1970."""

    at_s: float
    count: int
    counters: Counters | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """
    What happened between two samples.

    Attributes:
        per_second: entries that were added, less those that went; below 0 the table empties.
        full_in_s: until the limit is reached if it goes on like this, None if it never is.
        grown: by how much each counter grew, None when they are not known.
    """

    interval_s: float
    per_second: float
    full_in_s: float | None
    grown: Counters | None

    def after(self, seconds: float, count: int) -> int:
        """Return how many entries there will be in so many seconds, *count* being there now."""
        return max(0, round(count + self.per_second * seconds))


def growth_between(before: Sample, now: Sample, maximum: int | None) -> Growth | None:
    """Return what happened; None when no time passed. *maximum* 0 or None is no limit."""
    interval = now.at_s - before.at_s
    if interval <= 0:
        return None
    rate = (now.count - before.count) / interval
    full = (maximum - now.count) / rate if maximum and rate > 0 else None
    grown = now.counters.since(before.counters) if now.counters and before.counters else None
    return Growth(interval, rate, None if full is None else max(0.0, full), grown)


def read_sample(data: bytes) -> Sample:
    """Read the sample in a former answer; raises SampleError."""
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise SampleError(f"is no JSON: {error}") from error
    if not isinstance(value, dict) or value.get("kind") != "ConntrackStatus":
        raise SampleError("is no answer of: kpctl conntrack status -o json")
    table = value.get("table")
    at, count = value.get("time"), table.get("count") if isinstance(table, dict) else None
    if not isinstance(at, int | float) or not _is_count(count):
        raise SampleError("does not tell when it was taken, or how many entries there were")
    counters = value.get("counters")
    told = counters.items() if isinstance(counters, dict) else ()
    values = {name: number for name, number in told if _is_count(number)}
    return Sample(float(at), count, Counters(values) if values else None)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < 1 << 64
