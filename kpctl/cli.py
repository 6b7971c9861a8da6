"""The command tree, without ``run``'s own flags."""

from __future__ import annotations

from typing import Annotated

import typer

from kpctl.commands.config import app as config_app
from kpctl.commands.conntrack import app as conntrack_app
from kpctl.commands.diff import diff
from kpctl.commands.drift import drift
from kpctl.commands.endpoints import endpoints
from kpctl.commands.ipvs import ipvs
from kpctl.commands.lab import app as lab_app
from kpctl.commands.rules import rules
from kpctl.commands.snapshot import snapshot
from kpctl.commands.trace import app as trace_app
from kpctl.commands.whatif import whatif
from kpctl.version import kpctl_version, kubernetes_version

app = typer.Typer(
    help="A Kubernetes node proxy that explains any node proxy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(config_app, name="config")
app.add_typer(conntrack_app, name="conntrack")
app.add_typer(lab_app, name="lab")
app.add_typer(trace_app, name="trace")
app.command("diff")(diff)
app.command("drift")(drift)
app.command("endpoints")(endpoints)
app.command("ipvs")(ipvs)
app.command("rules")(rules)
app.command("snapshot")(snapshot)
app.command("whatif")(whatif)


@app.command(
    "run",
    help="Run the node proxy; takes kube-proxy's flags and configuration file.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def run_command(context: typer.Context) -> None:
    """Hand the flags to the proxy's own parser."""
    from kpctl.commands.run import run

    raise typer.Exit(run(context.args))


@app.command("version")
def version_command(
    short: Annotated[bool, typer.Option("--short", help="Print the version alone.")] = False,
) -> None:
    """Print the version of kpctl and of the kube-proxy it stands in for."""
    if short:
        typer.echo(kpctl_version())
    else:
        typer.echo(f"kpctl {kpctl_version()} (node proxy of Kubernetes {kubernetes_version()})")
