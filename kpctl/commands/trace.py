"""
``kpctl trace``: what the rules in the kernel do with a packet.

Exit codes: 0 it goes somewhere, 1 it is dropped or rejected, 2 wrong command line, 3 there were no
rules to follow, 4 the dump cannot be read.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpctl.exit_codes import USAGE
from kpctl.reading import (
    ContextOption,
    KubeconfigOption,
    NamespaceOption,
    NodeOption,
    Where,
    environment_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kpctl.trace_run import LiveOptions

app = typer.Typer(help="Follow a packet through the rules in the kernel.", no_args_is_help=True)


class Output(enum.StrEnum):
    """Output formats; the last three are pictures."""

    TEXT = "text"
    JSON = "json"
    DOT = "dot"
    MERMAID = "mermaid"
    SVG = "svg"


Format = Annotated[Output, typer.Option("-o", "--output", help="Output format.")]
Origins = Annotated[
    list[str],
    typer.Option(
        "--from",
        metavar="CLIENT|PATH",
        help="Who calls: pod, node, external, loopback, pod/NAME or an IP address. "
        "Or where the rules are: a snapshot, directory or dump; default: this node. "
        "May be given once for each.",
        default_factory=list,
        show_default=False,
    ),
]
Protocol = Annotated[str, typer.Option("--protocol", help="TCP, UDP or SCTP.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say at length what happens and why.")]
All = Annotated[bool, typer.Option("--all", help="Show every endpoint's way, and every frontend.")]
Live = Annotated[
    bool, typer.Option("--live", help="Look at real packets on this node; sends nothing by itself.")
]
ProbeOption = Annotated[bool, typer.Option("--probe", help="With --live: open one connection.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="With --live: show who passes by.")]
Netns = Annotated[
    str, typer.Option("--netns", metavar="NAME", help="With --probe: send from this namespace.")
]
For = Annotated[str, typer.Option("--for", metavar="30s", help="With --watch: how long.")]
Count = Annotated[int, typer.Option("--count", help="With --watch: how many packets at most.")]


@app.callback()
def trace() -> None:
    """Follow a packet through the rules in the kernel."""


@app.command("svc")
def svc(  # noqa: PLR0913, PLR0917 - one for each option
    target: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE",
            help="NAMESPACE/NAME[:port], svc/NAME, IP[:port], [IPv6]:port or a NodePort.",
        ),
    ],
    origins: Origins,
    namespace: NamespaceOption = "",
    protocol: Protocol = "",
    output: Format = Output.TEXT,
    explain: Explain = False,
    everything: All = False,
    live: Live = False,
    probe: ProbeOption = False,
    watch: WatchOption = False,
    netns: Netns = "",
    duration: For = "30s",
    count: Count = 100,
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
) -> None:
    """Tell where calls to a Service go, and which rules decide that."""
    from kpctl.trace_run import LiveOptions, ServiceQuestion, View, trace_service

    options = LiveOptions(live, probe, watch, netns, duration, count)
    question = ServiceQuestion(target, tuple(origins), namespace, protocol, everything)
    where = Where("", kubeconfig, context, node)
    view = View(output.value, explain, everything)
    raise typer.Exit(_checked(lambda: trace_service(question, where, view, options), options))


@app.command("packet")
def packet(  # noqa: PLR0913, PLR0917 - one for each option
    origins: Origins,
    src: Annotated[str, typer.Option("--src", metavar="IP", help="Who sends it.")] = "",
    dst: Annotated[str, typer.Option("--dst", metavar="IP", help="Which address is called.")] = "",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 80,
    protocol: Protocol = "TCP",
    iface: Annotated[str, typer.Option("--iface", help="Where it comes in.")] = "",
    mark: Annotated[str, typer.Option("--mark", help="Its mark, as 0x4000.")] = "0",
    packets: Annotated[
        str, typer.Option("--packets", metavar="FILE", help="Many, as JSON lines; - is stdin.")
    ] = "",
    namespace: NamespaceOption = "",
    output: Format = Output.TEXT,
    explain: Explain = False,
    everything: All = False,
    live: Live = False,
    probe: ProbeOption = False,
    watch: WatchOption = False,
    netns: Netns = "",
    duration: For = "30s",
    count: Count = 100,
    kubeconfig: KubeconfigOption = "",
    context: ContextOption = "",
    node: NodeOption = "",
) -> None:
    """Tell where a packet of a new connection goes, and which rules decide that."""
    from kpctl.trace_run import LiveOptions, PacketQuestion, View, trace_many, trace_packet

    options = LiveOptions(live, probe, watch, netns, duration, count)
    where = Where("", kubeconfig, context, node)
    fields: dict[str, Any] = {"dst": dst, "port": port, "protocol": protocol, "mark": mark}
    fields |= {"src": src} if src else {}
    question = PacketQuestion(fields, tuple(origins), namespace, iface or None)
    view = View(output.value, explain, everything)

    def run() -> int:
        if packets:
            return trace_many(packets, tuple(origins), where)
        return trace_packet(question, where, view, options)

    raise typer.Exit(_checked(run, options))


def _checked(run: Callable[[], int], options: LiveOptions) -> int:
    """Run; a question that cannot be understood is one line and USAGE."""
    from diagnostics.live.errors import ReadError
    from diagnostics.trace.question import QuestionError

    try:
        options.check()
        return run()
    except QuestionError as error:
        typer.echo(f"error: {error}", err=True)
        return USAGE
    except ReadError as error:
        raise environment_error(str(error)) from error
