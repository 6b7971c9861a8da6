"""
What proxies cost, as it was measured, and as it is to be expected at other sizes.

All figures: two cores, kernel 6.18, 3 endpoints for each Service, API server on the same machine;
kpctl's are those of docs/performance.md, kube-proxy's (1.36.2) were taken on the same machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.config.types import IPTABLES, IPVS, NFTABLES

KPCTL, KUBE_PROXY = "kpctl", "kube-proxy"
_ENDPOINTS = 3


@dataclass(frozen=True, slots=True)
class Point:
    """Costs at one number of Services: seconds to start, milliseconds a change, megabytes."""

    services: int
    start_s: float
    change_ms: float
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A program in a mode; ``note`` says what is particular about its points."""

    program: str
    mode: str
    points: tuple[Point, ...]
    note: str = ""


CURVES = (
    Curve(
        KPCTL,
        NFTABLES,
        (Point(1000, 0.47, 1.1, 42), Point(10000, 0.94, 1.1, 70), Point(50000, 3.5, 1.1, 209)),
    ),
    Curve(
        KUBE_PROXY,
        NFTABLES,
        (Point(1000, 0.9, 177, 70), Point(10000, 30.2, 6600, 253)),
        "memory at 10,000: the middle of 193 and 313 MB",
    ),
    Curve(KPCTL, IPTABLES, (Point(1000, 0.86, 8.4, 51), Point(10000, 4.5, 60, 91)), "nf_tables"),
    Curve(
        KUBE_PROXY,
        IPTABLES,
        (Point(1000, 1.4, 88, 72), Point(10000, 357, 2100, 241)),
        "nf_tables; a change at 10,000: the middle of 1.3 and 2.9 s",
    ),
    Curve(
        KPCTL,
        IPVS,
        (Point(100, 4.8, 2.0, 47), Point(1000, 4.7, 1.5, 52), Point(5000, 9.1, 1.9, 75)),
        "in user-mode Linux, several times slower than a machine",
    ),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """
    The expected cost of a mode at a size.

    Attributes:
        change_ms: from an endpoint's change to traffic that follows it, median.
        basis: ``measured``, ``interpolated``, ``extrapolated``; below all sizes that were
            measured ``at most``.
        source: at which numbers of Services the figures were measured.
    """

    program: str
    mode: str
    start_s: float
    change_ms: float
    memory_mb: float
    basis: str
    source: str


def equivalent_services(services: float, endpoints: float) -> float:
    """Return how many Services of 3 endpoints have as many Services and endpoints together."""
    return (services + endpoints) / (1 + _ENDPOINTS)


def costs(services: float, endpoints: float) -> tuple[Cost, ...]:
    """Return the costs of all modes that were measured; *endpoints* are those of all Services."""
    size = max(equivalent_services(services, endpoints), 1.0)
    return tuple(_cost(curve, size) for curve in CURVES)


def _cost(curve: Curve, size: float) -> Cost:
    points = curve.points
    at = next((n for n, one in enumerate(points) if one.services >= size), len(points) - 1)
    low, high = points[max(at - 1, 0)], points[max(at, 1)]
    exact = next((one for one in points if abs(one.services - size) < 0.5), None)
    if exact is not None:
        basis, used = "measured", [exact]
    elif points[0].services < size < points[-1].services:
        basis, used = "interpolated", [low, high]
    elif size < points[0].services:
        basis, used = "at most", [low]
        size = low.services
    else:
        basis, used = "extrapolated", [low, high]
    values = (
        _between(size, low, high, [one.start_s for one in (low, high)]),
        _between(size, low, high, [one.change_ms for one in (low, high)]),
        _between(size, low, high, [one.memory_mb for one in (low, high)]),
    )
    sizes = " and ".join(f"{one.services:,}" for one in used)
    source = f"measured at {sizes} Services" + (f" ({curve.note})" if curve.note else "")
    return Cost(curve.program, curve.mode, *values, basis, source)


def _between(size: float, low: Point, high: Point, values: Sequence[float]) -> float:
    """Return the value on the power law through two points."""
    slope = math.log(values[1] / values[0]) / math.log(high.services / low.services)
    value: float = values[0] * (size / low.services) ** slope
    return value
