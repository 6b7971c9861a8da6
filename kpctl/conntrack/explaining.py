"""``conntrack explain``: finds the entry that is meant and tells what it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import typer

from diagnostics.conntrack.asked import AskedError, Tuple, read_line, read_tuple, search
from diagnostics.conntrack.explain import STALE, UNKNOWN, Explanation, explain
from diagnostics.conntrack.live import direction_of, find_entry
from diagnostics.conntrack.model import Detail
from diagnostics.conntrack.report import explain_report
from diagnostics.snapshot.archive import SnapshotError
from diagnostics.trace.question import Tracer
from kpctl.conntrack.audit_view import explain_lines
from kpctl.conntrack.reading import Reading, read, say_gaps, usage
from kpctl.exit_codes import FINDINGS, OK, UNDETERMINED
from kpctl.reading import Where, environment_error
from proxy.kernel.conntrack import open_netfilter
from proxy.kernel.netlink import NetlinkError

_MOST_BYTES = 1 << 20


class Asked(NamedTuple):
    """What ``explain`` was asked: the words of a line (or ``-``), or a tuple."""

    where: Where
    words: Sequence[str]
    src: str
    dst: str
    ports: tuple[int, int]
    protocol: str
    output: str


def explain_entry(asked: Asked) -> int:
    """Explain the entries that are meant; return the exit code."""
    lines = _lines(asked)
    try:
        pasted = [read_line(line) for line in lines]
        wanted = None if pasted else read_tuple(asked.src, asked.dst, asked.ports, asked.protocol)
    except AskedError as error:
        raise usage(str(error)) from error
    reading = read(asked.where)
    if wanted is not None:
        pasted = list(_found(reading, wanted))
        if not pasted:
            return _nothing(reading)
    elif reading.facts.live and reading.facts.walkable:
        _say_if_gone(pasted)
    tracer = Tracer(reading.snapshot)
    told = [explain(detail, reading.naming, tracer, _gaps(reading)) for detail in pasted]
    _print(told, asked.output)
    say_gaps(tuple(gap for one in told for gap in one.gaps), None)
    return _exit_code(told)


def _lines(asked: Asked) -> list[str]:
    """Return the pasted lines; ends the command when there are none and no tuple either."""
    if not asked.words:
        if not (asked.src or asked.dst):
            raise usage("paste a line of conntrack -L, or give --src, --dst and --dport")
        return []
    if asked.src or asked.dst:
        raise usage("a line and --src or --dst: choose one of the two")
    if list(asked.words) != ["-"]:
        return [" ".join(asked.words)]
    lines = [line for line in sys.stdin.read(_MOST_BYTES).splitlines() if line.strip()]
    if not lines:
        raise usage("there is no line on standard input")
    return lines


def _found(reading: Reading, wanted: Tuple) -> Sequence[Detail]:
    try:
        if reading.facts.live and reading.facts.walkable and wanted.packets.source_port:
            with open_netfilter() as netlink:
                found = find_entry(netlink, wanted.protocol, wanted.packets)
            if found is not None:
                return (found[1],)
        return search(reading.facts.table, wanted)
    except NetlinkError as error:
        why = f"the kernel does not list connections ({error.strerror}): run as root"
        raise environment_error(why) from error
    except SnapshotError as error:
        raise environment_error(str(error)) from error


def _nothing(reading: Reading) -> int:
    say_gaps(reading.facts.gaps, None)
    if not reading.facts.walkable:
        return UNDETERMINED
    typer.echo(
        "error: the table has no such entry; what becomes of a new connection is told by: "
        "kpctl trace packet",
        err=True,
    )
    return FINDINGS


def _say_if_gone(pasted: Sequence[Detail]) -> None:
    for detail in pasted:
        flow = detail.flow
        if flow.zone or not flow.original.source_port:
            continue  # such entries are not found by their packets alone
        try:
            with open_netfilter() as netlink:
                found = find_entry(netlink, flow.protocol, direction_of(flow))
        except NetlinkError:
            return
        if found is None:
            typer.echo("note: this node's table does not have this entry (any more)", err=True)


def _gaps(reading: Reading) -> tuple[str, ...]:
    """Return what is missing for an explanation; limits and counters are not needed."""
    return tuple(gap for gap in reading.gaps if gap not in reading.facts.gaps)


def _print(told: Sequence[Explanation], output: str) -> None:
    if output == "json":
        reports = [explain_report(one) for one in told]
        value: dict[str, Any] = reports[0]
        if len(reports) > 1:
            value = {
                "apiVersion": value["apiVersion"],
                "kind": "ConntrackExplanationList",
                "items": reports,
            }
        typer.echo(msgspec.json.encode(value).decode())
        return
    typer.echo("\n\n".join("\n".join(explain_lines(one)) for one in told))


def _exit_code(told: Sequence[Explanation]) -> int:
    verdicts = {one.verdict for one in told}
    if STALE in verdicts:
        return FINDINGS
    return UNDETERMINED if UNKNOWN in verdicts else OK
