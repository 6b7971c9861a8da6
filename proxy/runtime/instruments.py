"""
Counters, gauges and histograms that cost next to nothing to update.

Their values become samples only when somebody scrapes. prometheus_client writes the exposition,
but is not imported before that (10 MB on its own), and its own instruments cannot be used:
they print ``le="1.0"`` where Kubernetes prints ``le="1"``, which are different series to a query.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Labels = tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Values:
    """
    One number per combination of label values.

    Without labels it exists from the start, at zero; with labels a series exists after it was
    changed for the first time.
    """

    name: str
    help: str
    labels: Labels = ()
    values: dict[Labels, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every series, as at the start."""
        with self.lock:
            self.values = {} if self.labels else {(): 0}

    def fill(self, metric: Metric) -> Metric | None:
        """Add the samples of a scrape to *metric*; None without any."""
        with self.lock:
            values = sorted(self.values.items())
        for labels, value in values:
            metric.add_metric(labels, value)  # type: ignore[attr-defined]
        return metric if values else None


@dataclass(slots=True, eq=False)
class Counter(_Values):
    """Numbers that only grow."""

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add *by*, which is not negative, to the series of these label values."""
        with self.lock:
            self.values[labels] = self.values.get(labels, 0) + by

    def family(self) -> Metric | None:
        """The samples for a scrape; None without any."""
        from prometheus_client.core import CounterMetricFamily

        return self.fill(CounterMetricFamily(self.name, self.help, labels=self.labels))


@dataclass(slots=True, eq=False)
class Gauge(_Values):
    """Numbers that go up and down."""

    def set(self, value: float, *labels: str) -> None:
        """Set the series of these label values."""
        with self.lock:
            self.values[labels] = value

    def family(self) -> Metric | None:
        """The samples for a scrape; None without any."""
        from prometheus_client.core import GaugeMetricFamily

        return self.fill(GaugeMetricFamily(self.name, self.help, labels=self.labels))


@dataclass(slots=True)
class _Series:
    """``counts`` has one entry per bucket and one for what exceeds the last; not cumulative."""

    counts: list[int]
    total: float = 0.0


@dataclass(slots=True, eq=False)
class Histogram:
    """Observations counted in buckets; ``bounds`` are their inclusive upper ends, ascending."""

    name: str
    help: str
    bounds: Sequence[float]
    labels: Labels = ()
    series: dict[Labels, _Series] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def observe(self, value: float, *labels: str) -> None:
        """Count *value* in the series of these label values."""
        place = bisect_left(self.bounds, value)
        with self.lock:
            series = self.series.get(labels)
            if series is None:
                series = self.series[labels] = _Series([0] * (len(self.bounds) + 1))
            series.counts[place] += 1
            series.total += value

    def family(self) -> Metric | None:
        """The samples for a scrape; None without any."""
        from prometheus_client.core import HistogramMetricFamily

        with self.lock:
            copies = [(key, list(one.counts), one.total) for key, one in self.series.items()]
        metric = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, counts, total in sorted(copies):
            metric.add_metric(labels, list(self._cumulative(counts)), total)
        return metric if copies else None

    def _cumulative(self, counts: list[int]) -> Iterator[tuple[str, float]]:
        from prometheus_client.utils import floatToGoString

        running = 0
        for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
            running += count
            text = floatToGoString(bound)  # type: ignore[no-untyped-call] # it has no annotations
            yield text.removesuffix(".0"), running


@dataclass(slots=True, eq=False)
class Sampled:
    """A number that only grows and is kept elsewhere; ``read`` returns None when it is not."""

    name: str
    help: str
    read: Callable[[], int | None]

    def family(self) -> Metric | None:
        """The sample for a scrape; None without any."""
        from prometheus_client.core import CounterMetricFamily

        value = self.read()
        return None if value is None else CounterMetricFamily(self.name, self.help, value=value)


Instrument = Counter | Gauge | Histogram | Sampled
