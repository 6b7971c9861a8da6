"""What is wrong with a connection table, as far as its numbers tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diagnostics.conntrack.counters import MEANINGS, Counters
from diagnostics.conntrack.growth import Growth
from diagnostics.conntrack.limits import Limits
from diagnostics.conntrack.model import protocol_name
from diagnostics.conntrack.survey import UDP, Survey

ERROR, WARNING, INFO = "error", "warning", "info"

FULL, NEARLY_FULL = 0.95, 0.80
LONG_LIST = 8.0
"""Mean length of a bucket's list at kube-proxy's ratio of 4 entries to a bucket, full."""

SOON_S = 24 * 3600
_RESTART_SHARE = 0.01
_LOSSES = ("drop", "early_drop", "chaintoolong", "insert_failed")


@dataclass(frozen=True, slots=True)
class Notice:
    """
    Something worth knowing.

    Attributes:
        name: stable, for programs: ``use``, ``growth``, ``buckets``, ``stale`` or the counter's.
        level: error, warning or info.
        text: what is the case, with its numbers.
        cause, remedy: why, and what to do.
        proof: the command that shows it.
    """

    name: str
    level: str
    text: str
    cause: str = ""
    remedy: str = ""
    proof: str = ""


def assess(
    limits: Limits, counters: Counters | None, growth: Growth | None, found: Survey | None
) -> tuple[Notice, ...]:
    """Return the notices, the gravest first; what is not known gives none."""
    notices = [
        *_use(limits),
        *_growth(growth),
        *_buckets(limits),
        *_counters(counters, growth),
        *_stale(found),
    ]
    return tuple(sorted(notices, key=lambda one: (ERROR, WARNING, INFO).index(one.level)))


def _use(limits: Limits) -> Iterator[Notice]:
    use = limits.use
    if use is None or use < NEARLY_FULL:
        return
    text = f"{use:.0%} of the table is taken: {limits.count} of {limits.maximum} entries"
    yield Notice(
        "use",
        ERROR if use >= FULL else WARNING,
        text,
        "more connections than the limit was made for, or time-outs that keep dead ones for long",
        "kpctl conntrack capacity",
        "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
    )


def _growth(growth: Growth | None) -> Iterator[Notice]:
    if growth is None or growth.full_in_s is None or growth.full_in_s > SOON_S:
        return
    yield Notice(
        "growth",
        WARNING,
        f"the table grows by {growth.per_second:.1f} entries a second and is full in "
        f"{span(growth.full_in_s)} if that goes on",
        "connections are opened faster than old ones are forgotten",
        "kpctl conntrack capacity",
        "kpctl conntrack status --interval 1m",
    )


def _buckets(limits: Limits) -> Iterator[Notice]:
    length = limits.list_length
    if length is None or length <= LONG_LIST:
        return
    yield Notice(
        "buckets",
        WARNING,
        f"a bucket's list has {length:.1f} nodes on average, so that each look-up is slow",
        f"{limits.buckets} buckets are few for {limits.count} entries",
        "kpctl conntrack tune",
        "sysctl net.netfilter.nf_conntrack_buckets",
    )


def _counters(counters: Counters | None, growth: Growth | None) -> Iterator[Notice]:
    for name in _LOSSES:
        yield from _loss(name, counters, growth)
    restarts = counters.get("search_restart") if counters else None
    found = counters.get("found") if counters else None
    if counters and restarts and found and restarts > found * _RESTART_SHARE:
        yield _notice("search_restart", INFO, f"search_restart is {restarts}")


def _loss(name: str, counters: Counters | None, growth: Growth | None) -> Iterator[Notice]:
    total = counters.get(name) if counters else None
    if not total:
        return
    grown = growth.grown.get(name) if growth and growth.grown else None
    if grown and growth:
        text = f"{name} grew by {grown} in {span(growth.interval_s)}, to {total}"
        yield _notice(name, ERROR if name != "insert_failed" else WARNING, text)
    elif grown == 0:
        yield _notice(name, INFO, f"{name} is {total} and did not grow")
    else:
        level = INFO if name == "insert_failed" else WARNING
        yield _notice(name, level, f"{name} is {total} since the start of the node")


def _notice(name: str, level: str, text: str) -> Notice:
    meaning = MEANINGS[name]
    return Notice(
        name,
        level,
        f"{text}: {meaning.what}",
        meaning.cause,
        meaning.remedy,
        "conntrack -S",
    )


def _stale(found: Survey | None) -> Iterator[Notice]:
    totals: dict[int, int] = {}
    for (protocol, _), count in (found.stale_total if found else {}).items():
        totals[protocol] = totals.get(protocol, 0) + count
    for protocol in sorted(totals, key=lambda one: one != UDP):
        remedy = "kpctl conntrack audit --delete"
        if protocol != UDP:
            remedy = f"nothing: they end by themselves; or {remedy} --protocol all"
        yield Notice(
            "stale",
            WARNING if protocol == UDP else INFO,
            f"{totals[protocol]} {protocol_name(protocol)} entries lead to no current endpoint",
            "their endpoint or Service went, or they began before the Service's rules",
            remedy,
            "kpctl conntrack audit",
        )


def span(seconds: float) -> str:
    """Return a length of time in its two greatest units: ``3h 20m``, ``45s``."""
    whole = round(seconds)
    if whole < 1:
        return f"{seconds:.1f}s"
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, whole = divmod(whole, size)
        if number:
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2])
