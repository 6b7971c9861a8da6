"""
``kpctl ipvs``: virtual servers, their counters and their connections, with names beside addresses.

Exit codes: 0 done, also on a node without IPVS, which has no virtual servers; 1 nothing is what was
asked for; 2 wrong command line; 3 the dump does not hold it; 4 the node or dump cannot be read.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from kpctl.exit_codes import FINDINGS, OK, UNDETERMINED, USAGE
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
    from diagnostics.cluster.names import Names
    from diagnostics.fate.selection import Selection
    from diagnostics.ipvs_view.recorded import Found
    from diagnostics.snapshot.parts import Gap

_DEPRECATED = (
    "note: IPVS mode is deprecated since Kubernetes 1.35 and refused by default from 1.40; its "
    "successor is mode nftables"
)
_NO_IPVS = (
    "this node has no virtual servers: IPVS (module ip_vs) is not loaded, so no proxy works in "
    "mode ipvs here"
)


class Output(enum.StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"


class _Asked(NamedTuple):
    """What to show: ``statistics`` is stats, rate or ""."""

    where: Where
    selection: Selection
    statistics: str
    output: Output


def ipvs(  # noqa: PLR0913, PLR0917 - one for each option
    what: Annotated[str, typer.Argument(metavar="[svc/NAME|IP[:PORT]]", help="Default: all.")] = "",
    namespace: NamespaceOption = "",
    stats: Annotated[bool, typer.Option("--stats", help="Totals since they were made.")] = False,
    rate: Annotated[bool, typer.Option("--rate", help="The same per second.")] = False,
    connections: Annotated[
        bool, typer.Option("-c", "--connections", help="Connections, as ipvsadm -Lnc.")
    ] = False,
    dump: DumpOption = "",
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    output: Annotated[Output, typer.Option("-o", "--output", help="Format.")] = Output.TABLE,
) -> None:
    """Show virtual servers, counters and connections with the Services and Pods behind them."""
    from diagnostics.fate.selection import read_selection
    from diagnostics.ipvs_view.live import has_ipvs
    from diagnostics.trace.question import QuestionError

    if stats + rate + connections > 1:
        raise _wrong("--stats, --rate and --connections exclude each other")
    try:
        selection = read_selection(what, namespace)
    except QuestionError as error:
        raise _wrong(str(error)) from error
    statistics = "stats" if stats else "rate" if rate else ""
    where = Where(dump, kubeconfig, context, node)
    asked = _Asked(where, selection, statistics, output)
    if not dump and not has_ipvs():
        raise typer.Exit(_absent(asked, connections=connections))
    raise typer.Exit(_connections(asked) if connections else _servers(asked))


def _wrong(text: str) -> typer.Exit:
    typer.echo(f"error: {text}", err=True)
    return typer.Exit(USAGE)


def _absent(asked: _Asked, *, connections: bool) -> int:
    """Say that there is no IPVS here: a fact, so only what was asked for by name is missing."""
    from diagnostics.ipvs_view.recorded import NOTHING
    from diagnostics.ipvs_view.report import connection_report, virtual_report

    if asked.output is Output.JSON:
        _print_json(
            connection_report((), (), available=False)
            if connections
            else virtual_report((), NOTHING, (), available=False)
        )
    typer.echo(_NO_IPVS, err=True)
    return OK if asked.selection.is_everything else FINDINGS


def _servers(asked: _Asked) -> int:
    from diagnostics.ipvs_view.report import virtual_report
    from diagnostics.ipvs_view.rows import virtual_rows
    from diagnostics.snapshot.parts import Gap
    from kpctl.ipvs_view import virtual_lines

    names, gaps = _names(asked)
    found = _found(asked, names)
    if isinstance(found, Gap):
        return _undetermined(found)
    for problem in found.table.problems:
        typer.echo(f"gap: {problem}", err=True)
    rows = list(virtual_rows(found.table, names, asked.selection))
    if asked.output is Output.JSON:
        _print_json(virtual_report(rows, found, gaps))
    elif rows:
        _print(list(virtual_lines(rows, found)))
    return _verdict(asked, bool(rows), gaps)


def _found(asked: _Asked, names: Names) -> Found | Gap:
    from diagnostics.ipvs_view.live import live_table
    from diagnostics.ipvs_view.recorded import Found, recorded_table
    from diagnostics.ipvs_view.rows import wants
    from proxy.kernel.netlink import NetlinkError

    if asked.where.dump:
        return recorded_table(read_node(asked.where), asked.statistics)
    try:
        table = live_table(
            asked.statistics, lambda server, mark: wants(asked.selection, server, mark, names)
        )
    except NetlinkError as error:
        raise _refused(error) from error
    return Found(table)


def _connections(asked: _Asked) -> int:
    from diagnostics.ipvs_view.report import connection_report
    from diagnostics.ipvs_view.rows import connection_rows
    from diagnostics.readers.ipvs_connections import read_ipvs_connections
    from diagnostics.snapshot.parts import Gap
    from kpctl.ipvs_view import connection_lines

    text = _listing(asked)
    if isinstance(text, Gap):
        return _undetermined(text)
    names, gaps = _names(asked)
    read = read_ipvs_connections(text)
    for problem in read.problems:
        typer.echo(f"gap: {problem}", err=True)
    rows = list(connection_rows(read.connections, names, asked.selection))
    if asked.output is Output.JSON:
        _print_json(connection_report(rows, gaps))
    elif rows:
        _print(list(connection_lines(rows)))
    elif asked.selection.is_everything:
        typer.echo("no connections", err=True)
    return _verdict(asked, bool(rows), gaps)


def _listing(asked: _Asked) -> str | Gap:
    from diagnostics.ipvs_view.files import connection_listing
    from diagnostics.ipvs_view.live import live_connections
    from diagnostics.snapshot.archive import SnapshotError

    try:
        if asked.where.dump:
            return connection_listing(Path(asked.where.dump))
        return live_connections()
    except SnapshotError as error:
        raise environment_error(str(error)) from error
    except OSError as error:
        raise _refused(error) from error


def _names(asked: _Asked) -> tuple[Names, tuple[str, ...]]:
    """Return names, and why those of Services are not known; ends when a name was asked for."""
    from diagnostics.cluster.names import Names
    from diagnostics.ipvs_view.files import is_listing_alone
    from diagnostics.readers.objects import ClusterObjects
    from diagnostics.snapshot.parts import Part, gap

    if asked.where.dump and is_listing_alone(Path(asked.where.dump)):
        return Names(ClusterObjects()), (str(gap(Part.SERVICES, "a listing has no names")),)
    snapshot = read_node(asked.where)
    objects = snapshot.objects()
    if objects.services is not None:
        return Names.of(snapshot), ()
    missing = snapshot.object_gap(Part.SERVICES)
    if asked.selection.service:
        raise typer.Exit(_undetermined(missing))
    return Names.of(snapshot), (str(missing),)


def _verdict(asked: _Asked, shown: bool, gaps: Sequence[str]) -> int:
    if shown:
        typer.echo(_DEPRECATED, err=True)
    for one in gaps if shown else ():
        typer.echo(f"gap: {one}", err=True)
    if shown or asked.selection.is_everything:
        return OK
    typer.echo("error: there is nothing of what was asked for", err=True)
    return FINDINGS


def _undetermined(missing: Gap) -> int:
    typer.echo(f"gap: {missing}", err=True)
    return UNDETERMINED


def _refused(error: OSError) -> typer.Exit:
    return environment_error(f"the kernel does not show IPVS ({error.strerror}): run as root")


def _print(lines: Sequence[str]) -> None:
    typer.echo("\n".join(lines))


def _print_json(value: dict[str, Any]) -> None:
    import msgspec

    typer.echo(msgspec.json.encode(value).decode())
