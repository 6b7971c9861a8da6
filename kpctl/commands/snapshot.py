"""
`kpctl snapshot`: collect what is known of this node or of all nodes, for later or somebody else.

Exit codes: 0 written (gaps are told on stderr and in the manifests), 2 wrong command line, 3 no
rules of any data plane could be read, of any node, 4 it cannot be written, or the API server does
not let us.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn

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
from kpctl.exit_codes import OK, UNDETERMINED, USAGE
from kpctl.reading import (
    ContextOption,
    KubeconfigOption,
    NodeOption,
    Where,
    api_of,
    environment_error,
)
from kpctl.version import kpctl_version

if TYPE_CHECKING:
    from diagnostics.snapshot.parts import Gap, Part
    from diagnostics.snapshot.write import Progress, Written
    from kpctl.all_nodes.plan import Choice

_SLOW_S = 1.0
_SAME_GAPS = 3


def snapshot(  # noqa: PLR0913, PLR0917 - one for each option
    output: Annotated[
        str, typer.Option("-o", "--output", help="FILE.tar.gz, a new directory, - for stdout.")
    ] = "",
    redact: Annotated[
        bool, typer.Option("--redact", help="Hide names; addresses and ports stay.")
    ] = False,
    node_only: Annotated[
        bool, typer.Option("--node-only", help="Leave out what the API server has.")
    ] = False,
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
    all_nodes: AllNodesOption = False,
    nodes: NodesOption = "",
    selector: SelectorOption = "",
    yes: YesOption = False,
    debug_pods: DebugPodsOption = False,
    image: ImageOption = "",
    debug_namespace: DebugNamespaceOption = "",
    timeout_s: TimeoutOption = 120.0,
) -> None:
    """Collect rules, addresses, connections and API objects of this node; never secrets."""
    several = nodes or selector or debug_pods or image or debug_namespace
    if (several or yes) and not all_nodes:
        raise _usage("--nodes, -l, --yes, --debug-pods, --image and their like need --all-nodes")
    if all_nodes and (node or node_only):
        raise _usage("--all-nodes goes neither with --node nor with --node-only; see --nodes")
    if output == "-" and sys.stdout.isatty():
        raise _usage("an archive is not written to a terminal: redirect stdout")
    if not all_nodes:
        _one_node(output, redact, node_only, Where("", kubeconfig, context, node))
    from kpctl.all_nodes.plan import make_choice

    choice = make_choice(nodes, selector, debug_pods, image, debug_namespace, timeout_s)
    _every_node(output, redact, kubeconfig, context, choice, yes)


def _usage(text: str) -> typer.Exit:
    typer.echo(f"error: {text}", err=True)
    return typer.Exit(USAGE)


def _one_node(output: str, redact: bool, node_only: bool, where: Where) -> NoReturn:
    from diagnostics.snapshot.live import LiveSource
    from diagnostics.snapshot.write import Origin, write_snapshot
    from proxy.config.node import node_name

    name = node_name(where.node or os.environ.get("NODE_NAME", ""), platform.node())
    created = datetime.now(UTC)
    place = _place(output, _file_name(name, redact), created)
    objects, why = (None, "") if node_only else api_of(where.kubeconfig, where.context)
    source = LiveSource(objects, why)
    origin = Origin(kpctl_version(), name, created)
    with _Reporter() as reporter, _errors():
        written = write_snapshot(
            source, place, origin, redact=redact, node_only=node_only, progress=reporter.progress
        )
    _say_gaps(written.gaps)
    _say_files(written, len(written.files), sum(file.size for file in written.files))
    raise typer.Exit(OK if _has_rules(written) else UNDETERMINED)


def _every_node(
    output: str, redact: bool, kubeconfig: str, context: str, choice: Choice, yes: bool
) -> NoReturn:
    from diagnostics.snapshot.write import Origin, write_nodes
    from kpctl.all_nodes.session import all_nodes

    created = datetime.now(UTC)
    place = _place(output, "all-nodes", created)
    origin = Origin(kpctl_version(), "", created)
    with _errors(), all_nodes(kubeconfig, context, choice, yes) as session:
        found = ((parts.node, parts) for parts in session.nodes)
        written = write_nodes(session.cluster, found, place, origin, redact=redact)
    _say_gaps(written.cluster.gaps)
    for name, one in sorted(written.nodes.items()):
        _say_node_gaps(name, one.gaps)
    every = (written.cluster, *written.nodes.values())
    files = [file for one in every for file in one.files]
    _say_files(written.cluster, len(files), sum(file.size for file in files))
    raise typer.Exit(OK if any(map(_has_rules, written.nodes.values())) else UNDETERMINED)


def _place(output: str, name: str, created: datetime) -> Path | IO[bytes]:
    if output == "-":
        return sys.stdout.buffer
    return Path(output or f"kpctl-snapshot-{name}-{created:%Y%m%d-%H%M%S}.tar.gz")


@contextmanager
def _errors() -> Iterator[None]:
    from diagnostics.snapshot.archive import SnapshotError

    try:
        yield
    except SnapshotError as error:
        raise environment_error(str(error)) from error
    except BrokenPipeError as error:
        raise environment_error("stdout: nobody reads it any more") from error


def _file_name(node: str, redact: bool) -> str:
    return "node" if redact else re.sub(r"[^\w.-]", "-", node)


class _Reporter:
    """Progress on stderr: a bar on a terminal, else a line for each part after a second."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._status: AbstractContextManager[Any] = nullcontext()
        self._shown: Any = None

    def __enter__(self) -> _Reporter:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("reading the node")
        self._shown = self._status.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._status.__exit__(None, None, None)

    @property
    def progress(self) -> Progress:
        """What ``write_snapshot`` calls."""
        return self._tell

    def _tell(self, part: Part, number: int, total: int) -> None:
        text = f"[{number}/{total}] {part.value}"
        if self._shown is not None:
            self._shown.update(text)
        elif time.monotonic() - self._started > _SLOW_S:
            typer.echo(text, err=True)


def _say_files(written: Written, count: int, size: int) -> None:
    typer.echo(f"{count} files, {size} bytes unpacked", err=True)
    if written.path is not None:
        typer.echo(str(written.path))


def _say_gaps(gaps: Sequence[Gap], where: str = "") -> None:
    for gap in gaps:
        typer.echo(f"gap: {where}{gap}", err=True)


def _say_node_gaps(node: str, gaps: Sequence[Gap]) -> None:
    """Say once what is the reason of most gaps, when a node could not be read to its end."""
    reasons = Counter((gap.why, gap.how) for gap in gaps)
    common = {reason: count for reason, count in reasons.items() if count > _SAME_GAPS}
    for (why, how), count in common.items():
        typer.echo(f"gap: {node}: {count} parts: {why}; {how}", err=True)
    _say_gaps([gap for gap in gaps if (gap.why, gap.how) not in common], f"{node}: ")


def _has_rules(written: Written) -> bool:
    from diagnostics.snapshot.parts import RULE_PARTS

    names = {part.value for part in RULE_PARTS}
    return any(file.name in names for file in written.files)
