"""``conntrack status`` and ``capacity``: how full the table is, and how large it should be."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import typer

from diagnostics.conntrack.assess import ERROR, WARNING, assess
from diagnostics.conntrack.capacity import Demand, advise
from diagnostics.conntrack.report import Status, capacity_report, status_report
from kpctl.conntrack.reading import (
    growth,
    limits_with,
    read,
    say_gaps,
    say_inexact,
    seconds,
    usage,
    walk,
)
from kpctl.conntrack.status_view import capacity_lines, status_lines
from kpctl.exit_codes import FINDINGS, OK, UNDETERMINED
from kpctl.reading import Where


class Asked(NamedTuple):
    """
    What was asked.

    Attributes:
        interval, since: how to tell growth: by waiting, or from a former answer's file.
        top: how many rows each list has.
        entries, horizon: of capacity: for how many, or for how long ahead.
        output: table or json.
    """

    where: Where
    interval: str
    since: str
    output: str
    top: int = 10
    entries: int = 0
    horizon: str = ""


def status(asked: Asked) -> int:
    """Tell how full the table is and who fills it; return the exit code."""
    reading = read(asked.where)
    facts = reading.facts
    found = walk(reading) if facts.walkable else None
    limits = limits_with(facts.limits, found)
    rate = growth(facts, limits, asked.interval, asked.since)
    notices = assess(limits, facts.counters, rate, found)
    told = Status(facts, limits, found, reading.naming, rate, notices, reading.gaps)
    if asked.output == "json":
        _print_json(status_report(told, asked.top))
    else:
        typer.echo("\n".join(status_lines(told, asked.top)))
    say_gaps(reading.gaps, found)
    say_inexact(found)
    if any(one.level in (ERROR, WARNING) for one in notices):
        return FINDINGS
    unknown = limits.count is None or limits.maximum is None or found is None
    return UNDETERMINED if unknown else OK


def capacity(asked: Asked) -> int:
    """Tell how large the table should be; return the exit code."""
    horizon_s = seconds("--horizon", asked.horizon) if asked.horizon else 0.0
    if horizon_s and not (asked.interval or asked.since):
        raise usage("--horizon needs to know the growth: add --interval or --since")
    reading = read(asked.where)
    facts = reading.facts
    found = walk(reading) if facts.walkable else None
    limits = limits_with(facts.limits, found)
    rate = growth(facts, limits, asked.interval, asked.since)
    advice = advise(limits, reading.proxy, Demand(asked.entries, horizon_s), rate, found)
    gaps = facts.gaps
    if asked.output == "json":
        _print_json(capacity_report(advice, limits, rate, gaps))
    else:
        typer.echo("\n".join(capacity_lines(advice, limits, rate)))
    say_gaps(gaps, found)
    if limits.count is None and not asked.entries:
        return UNDETERMINED
    too_small = bool(limits.maximum) and any(
        one.differs for one in advice.settings if one.name.endswith("nf_conntrack_max")
    )
    return FINDINGS if too_small else OK


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode(value).decode())
