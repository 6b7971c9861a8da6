"""
`kpctl snapshot`: collect what is known of this node, for later or for somebody else.

Exit codes: 0 written (gaps are told on stderr and in the manifest), 2 wrong command line, 3 no
rules of any data plane could be read, 4 it cannot be written.
"""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpctl.exit_codes import ENVIRONMENT, OK, UNDETERMINED
from kpctl.reading import ContextOption, KubeconfigOption, NodeOption, api_of
from kpctl.version import kpctl_version

if TYPE_CHECKING:
    from diagnostics.snapshot.parts import Gap, Part
    from diagnostics.snapshot.write import Progress, Written

_SLOW_S = 1.0


def snapshot(
    output: Annotated[
        str, typer.Option("-o", "--output", help="FILE.tar.gz or a new directory.")
    ] = "",
    redact: Annotated[
        bool, typer.Option("--redact", help="Hide names; addresses and ports stay.")
    ] = False,
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
) -> None:
    """Collect rules, addresses, connections and API objects of this node; never secrets."""
    from diagnostics.snapshot.archive import SnapshotError
    from diagnostics.snapshot.live import LiveSource
    from diagnostics.snapshot.write import Origin, write_snapshot
    from proxy.config.node import node_name

    name = node_name(node, platform.node())
    created = datetime.now(UTC)
    path = Path(
        output or f"kpctl-snapshot-{_file_name(name, redact)}-{created:%Y%m%d-%H%M%S}.tar.gz"
    )
    objects, why = api_of(kubeconfig, context)
    source = LiveSource(objects, why)
    origin = Origin(kpctl_version(), name, created)
    with _Reporter() as reporter:
        try:
            written = write_snapshot(
                source, path, origin, redact=redact, progress=reporter.progress
            )
        except SnapshotError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(ENVIRONMENT) from error
    _say(written)
    raise typer.Exit(_exit_code(written))


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


def _say(written: Written) -> None:
    _say_gaps(written.gaps)
    size = sum(file.size for file in written.files)
    typer.echo(f"{len(written.files)} files, {size} bytes unpacked", err=True)
    typer.echo(str(written.path))


def _say_gaps(gaps: Sequence[Gap]) -> None:
    for gap in gaps:
        typer.echo(f"gap: {gap}", err=True)


def _exit_code(written: Written) -> int:
    from diagnostics.snapshot.parts import RULE_PARTS

    names = {part.value for part in RULE_PARTS}
    return OK if any(file.name in names for file in written.files) else UNDETERMINED
