"""``conntrack audit``: lists stale entries, and deletes them when that is asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import typer

from diagnostics.conntrack.live import bytes_now
from diagnostics.conntrack.report import audit_report
from diagnostics.conntrack.stale_rows import StaleRow, in_order, stale_rows
from diagnostics.conntrack.survey import MOST_STALE, UDP, Survey, Wanted
from diagnostics.trace.packet import PROTOCOLS
from kpctl.conntrack.audit_view import audit_lines
from kpctl.conntrack.deletion import Deletion, delete_entries
from kpctl.conntrack.reading import Reading, read, say_gaps, seconds, usage, walk
from kpctl.exit_codes import ENVIRONMENT, FINDINGS, OK, UNDETERMINED
from kpctl.reading import Where
from proxy.kernel.netlink import NetlinkError

ANY = "all"


class Asked(NamedTuple):
    """
    What ``audit`` was asked.

    Attributes:
        protocol: tcp, udp, sctp, all, or "" for the default.
        ending: TCP connections that end, too.
        interval: measure for so long, "" for not.
        limit: how many entries to list.
        delete, yes: delete what is listed; without asking.
        output: table or json.
    """

    where: Where
    protocol: str
    ending: bool
    interval: str
    limit: int
    delete: bool
    yes: bool
    output: str


def audit(asked: Asked) -> int:
    """List stale entries; return the exit code."""
    _check(asked)
    wanted = Wanted(_protocols(asked), asked.ending, max(asked.limit, MOST_STALE))
    reading = read(asked.where)
    found = walk(reading, wanted)
    if reading.naming.truth is None or not reading.facts.walkable:
        say_gaps(reading.gaps, found)
        if asked.output == "json":
            _print_json(audit_report((), found, reading.gaps, None) | {"stale": None})
        typer.echo("error: it cannot be told which entries are stale", err=True)
        return UNDETERMINED
    kept = [*found.stale, *found.stale_others]
    rows = stale_rows(kept, reading.facts.table, reading.naming)[: asked.limit]
    if asked.interval and rows:
        rows = _measured(rows, seconds("--interval", asked.interval))
    if asked.output == "table":
        _print_rows(rows, reading)
    say_gaps(reading.gaps, found)
    _say_what_is_left(asked, found, rows)
    return _finish(asked, reading, found, rows)


def _check(asked: Asked) -> None:
    if asked.delete and asked.where.dump:
        raise usage("--delete works on this node's own table, not on a dump (--from)")
    if asked.interval and asked.where.dump:
        raise usage("--interval looks twice, which a dump does not allow")
    if asked.yes and not asked.delete:
        raise usage("--yes: there is nothing to agree to without --delete")
    if asked.delete and not asked.yes and (asked.output == "json" or not sys.stdin.isatty()):
        raise usage("--delete asks before it deletes, which is not possible here: add --yes")


def _protocols(asked: Asked) -> frozenset[int]:
    """
    Return the numbers of the protocols to look at, empty for all.

    Without a word only UDP is deleted: a TCP connection ends by itself, and may still be ending in
    peace when its endpoint has left the slices.
    """
    name = asked.protocol.upper() or ("UDP" if asked.delete else ANY.upper())
    if name == ANY.upper():
        return frozenset()
    if name not in PROTOCOLS:
        raise usage(f"--protocol {asked.protocol!r} is none of {', '.join(PROTOCOLS)}, all")
    return frozenset({PROTOCOLS[name]})


def _measured(rows: Sequence[StaleRow], interval_s: float) -> list[StaleRow]:
    """Return the rows with what they carry per second just now."""
    flows = [row.flow for row in rows]
    try:
        before, began = bytes_now(flows), time.monotonic()
        time.sleep(interval_s)
        after, took = bytes_now(flows), time.monotonic() - began
    except NetlinkError as error:
        typer.echo(f"gap: rates: {error.strerror}", err=True)
        return list(rows)
    measured = []
    for row, old, new in zip(rows, before, after, strict=True):
        known = old is not None and new is not None
        rate = max(0, (new or 0) - (old or 0)) / took if known else row.rate
        measured.append(replace(row, rate=rate, measured=known or row.measured))
    return in_order(measured)


def _print_rows(rows: Sequence[StaleRow], reading: Reading) -> None:
    if not rows:
        return
    typer.echo("\n".join(audit_lines(rows)))
    if all(row.rate is None for row in rows):
        known = any(row.detail.bytes is not None for row in rows)
        typer.echo(
            "note: bytes are counted, their rate is not known: --interval 5s"
            if known
            else "note: bytes are not counted: sysctl -w net.netfilter.nf_conntrack_acct=1 makes "
            "new connections count them",
            err=True,
        )
    if reading.facts.limits.accounting is False and any(row.rate is not None for row in rows):
        typer.echo("note: connections made from now on do not count bytes", err=True)


def _say_what_is_left(asked: Asked, found: Survey, rows: Sequence[StaleRow]) -> None:
    total = sum(found.stale_total.values())
    if not total:
        typer.echo(f"no stale entries among {found.total}", err=True)
    if total > len(rows):
        typer.echo(
            f"note: {total - len(rows)} more stale entries are not listed: --limit", err=True
        )
    if asked.delete and not asked.protocol:
        typer.echo(
            "note: only UDP is looked at, since TCP connections end by themselves; "
            "--protocol all takes them too",
            err=True,
        )


def _finish(asked: Asked, reading: Reading, found: Survey, rows: Sequence[StaleRow]) -> int:
    total = sum(found.stale_total.values())
    done = None
    if asked.delete and rows and (asked.yes or _agreed(rows)):
        done = delete_entries([row.raw for row in rows])
        _say_deleted(done)
    if asked.output == "json":
        _print_json(audit_report(rows, found, reading.gaps, _deletion_report(done)))
    if done is not None:
        if done.refused:
            return ENVIRONMENT
        return OK if total == len(rows) else FINDINGS
    return FINDINGS if total else OK


def _agreed(rows: Sequence[StaleRow]) -> bool:
    udp = sum(row.flow.protocol == UDP for row in rows)
    what = f"these {len(rows)} entries ({udp} of UDP, {len(rows) - udp} of others)"
    return typer.confirm(f"Delete {what}?", default=False, err=True)


def _say_deleted(done: Deletion) -> None:
    typer.echo(f"deleted {done.deleted} entries; {done.gone} had ended by themselves", err=True)
    if done.refused:
        why = f" ({done.refusal})" if done.refusal else ""
        typer.echo(f"error: {done.refused} could not be deleted{why}", err=True)


def _deletion_report(done: Deletion | None) -> dict[str, Any] | None:
    if done is None:
        return None
    return {
        "deleted": done.deleted,
        "gone": done.gone,
        "refused": done.refused,
        "refusal": done.refusal,
    }


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode(value).decode())
