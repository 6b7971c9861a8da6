"""
``--all-nodes`` of a command: say what will be done, ask, do it, and leave nothing behind.

    choice = Choice(nodes=("a", "b"))
    with all_nodes(kubeconfig, context, choice, yes) as cluster:
        for parts in cluster.nodes:
            node = NodeSnapshot(parts, parts.node)
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from diagnostics.snapshot.live import ReadObjects
from diagnostics.snapshot.parts import Gap, Part, gap
from diagnostics.snapshot.source import Content
from kpctl.all_nodes.api import NodesApi
from kpctl.all_nodes.collect import NodeParts, collecting
from kpctl.all_nodes.plan import Choice, Plan, make_plan, missing_rights
from kpctl.cluster_lists import kubeconfig_path
from kpctl.exit_codes import USAGE
from kpctl.reading import api_of, environment_error
from kpctl.version import kpctl_version
from proxy.sources.credentials import ApiLocation, Credentials
from proxy.sources.source import SourceError


class ClusterParts:
    """What belongs to the cluster, a ``PartSource``; asked of the API once for all nodes."""

    def __init__(self, objects: ReadObjects) -> None:
        self._objects = objects
        self._read: dict[Part, tuple[Content, ...] | Gap] = {}
        self._lock = threading.Lock()

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        """As ``PartSource.read``, for ``CLUSTER_PARTS``."""
        with self._lock:
            if part not in self._read:
                self._read[part] = self._ask(part)
            return self._read[part]

    def _ask(self, part: Part) -> tuple[Content, ...] | Gap:
        if part is Part.OBJECTS:
            return gap(part, "asked for by kind")
        try:
            return (Content(part.value, self._objects(part)),)
        except SourceError as error:
            return gap(part, f"API server: {error}")


@dataclass(frozen=True, slots=True)
class AllNodes:
    """
    The cluster while it is read.

    Attributes:
        cluster: Objects and the proxy's configuration.
        nodes: Each node when it was read, once; its parts of the cluster are those of ``cluster``.
        count: How many there will be.
    """

    cluster: ClusterParts
    nodes: Iterator[NodeParts]
    count: int


@contextmanager
def all_nodes(
    kubeconfig: str, context: str, choice: Choice, yes: bool
) -> Generator[AllNodes, None, None]:
    """
    Read the chosen nodes, after the user has agreed; progress and plan go to stderr.

    Ends the command with ENVIRONMENT when there is no API server, no such node or no right, with
    USAGE when nobody can be asked, and with 1 when the answer is no. Debug pods are deleted when
    it is left, on SIGINT and SIGTERM too.
    """
    objects, why = api_of(kubeconfig, context)
    if objects is None:
        raise environment_error(why)
    location = ApiLocation(kubeconfig_path(kubeconfig), context=context)
    api = NodesApi(Credentials(location), f"kpctl/{kpctl_version()}")
    try:
        plan = make_plan(api, choice)
        lacking = missing_rights(api, plan)
    except SourceError as error:
        raise environment_error(str(error)) from error
    _tell_plan(plan)
    if lacking:
        raise environment_error(
            f"no right to {'; '.join(map(str, lacking))}: ask for a Role with it, or run kpctl on "
            "the nodes themselves"
        )
    _ask(yes)
    cluster = ClusterParts(objects)
    with _terminated_as_interrupted(), collecting(api, plan, cluster, _tell) as nodes:
        yield AllNodes(cluster, _told(nodes, len(plan.targets)), len(plan.targets))


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _tell_plan(plan: Plan) -> None:
    for line in plan.lines():
        _tell(line)


def _ask(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        _tell("error: nothing was done: there is no terminal to ask at; use --yes")
        raise typer.Exit(USAGE)
    typer.confirm("Go on?", abort=True, err=True)


def _told(nodes: Iterator[NodeParts], count: int) -> Iterator[NodeParts]:
    for number, parts in enumerate(nodes, 1):
        said = f": {parts.problem}" if parts.problem else ""
        _tell(f"[{number}/{count}] {parts.node}: {parts.seconds:.1f} s{said}")
        yield parts


@contextmanager
def _terminated_as_interrupted() -> Generator[None, None, None]:
    """Let SIGTERM end the program as Ctrl-C does, so that what must be cleaned up is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
