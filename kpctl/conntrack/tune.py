"""``conntrack tune``: prints advised settings, and applies or takes them back on --yes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import typer

from diagnostics.conntrack.capacity import Capacity, Demand, Setting, advise
from kpctl.conntrack import tuning
from kpctl.conntrack.reading import Reading, limits_with, read, say_gaps, usage
from kpctl.exit_codes import ENVIRONMENT, OK, UNDETERMINED
from kpctl.reading import Where, environment_error

ROOT = Path("/")


class Asked(NamedTuple):
    """What ``tune`` was asked; ``entries`` 0: what is there now."""

    where: Where
    entries: int
    yes: bool
    undo: bool
    output: str


def tune(asked: Asked) -> int:
    """Print or apply; return the exit code."""
    if asked.where.dump and (asked.yes or asked.undo):
        raise usage("--yes and --undo change this node, not a dump (--from)")
    try:
        return _undo(asked) if asked.undo else _tune(asked)
    except tuning.TuneError as error:
        raise environment_error(str(error)) from error


def _undo(asked: Asked) -> int:
    plan = tuning.undo_plan(ROOT)
    if asked.yes:
        return _say(tuning.undo(ROOT), asked.output)
    if asked.output == "json":
        _print_json({"kind": "ConntrackTuning", "settings": [_setting(one) for one in plan]})
    else:
        for one in plan:
            typer.echo(f"{one.name} = {one.value}")
    typer.echo("note: nothing was changed; add --yes to go back to these values", err=True)
    return OK


def _tune(asked: Asked) -> int:
    reading = read(asked.where)
    advice = _advice(asked, reading)
    settings = [one for one in advice.settings if one.differs]
    for remark in advice.remarks:
        typer.echo(f"note: {remark}", err=True)
    if reading.facts.limits.maximum is None:
        say_gaps(reading.facts.gaps, None)
        typer.echo("error: the present settings are not known", err=True)
        return UNDETERMINED
    if asked.yes and settings:
        return _say(tuning.apply(settings, ROOT), asked.output)
    if asked.output == "json":
        value = {"kind": "ConntrackTuning", "settings": [_setting(s) for s in advice.settings]}
        _print_json(value | {"file": f"/{tuning.FILE}", "remarks": list(advice.remarks)})
    elif settings:
        typer.echo(tuning.file_text(settings), nl=False)
    if not settings:
        typer.echo("all settings are as advised", err=True)
    elif not asked.where.dump:
        typer.echo(
            f"note: nothing was changed; --yes sets this and writes /{tuning.FILE}", err=True
        )
    return OK


def _advice(asked: Asked, reading: Reading) -> Capacity:
    limits = limits_with(reading.facts.limits, None)
    return advise(limits, reading.proxy, Demand(asked.entries))


def _say(done: Sequence[tuning.Done], output: str) -> int:
    if output == "json":
        items = [
            {"name": o.name, "before": o.before, "value": o.value, "problem": o.problem}
            for o in done
        ]
        _print_json({"kind": "ConntrackTuning", "applied": items})
    for one in done:
        if one.problem:
            typer.echo(f"error: {one.problem}", err=True)
        elif output != "json":
            before = "?" if one.before is None else one.before
            typer.echo(f"{one.name} = {one.value} (was {before})")
    return ENVIRONMENT if any(one.problem for one in done) else OK


def _setting(one: Setting) -> dict[str, Any]:
    return {
        "name": one.name,
        "present": one.present,
        "value": one.value,
        "differs": one.differs,
        "why": one.why,
    }


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode({"apiVersion": "kpctl.io/v1", **value}).decode())
