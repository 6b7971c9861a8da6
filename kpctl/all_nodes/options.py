"""The command line's options for ``--all-nodes``, the same for each command that has it."""

from __future__ import annotations

from typing import Annotated

import typer

_PANEL = "All nodes, through the Kubernetes API"

AllNodesOption = Annotated[
    bool,
    typer.Option(
        "--all-nodes", help="Read every node, in its proxy's pod.", rich_help_panel=_PANEL
    ),
]
NodesOption = Annotated[
    str, typer.Option("--nodes", metavar="A,B", help="Only these.", rich_help_panel=_PANEL)
]
SelectorOption = Annotated[
    str,
    typer.Option("-l", "--selector", help="Only Nodes with labels.", rich_help_panel=_PANEL),
]
YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.", rich_help_panel=_PANEL)]
DebugPodsOption = Annotated[
    bool,
    typer.Option("--debug-pods", help="Never use the proxy's pods.", rich_help_panel=_PANEL),
]
ImageOption = Annotated[
    str,
    typer.Option("--image", help="Of debug pods; default: netshoot.", rich_help_panel=_PANEL),
]
DebugNamespaceOption = Annotated[
    str,
    typer.Option(
        "--debug-namespace", help="Of debug pods; default: kube-system.", rich_help_panel=_PANEL
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", help="For one node.", min=1, rich_help_panel=_PANEL
    ),
]
