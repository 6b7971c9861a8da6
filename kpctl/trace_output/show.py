"""Prints a trace in the form that was asked for, all but JSON."""

from __future__ import annotations

import typer

from diagnostics.trace.replies import Surroundings
from diagnostics.trace.report import Trace

TEXT, DOT, MERMAID, SVG = "text", "dot", "mermaid", "svg"


def show(
    trace: Trace,
    around: Surroundings | None = None,
    output: str = TEXT,
    *,
    at_length: bool = False,
    everything: bool = False,
) -> None:
    """
    Print a trace on stdout.

    Args:
        trace: The answer.
        around: Who is who; without it there are no names and no way back.
        output: text, dot, mermaid or svg.
        at_length: Of text, the long form.
        everything: Every endpoint's way instead of the first of many alike.
    """
    if output == TEXT:
        _text(trace, around, at_length=at_length, everything=everything)
        return
    from kpctl.trace_output.dot import dot
    from kpctl.trace_output.graph import graph
    from kpctl.trace_output.mermaid import mermaid
    from kpctl.trace_output.svg import svg

    draw = {DOT: dot, MERMAID: mermaid, SVG: svg}[output]
    typer.echo(draw(graph(trace, around, everything=everything)), nl=False)


def _text(trace: Trace, around: Surroundings | None, *, at_length: bool, everything: bool) -> None:
    from kpctl.trace_output.explain import explain
    from kpctl.trace_output.tree import console, view

    where = console()
    if at_length:
        typer.echo(explain(trace, around, width=where.width, everything=everything))
        return
    tree = view(trace, around, everything=everything)
    if where.is_terminal:
        where.print(tree)
        return
    # Cells are filled up with spaces, which nobody wants in a file.
    with where.capture() as captured:
        where.print(tree)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())
