"""
``kpctl trace``: what the rules in the kernel do with a packet.

Exit codes: 0 it goes somewhere, 1 it is dropped or rejected, 2 wrong command line, 3 there were no
rules to follow, 4 the dump cannot be read.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from kpctl.exit_codes import ENVIRONMENT, FINDINGS, OK, UNDETERMINED, USAGE

if TYPE_CHECKING:
    from diagnostics.snapshot.node import NodeSnapshot
    from diagnostics.trace.question import Question
    from diagnostics.trace.report import Trace

app = typer.Typer(help="Follow a packet through the rules in the kernel.", no_args_is_help=True)


class Output(enum.StrEnum):
    """Output formats."""

    TEXT = "text"
    JSON = "json"


Format = Annotated[Output, typer.Option("-o", "--output", help="Output format.")]
Dump = Annotated[
    str, typer.Option("--from", metavar="PATH", help="A snapshot or dump; default: this node.")
]


@app.callback()
def trace() -> None:
    """Follow a packet through the rules in the kernel."""


@app.command("packet")
def packet(  # noqa: PLR0913, PLR0917 - one for each option
    src: Annotated[str, typer.Option("--src", metavar="IP", help="Who sends it.")] = "",
    dst: Annotated[str, typer.Option("--dst", metavar="IP", help="Which address is called.")] = "",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 80,
    protocol: Annotated[str, typer.Option("--protocol", help="TCP, UDP or SCTP.")] = "TCP",
    iface: Annotated[str, typer.Option("--iface", help="Where it comes in.")] = "",
    mark: Annotated[str, typer.Option("--mark", help="Its mark, as 0x4000.")] = "0",
    packets: Annotated[
        str, typer.Option("--packets", metavar="FILE", help="Many, as JSON lines; - is stdin.")
    ] = "",
    dump: Dump = "",
    output: Format = Output.TEXT,
) -> None:
    """Tell where a packet of a new connection goes, and which rules decide that."""
    from diagnostics.trace.question import Question, QuestionError

    try:
        snapshot = _snapshot(dump)
        if packets:
            raise typer.Exit(_many(snapshot, packets))
        if not src or not dst:
            raise QuestionError("--src and --dst are needed, or --packets")
        fields = {"src": src, "dst": dst, "port": port, "protocol": protocol}
        question = Question.read({**fields, "iface": iface or None, "mark": mark})
    except QuestionError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(USAGE) from error
    raise typer.Exit(_one(snapshot, question, output))


def _snapshot(dump: str) -> NodeSnapshot:
    from diagnostics.snapshot.archive import SnapshotError
    from diagnostics.snapshot.live import live_snapshot
    from diagnostics.snapshot.open import open_snapshot

    if not dump:
        return live_snapshot()
    try:
        return open_snapshot(Path(dump)).node()
    except SnapshotError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(ENVIRONMENT) from error


def _one(snapshot: NodeSnapshot, question: Question, output: Output) -> int:
    from diagnostics.trace.question import Tracer

    tracer = Tracer(snapshot)
    found = tracer.ask(question)
    if output is Output.JSON:
        typer.echo(_json(tracer.report(found)))
    else:
        from rich.console import Console

        from kpctl.trace_view import view

        Console().print(view(found))
    for gap in tracer.gaps(found):
        typer.echo(f"gap: {gap}", err=True)
    return _exit_code(found)


def _many(snapshot: NodeSnapshot, path: str) -> int:
    from diagnostics.trace.question import Question, QuestionError, Tracer

    tracer = Tracer(snapshot)
    for number, line in enumerate(_lines(path), start=1):
        try:
            question = Question.parse(line)
        except QuestionError as error:
            raise QuestionError(f"{path}: line {number}: {error}") from error
        typer.echo(_json(tracer.report(tracer.ask(question))))
    return OK


def _lines(path: str) -> Iterator[str]:
    def filled(file: TextIO) -> Iterator[str]:
        return (line for line in file if line.strip())

    if path == "-":
        yield from filled(sys.stdin)
        return
    try:
        with Path(path).open(encoding="utf-8") as file:
            yield from filled(file)
    except OSError as error:
        typer.echo(f"error: {path}: {error.strerror}", err=True)
        raise typer.Exit(ENVIRONMENT) from error


def _json(value: dict[str, Any]) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()


def _exit_code(found: Trace) -> int:
    from diagnostics.trace.report import DROP, REJECT, UNKNOWN

    if found.certainty == UNKNOWN:
        return UNDETERMINED
    return FINDINGS if found.verdict in (DROP, REJECT) else OK
