"""
``kpctl drift``: does the kernel agree with the API?

Exit codes: 0 it does, 1 it does not, 2 wrong command line, 3 that cannot be told, 4 the dump or the
API cannot be read.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from kpctl.all_nodes.options import (
    AllNodesOption,
    DebugNamespaceOption,
    DebugPodsOption,
    ImageOption,
    NodesOption,
    SelectorOption,
    TimeoutOption,
    YesOption,
)
from kpctl.exit_codes import FINDINGS, OK, UNDETERMINED
from kpctl.outputs import Output, OutputOption, print_json
from kpctl.reading import (
    ContextOption,
    DumpOption,
    KubeconfigOption,
    NamespaceOption,
    NodeOption,
    Where,
    read_node,
    read_nodes,
)

if TYPE_CHECKING:
    from diagnostics.drift.find import Progress
    from diagnostics.drift.model import DriftReport
    from kpctl.all_nodes.plan import Choice


_SLOW_S = 1.0


def drift(  # noqa: PLR0913, PLR0917 - one for each option
    service: Annotated[
        str, typer.Argument(help="NAMESPACE/NAME of one Service; default: all.")
    ] = "",
    namespace: NamespaceOption = "",
    all_namespaces: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="All Services; the default.")
    ] = False,
    dump: DumpOption = "",
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    output: OutputOption = Output.TEXT,
    watch_s: Annotated[
        float, typer.Option("--watch", metavar="SECONDS", help="Look again so often.", min=0)
    ] = 0,
    all_nodes: AllNodesOption = False,
    nodes: NodesOption = "",
    selector: SelectorOption = "",
    yes: YesOption = False,
    debug_pods: DebugPodsOption = False,
    image: ImageOption = "",
    debug_namespace: DebugNamespaceOption = "",
    timeout_s: TimeoutOption = 120.0,
) -> None:
    """Compare what the kernel does with what the API asks for, both directions, all modes."""
    del all_namespaces
    where = Where(dump, kubeconfig, context, node)
    wanted = _wanted(service, namespace)
    if watch_s:
        raise typer.Exit(_watch(where, wanted, watch_s))
    if all_nodes:
        from kpctl.all_nodes.plan import make_choice

        choice = make_choice(nodes, selector, debug_pods, image, debug_namespace, timeout_s)
        found = _find_all(where, choice, yes=yes)
    else:
        found = [_find(where)]
    reports = [_narrowed(report, wanted) for report in found]
    _print(reports, output)
    raise typer.Exit(exit_code(reports))


def _wanted(service: str, namespace: str) -> str:
    """Return what the names of wanted service ports begin with, "" for all."""
    name = service.removeprefix("svc/").removeprefix("service/")
    if name and "/" not in name:
        name = f"{namespace or 'default'}/{name}"
    if not name and namespace:
        return f"{namespace}/"
    return name


def _find(where: Where) -> DriftReport:
    from diagnostics.drift.find import find_drift

    node = read_node(where)
    with _progress() as progress:
        return find_drift(node, progress)


def _find_all(where: Where, choice: Choice, *, yes: bool) -> list[DriftReport]:
    """Return the drift of every node of a snapshot, or of the cluster through its API."""
    from diagnostics.drift.find import find_drift
    from diagnostics.snapshot.node import NodeSnapshot
    from kpctl.all_nodes.session import all_nodes

    if where.dump:
        return [find_drift(node) for node in read_nodes(where.dump)]
    with all_nodes(where.kubeconfig, where.context, choice, yes) as cluster:
        return [find_drift(NodeSnapshot(parts, parts.node)) for parts in cluster.nodes]


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show how far it is, on a terminal and once it takes longer than a moment."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    started = time.monotonic()
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("comparing service ports", total=None, visible=False)

        def told(done: int, total: int) -> None:
            if time.monotonic() - started > _SLOW_S:
                bar.update(task, completed=done, total=total, visible=True)

        yield told


def _narrowed(report: DriftReport, wanted: str) -> DriftReport:
    """Keep differences of the wanted Services and those of the whole node."""
    from dataclasses import replace

    if not wanted:
        return report
    prefixes = (wanted,) if wanted.endswith("/") else (wanted, f"{wanted}:")
    kept = tuple(
        one
        for one in report.differences
        if not one.service
        or one.service == wanted
        or any(one.service.startswith(prefix) for prefix in prefixes if prefix[-1] in "/:")
    )
    return replace(report, differences=kept)


def _print(reports: Sequence[DriftReport], output: Output) -> None:
    if output is Output.JSON:
        from diagnostics.drift.answer import answer

        print_json(answer(reports))
    else:
        from rich.console import Console

        from kpctl.drift_view import view

        console = Console(soft_wrap=True, highlight=False)
        for report in reports:
            console.print(view(report))
    for report in reports:
        for text in (
            *(f"note: {note}" for note in report.notes),
            *map("gap: {}".format, report.gaps),
        ):
            typer.echo(text, err=True)


def exit_code(reports: Sequence[DriftReport]) -> int:
    """Return FINDINGS if any node drifts, UNDETERMINED if that is not known of one."""
    if any(report.differences for report in reports):
        return FINDINGS
    return UNDETERMINED if any(report.undetermined for report in reports) else OK


def _watch(where: Where, wanted: str, every_s: float) -> int:
    """Print differences when they come and go, with their age, until interrupted."""
    from kpctl.drift_watch import Watch

    watch = Watch(typer.echo)
    report = None
    try:
        while True:
            report = _narrowed(_find(where), wanted)
            watch.seen(report)
            time.sleep(every_s)
    except KeyboardInterrupt:
        return exit_code((report,)) if report else UNDETERMINED
