"""
``kpctl diff A B``: what changed between two dumps, in terms of Services.

Exit codes: 0 nothing that calls notice, 1 something, 2 wrong command line, 3 that cannot be told, 4
a dump cannot be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kpctl.exit_codes import FINDINGS, OK, UNDETERMINED
from kpctl.outputs import Output, OutputOption, print_json
from kpctl.reading import Where, read_node

if TYPE_CHECKING:
    from diagnostics.diff.find import DiffReport


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A snapshot, directory or dump.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another one; - is this node now.")],
    node: Annotated[
        str, typer.Option("--node", metavar="NAME", help="Which node, where there are several.")
    ] = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Tell which calls end differently; order, counters and names of chains do not matter."""
    from diagnostics.diff.find import find_diff

    sides = [read_node(Where("" if path == "-" else path, node=node)) for path in (before, after)]
    report = find_diff(*sides)
    if output is Output.JSON:
        _print_json(report)
    else:
        from rich.console import Console

        from kpctl.diff_view import view

        Console(soft_wrap=True, highlight=False).print(view(report))
    for gap in report.gaps:
        typer.echo(f"gap: {gap}", err=True)
    if report.undetermined:
        raise typer.Exit(UNDETERMINED)
    raise typer.Exit(FINDINGS if report.differences else OK)


def _print_json(report: DiffReport) -> None:
    from diagnostics.fate.answer import API_VERSION, difference_object

    value = {
        "apiVersion": API_VERSION,
        "kind": "DiffReport",
        "frontends": report.frontends,
        "undetermined": report.undetermined or None,
        "differences": [difference_object(one) for one in report.differences],
        "gaps": [str(gap) for gap in report.gaps],
    }
    print_json(value)
