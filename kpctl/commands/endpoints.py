"""
``kpctl endpoints``: which addresses of a Service's slices this node uses, and why not the others.

Exit codes: 0 done, 1 the kernel differs from the plan (--why), 2 wrong command line or no such
Service, 3 what decides could not be read, 4 the node or dump cannot be read.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated

import typer

from kpctl.exit_codes import FINDINGS, OK, UNDETERMINED, USAGE
from kpctl.reading import (
    ContextOption,
    DumpOption,
    KubeconfigOption,
    NamespaceOption,
    NodeOption,
    Where,
    read_node,
)

if TYPE_CHECKING:
    from diagnostics.cluster.plans import Cluster
    from diagnostics.endpoints.model import EndpointReport, PortReport
    from diagnostics.fate.selection import Selection
    from diagnostics.snapshot.node import NodeSnapshot
    from kpctl.endpoints_view import View


class Output(enum.StrEnum):
    """Output formats."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


def endpoints(
    service: Annotated[str, typer.Argument(metavar="svc/NAME", help="Or NAMESPACE/NAME.")],
    namespace: NamespaceOption = "default",
    why: Annotated[
        bool, typer.Option("--why", help="Every address with the reason; and ask the kernel.")
    ] = False,
    dump: DumpOption = "",
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    output: Annotated[Output, typer.Option("-o", "--output", help="Format.")] = Output.TABLE,
) -> None:
    """Show which endpoints of a Service this node uses, and with --why the reason for each."""
    from diagnostics.cluster.plans import ObjectsMissing, load_cluster
    from diagnostics.endpoints.explain import UnknownService

    selection = _selection(service, namespace)
    snapshot = read_node(Where(dump, kubeconfig, context, node))
    try:
        cluster = load_cluster(snapshot)
        view = _view(snapshot, cluster, selection, why=why)
    except ObjectsMissing as error:
        for gap in error.gaps:
            typer.echo(f"error: {gap}", err=True)
        raise typer.Exit(UNDETERMINED) from error
    except UnknownService as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(USAGE) from error
    _print(view, output, why=why)
    if view.differs:
        raise typer.Exit(FINDINGS)
    raise typer.Exit(UNDETERMINED if view.unknown else OK)


def _selection(text: str, namespace: str) -> Selection:
    from diagnostics.fate.selection import read_selection
    from diagnostics.trace.question import QuestionError

    try:
        selection = read_selection(text, namespace)
    except QuestionError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(USAGE) from error
    if not selection.service:
        typer.echo(f"error: {text!r}: expected a Service: svc/NAME or NAMESPACE/NAME", err=True)
        raise typer.Exit(USAGE)
    return selection


def _view(snapshot: NodeSnapshot, cluster: Cluster, selection: Selection, *, why: bool) -> View:
    from diagnostics.endpoints.explain import explain_endpoints, find_service, why_ignored
    from diagnostics.endpoints.kernel import compare_kernel
    from diagnostics.endpoints.ports import explain_ports, why_undetermined
    from kpctl.endpoints_view import View
    from proxy.model.services import ServiceName

    name = ServiceName(*selection.service.split("/"))
    found = explain_endpoints(cluster, name)
    ports = explain_ports(cluster, name)
    if selection.port_name:
        found = tuple(one for one in found if one.port_name == selection.port_name)
        ports = _named(ports, str(name), selection.port_name)
    kernel = compare_kernel(snapshot, cluster, name) if why else None
    view = View(
        service=str(name),
        node=cluster.node_name,
        mode=cluster.config.mode,
        endpoints=found if why else tuple(one for one in found if one.used),
        ports=ports,
        behind=_behind(snapshot, found),
        ignored=why_ignored(find_service(cluster, name), cluster.node_name),
        undetermined=why_undetermined(cluster, name),
        kernel=kernel,
    )
    gaps = (*map(str, cluster.gaps), *(kernel.gaps if kernel else ()))
    return replace(view, gaps=tuple(dict.fromkeys(gaps)))


def _named(ports: tuple[PortReport, ...], service: str, name: str) -> tuple[PortReport, ...]:
    found = tuple(port for port in ports if port.name == f"{service}:{name}")
    if not found:
        known = dict.fromkeys(port.name.partition(":")[2] or "(unnamed)" for port in ports)
        said = ", ".join(known) or "none that a proxy serves"
        typer.echo(f"error: {service} has no port {name}; it has {said}", err=True)
        raise typer.Exit(USAGE)
    return found


def _behind(snapshot: NodeSnapshot, found: tuple[EndpointReport, ...]) -> dict[str, str]:
    from diagnostics.cluster.names import Names

    names, behind = Names.of(snapshot), {}
    for one in found:
        try:
            behind[one.address] = names.owner(ip_address(one.address))
        except ValueError:
            continue  # an address that its reason calls invalid
    return {address: owner for address, owner in behind.items() if owner}


def _print(view: View, output: Output, *, why: bool) -> None:
    from kpctl.endpoints_view import as_json, long_lines, short_lines

    if output is Output.JSON:
        import msgspec

        typer.echo(msgspec.json.encode(as_json(view)).decode())
    else:
        lines = (long_lines if why else short_lines)(view, wide=output is Output.WIDE)
        for line in lines:
            typer.echo(line)
    if not why and not view.endpoints:
        said = view.ignored.text if view.ignored else f"see: kpctl endpoints {view.service} --why"
        typer.echo(f"no endpoint of {view.service} is used on this node: {said}", err=True)
    if view.undetermined:
        typer.echo(f"undetermined: {view.undetermined}", err=True)
    for gap in view.gaps:
        typer.echo(f"gap: {gap}", err=True)
