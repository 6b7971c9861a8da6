"""
``kpctl conntrack``: how full the connection table is, of whom, what in it is stale, and why.

Exit codes: 0 done and nothing is wrong; 1 the table is nearly full, loses packets or is too small,
or entries are stale; 2 wrong command line; 3 something needed for an answer is not known; 4 the
node or dump cannot be read, or the kernel refused a change.
"""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from kpctl.reading import ContextOption, DumpOption, KubeconfigOption, NodeOption, Where

app = typer.Typer(help="Look into the connection table (conntrack).", no_args_is_help=True)


class Output(enum.StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="Format.")]
IntervalOption = Annotated[
    str, typer.Option("--interval", metavar="10s", help="Look twice, so long apart, for growth.")
]
SinceOption = Annotated[
    str,
    typer.Option("--since", metavar="FILE", help="Growth since this answer of status -o json."),
]
EntriesOption = Annotated[
    int, typer.Option("--entries", min=0, help="Make room for so many; default: those of now.")
]


@app.callback()
def conntrack() -> None:
    """Look into the connection table (conntrack)."""


@app.command("status")
def status(
    interval: IntervalOption = "",
    since: SinceOption = "",
    top: Annotated[int, typer.Option("--top", min=1, help="Rows of each list.")] = 10,
    dump: DumpOption = "",
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Tell how full the table is, who fills it, and what the kernel's counters mean."""
    from kpctl.conntrack.state import Asked
    from kpctl.conntrack.state import status as run

    where = Where(dump, kubeconfig, context, node)
    raise typer.Exit(run(Asked(where, interval, since, output.value, top)))


@app.command("capacity")
def capacity(  # noqa: PLR0913, PLR0917 - one for each option
    entries: EntriesOption = 0,
    horizon: Annotated[
        str, typer.Option("--horizon", metavar="24h", help="Make room for growth until then.")
    ] = "",
    interval: IntervalOption = "",
    since: SinceOption = "",
    dump: DumpOption = "",
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Tell how large the table should be, and what that costs in memory."""
    from kpctl.conntrack.state import Asked
    from kpctl.conntrack.state import capacity as run

    where = Where(dump, kubeconfig, context, node)
    asked = Asked(where, interval, since, output.value, entries=entries, horizon=horizon)
    raise typer.Exit(run(asked))


@app.command("audit")
def audit(  # noqa: PLR0913, PLR0917 - one for each option
    protocol: Annotated[
        str,
        typer.Option("--protocol", help="udp, tcp, sctp or all; default: all, to delete: udp."),
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="TCP connections that are ending, too.")
    ] = False,
    interval: Annotated[
        str, typer.Option("--interval", metavar="5s", help="Measure bytes per second so long.")
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=50_000, help="How many to list (and delete).")
    ] = 1000,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete exactly what is listed.")
    ] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Delete without asking.")] = False,
    dump: DumpOption = "",
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """List entries that lead to no current endpoint of their Service, UDP first."""
    from kpctl.conntrack.audit import Asked
    from kpctl.conntrack.audit import audit as run

    where = Where(dump, kubeconfig, context, node)
    asked = Asked(where, protocol, everything, interval, limit, delete, yes, output.value)
    raise typer.Exit(run(asked))


@app.command("explain")
def explain(  # noqa: PLR0913, PLR0917 - one for each option
    entry: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LINE|-]", help="A line of conntrack -L; - reads standard input."),
    ] = None,
    src: Annotated[str, typer.Option("--src", metavar="IP", help="The client.")] = "",
    dst: Annotated[str, typer.Option("--dst", metavar="IP", help="What it called.")] = "",
    sport: Annotated[
        int, typer.Option("--sport", min=0, max=65535, help="The client's port; 0: any.")
    ] = 0,
    dport: Annotated[int, typer.Option("--dport", min=0, max=65535, help="The called port.")] = 0,
    protocol: Annotated[str, typer.Option("--protocol", help="TCP, UDP or SCTP.")] = "TCP",
    dump: DumpOption = "",
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Tell what an entry is: its Service, rule and pod, its state, and whether it is stale."""
    from kpctl.conntrack.explaining import Asked, explain_entry

    where = Where(dump, kubeconfig, context, node)
    asked = Asked(where, entry or (), src, dst, (sport, dport), protocol, output.value)
    raise typer.Exit(explain_entry(asked))


@app.command("tune")
def tune(
    entries: EntriesOption = 0,
    yes: Annotated[
        bool, typer.Option("-y", "--yes", help="Apply now and write a file for restarts.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Go back to what was before.")] = False,
    dump: DumpOption = "",
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the sysctls that fit this node; with --yes, apply them."""
    from kpctl.conntrack.tune import Asked
    from kpctl.conntrack.tune import tune as run

    where = Where(dump, kubeconfig, context, node)
    raise typer.Exit(run(Asked(where, entries, yes, undo, output.value)))
