"""``kpctl lab``: a node, pods and a client out of network namespaces, no cluster needed."""

from __future__ import annotations

import enum
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from kpctl.exit_codes import ENVIRONMENT, OK

if TYPE_CHECKING:
    from kpctl.lab.state import LabRecord

app = typer.Typer(
    help="A node, pods and a client out of network namespaces, to try kpctl without a cluster.",
    no_args_is_help=True,
)

Name = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Which lab; not needed while there is only one."),
]


class Mode(enum.StrEnum):
    """The proxy modes that the lab can run."""

    NFTABLES = "nftables"
    IPTABLES = "iptables"
    IPVS = "ipvs"


class Output(enum.StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"


Format = Annotated[Output, typer.Option("-o", "--output", help="Output format.")]


@app.command()
def run(
    mode: Annotated[Mode, typer.Option(help="The proxy mode.")] = Mode.NFTABLES,
    once: Annotated[
        bool, typer.Option("--once", help="Send a fixed amount of traffic, report and exit.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The lab's name; lab, lab-2, … if not given."),
    ] = None,
    services: Annotated[
        int, typer.Option("--services", min=0, max=50_000, help="Further Services, for size.")
    ] = 0,
    output: Annotated[
        Output, typer.Option("-o", "--output", help="Output format of --once.")
    ] = Output.TABLE,
) -> None:
    """
    Make a lab, run the proxy in it, send real traffic and show where it lands.

    Runs until Ctrl-C; then everything is removed. With --once, exits with 1 if some traffic did
    not go where it should.
    """
    if output is Output.JSON and not once:
        raise typer.BadParameter("-o json needs --once", param_hint="-o")

    def session() -> int:
        from kpctl.lab import session as sessions
        from kpctl.lab import state
        from kpctl.lab.build import Lab, require_environment

        require_environment(mode.value)
        sessions.sweep(name)
        lab = Lab(state.claim(name, mode.value), services)
        if once:
            return sessions.run_once(lab, as_json=output is Output.JSON)
        return sessions.run_live(lab)

    raise typer.Exit(_guarded(session))


@app.command("exec", context_settings={"ignore_unknown_options": True})
def exec_(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND [ARG]…", help="The program to run.")
    ],
    name: Name = None,
    role: Annotated[
        str, typer.Option("--in", metavar="HOST", help="node-1, client, a pod such as web-1, …")
    ] = "node-1",
) -> None:
    """Run a program inside the lab, on its node unless told otherwise."""

    def replace_process() -> int:
        from kpctl.lab import state
        from kpctl.lab.build import enter, environment, require_environment

        require_environment()
        record = state.find(name)
        enter(record, role)
        sys.stdout.flush()
        environ = environment(record)
        try:
            os.execvpe(command[0], command, environ)  # noqa: S606 - this is what exec is for
        except OSError as error:
            raise state.LabError(f"{command[0]}: {error.strerror}", 127) from None

    raise typer.Exit(_guarded(replace_process))


@app.command()
def status(name: Name = None, output: Format = Output.TABLE) -> None:
    """Show the labs of this machine; one that was killed is shown as dead."""

    def show() -> int:
        from kpctl.lab import state

        known = state.records() if name is None else (state.find(name),)
        if output is Output.JSON:
            typer.echo(json.dumps([_status_row(record) for record in known], indent=2))
        elif not known:
            typer.echo("no lab; start one: kpctl lab run", err=True)
        else:
            _print_status(known)
        return OK

    raise typer.Exit(_guarded(show))


@app.command()
def down(
    name: Name = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All labs, and namespaces whose lab is unknown.")
    ] = False,
) -> None:
    """End a lab, running or killed, and remove everything of it."""
    if everything and name is not None:
        raise typer.BadParameter("--all and --name exclude each other", param_hint="--all")

    def remove() -> int:
        from kpctl.lab import state
        from kpctl.lab.build import require_environment, stop
        from kpctl.lab.netns import delete_all

        require_environment()
        for record in state.records() if everything else (state.find(name),):
            stop(record)
            typer.echo(f"lab {record.name}: removed", err=True)
        if everything:
            delete_all(state.orphans())
        return OK

    raise typer.Exit(_guarded(remove))


def _guarded(action: Callable[[], int]) -> int:
    """Run an action; what can go wrong becomes one message and an exit code."""
    from kpctl.lab.state import LabError
    from proxy.kernel.command import CommandError

    try:
        return action()
    except LabError as error:
        code, text = error.exit_code, str(error)
    except (CommandError, OSError) as error:
        code, text = ENVIRONMENT, str(error)
    except ExceptionGroup as group:
        # From the lab's concurrent tasks; the first one is the cause, the others its echo.
        first = group.exceptions[0]
        if not isinstance(first, (LabError, CommandError, OSError)):
            raise
        code, text = getattr(first, "exit_code", ENVIRONMENT), str(first)
    typer.echo(f"error: {text}", err=True)
    return code


def _status_row(record: LabRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "state": "running" if record.alive() else "dead",
        "mode": record.mode,
        "pid": record.pid,
        "ageSeconds": round(time.time() - record.created) if record.ident else None,
        "directory": str(record.directory),
        "namespaces": [ns.name for ns in record.namespaces()],
    }


def _print_status(known: tuple[LabRecord, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("NAME", "STATE", "MODE", "PID", "AGE", "NAMESPACES"):
        table.add_column(heading, no_wrap=True)
    for record in known:
        row = _status_row(record)
        table.add_row(
            record.name,
            str(row["state"]),
            record.mode,
            str(record.pid),
            f"{row['ageSeconds']}s" if record.ident else "?",
            f"{len(record.namespaces())} {record.prefix}*" if record.ident else "?",
        )
    Console().print(table)
    for record in known:
        if not record.alive():
            typer.echo(f"remove what it left: kpctl lab down --name {record.name}", err=True)
