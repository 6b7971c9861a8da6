"""Where commands that read take their facts from: ``--from PATH``, or this node and its API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from kpctl.exit_codes import ENVIRONMENT
from kpctl.version import kpctl_version

if TYPE_CHECKING:
    from diagnostics.snapshot.live import ReadObjects
    from diagnostics.snapshot.node import NodeSnapshot
    from kpctl.cluster_lists import Narrow

DumpOption = Annotated[
    str,
    typer.Option("--from", metavar="PATH", help="A snapshot, directory or dump; default: live."),
]
KubeconfigOption = Annotated[
    str, typer.Option("--kubeconfig", help="As for kubectl; default: KUBECONFIG, ~/.kube.")
]
ContextOption = Annotated[str, typer.Option("--context", help="A context of the kubeconfig.")]
NodeOption = Annotated[
    str, typer.Option("--node", metavar="NAME", help="Name of the Node; default: the host's.")
]
NamespaceOption = Annotated[
    str, typer.Option("-n", "--namespace", help="Namespace of a name without one.")
]


class Where(NamedTuple):
    """
    What a user said of where to read.

    Attributes:
        dump: Path of a snapshot, "" for the running node.
        node: Name of the Node, "" for the host's or the only one.
    """

    dump: str = ""
    kubeconfig: str = ""
    context: str = ""
    node: str = ""


def read_node(
    where: Where, narrow: Narrow | None = None, *, selective: bool = False
) -> NodeSnapshot:
    """
    Return the node; ends the command with ENVIRONMENT when there is none to read.

    Without an API server at hand the objects of the live node are gaps. *narrow* says which ones
    are needed at all; a snapshot has what it has. With *selective*, chains, sets and maps of the
    live node are read when they are asked for; reading them may then raise ReadError.
    """
    from diagnostics.snapshot.archive import SnapshotError
    from diagnostics.snapshot.live import live_snapshot
    from diagnostics.snapshot.open import open_snapshot
    from proxy.config.node import node_name

    if not where.dump:
        name = node_name(where.node or os.environ.get("NODE_NAME", ""), "")
        objects, why = api_of(where.kubeconfig, where.context, narrow)
        if selective:
            from diagnostics.live.snapshot import selective_snapshot

            return selective_snapshot(objects, name, why)
        return live_snapshot(objects, name, why)
    try:
        return open_snapshot(Path(where.dump)).node(where.node)
    except SnapshotError as error:
        raise environment_error(str(error)) from error


def read_nodes(dump: str) -> tuple[NodeSnapshot, ...]:
    """Return all nodes of a snapshot; ends the command with ENVIRONMENT if it cannot be read."""
    from diagnostics.snapshot.archive import SnapshotError
    from diagnostics.snapshot.open import open_snapshot

    try:
        return open_snapshot(Path(dump)).nodes
    except SnapshotError as error:
        raise environment_error(str(error)) from error


def api_of(
    kubeconfig: str, context: str = "", narrow: Narrow | None = None
) -> tuple[ReadObjects | None, str]:
    """
    Return how to ask the API for lists, or None and why it cannot be asked.

    A directory of manifests in KPCTL_MANIFESTS stands for the API, unless a kubeconfig was named.
    """
    from kpctl.cluster_lists import ClusterLists, kubeconfig_path
    from kpctl.manifest_lists import ENVIRONMENT_VARIABLE, ManifestLists
    from proxy.sources.credentials import ApiLocation
    from proxy.sources.source import SourceError

    manifests = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if manifests and not kubeconfig:
        return ManifestLists(Path(manifests)), ""
    path = kubeconfig_path(kubeconfig)
    if not path and "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None, "there is no kubeconfig and this is no pod: use --kubeconfig"
    try:
        location = ApiLocation(path, context=context)
        return ClusterLists(location, f"kpctl/{kpctl_version()}", narrow), ""
    except SourceError as error:
        return None, str(error)


def environment_error(text: str) -> typer.Exit:
    """Say what is wrong on stderr; raise what is returned."""
    typer.echo(f"error: {text}", err=True)
    return typer.Exit(ENVIRONMENT)
