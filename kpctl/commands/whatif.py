"""
``kpctl whatif``: which calls would end differently after a change of API objects.

Exit codes: 0 none, 1 some, 2 wrong command line, 3 the objects are not known, 4 a file or the API
cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpctl.exit_codes import FINDINGS, OK, UNDETERMINED, USAGE
from kpctl.outputs import Output, OutputOption, print_json
from kpctl.reading import (
    ContextOption,
    DumpOption,
    KubeconfigOption,
    NamespaceOption,
    NodeOption,
    Where,
    environment_error,
    read_node,
)

if TYPE_CHECKING:
    from diagnostics.readers.objects import ClusterObjects
    from diagnostics.snapshot.node import NodeSnapshot
    from diagnostics.whatif.find import WhatIfReport


_Files = Annotated[
    list[Path],
    typer.Option(
        "-f", "--filename", help="Manifests to apply.", default_factory=list, show_default=False
    ),
]
_Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Of the Service's spec.",
        default_factory=list,
        show_default=False,
    ),
]
_Addresses = Annotated[
    list[str],
    typer.Option(
        "--endpoint-down",
        metavar="IP",
        help="Not ready any more.",
        default_factory=list,
        show_default=False,
    ),
]
_Nodes = Annotated[
    list[str],
    typer.Option(
        "--node-down",
        metavar="NAME",
        help="None of its endpoints.",
        default_factory=list,
        show_default=False,
    ),
]


def whatif(  # noqa: PLR0913, PLR0917 - one for each option
    files: _Files,
    settings: _Settings,
    addresses: _Addresses,
    nodes: _Nodes,
    service: Annotated[
        str, typer.Argument(help="NAMESPACE/NAME or svc/NAME, for --set and --delete.")
    ] = "",
    delete: Annotated[bool, typer.Option("--delete", help="Delete the Service.")] = False,
    namespace: NamespaceOption = "",
    dump: DumpOption = "",
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Tell whose calls would end differently; nothing is changed anywhere."""
    changes = _Changes(_name(service, namespace), files, settings, delete, addresses, nodes)
    changes.check()
    snapshot = read_node(Where(dump, kubeconfig, context, node))
    report = _report(snapshot, changes)
    _print(report, output)
    raise typer.Exit(FINDINGS if report.differences else OK)


@dataclass(frozen=True, slots=True)
class _Changes:
    """What the user would change."""

    service: str
    files: list[Path]
    settings: list[str]
    delete: bool
    addresses: list[str]
    nodes: list[str]

    def check(self) -> None:
        if not any((self.files, self.settings, self.delete, self.addresses, self.nodes)):
            raise _usage("say what changes: -f, --set, --delete, --endpoint-down or --node-down")
        if (self.settings or self.delete) and not self.service:
            raise _usage("--set and --delete need the name of a Service")

    def applied(self, objects: ClusterObjects) -> ClusterObjects:
        """Return the objects afterwards; raises EditError."""
        from diagnostics.whatif import edits

        if self.files:
            objects = edits.applied(objects, ((str(path), _read(path)) for path in self.files))
        if self.settings:
            objects = edits.with_settings(objects, self.service, self.settings)
        if self.delete:
            objects = edits.without_service(objects, self.service)
        for address in self.addresses:
            objects = edits.with_endpoints_down(objects, address)
        for node in self.nodes:
            objects = edits.with_node_down(objects, node)
        return objects


def _report(snapshot: NodeSnapshot, changes: _Changes) -> WhatIfReport:
    from diagnostics.cluster.plans import ObjectsMissing, check_objects
    from diagnostics.intended.compile import CannotCompile
    from diagnostics.whatif.edits import EditError
    from diagnostics.whatif.find import find_changes

    try:
        objects = snapshot.objects()
        check_objects(snapshot, objects)
        return find_changes(snapshot, changes.applied(objects))
    except EditError as error:
        raise _usage(str(error)) from error
    except ObjectsMissing as error:
        for gap in error.gaps:
            typer.echo(f"gap: {gap}", err=True)
        raise typer.Exit(UNDETERMINED) from error
    except CannotCompile as error:
        raise environment_error(str(error)) from error


def _name(service: str, namespace: str) -> str:
    name = service.removeprefix("svc/").removeprefix("service/")
    return name if "/" in name or not name else f"{namespace or 'default'}/{name}"


def _usage(text: str) -> typer.Exit:
    typer.echo(f"error: {text}", err=True)
    return typer.Exit(USAGE)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise environment_error(f"{path}: {error.strerror}") from error


def _print(report: WhatIfReport, output: Output) -> None:
    if output is Output.JSON:
        from diagnostics.fate.answer import API_VERSION, difference_object

        value = {
            "apiVersion": API_VERSION,
            "kind": "WhatIfReport",
            "node": report.node,
            "mode": report.mode,
            "servicePorts": list(report.touched),
            "differences": [difference_object(one) for one in report.differences],
            "gaps": [str(gap) for gap in report.gaps],
        }
        print_json(value)
    else:
        from rich.console import Console

        from kpctl.diff_view import whatif_view

        Console(soft_wrap=True, highlight=False).print(whatif_view(report))
    for gap in report.gaps:
        typer.echo(f"gap: {gap}", err=True)
