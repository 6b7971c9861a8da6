"""Answers what was asked of ``kpctl trace``: finds the questions, follows them, prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec
import typer

from diagnostics.cluster.names import Names
from diagnostics.fate.asked import Asked, read_asked
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.trace.question import Question, QuestionError, Tracer
from diagnostics.trace.report import DROP, REJECT, UNKNOWN, Trace
from kpctl.cluster_lists import Narrow
from kpctl.exit_codes import ENVIRONMENT, FINDINGS, OK, UNDETERMINED
from kpctl.reading import Where, read_node
from kpctl.trace_questions import Origin, Questions, read_origin
from proxy.model.addresses import IPFamily


class View(NamedTuple):
    """How to show an answer: text, json, dot, mermaid or svg; at length; with every endpoint."""

    output: str
    explain: bool = False
    everything: bool = False


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What ``--live`` and its companions say."""

    live: bool = False
    probe: bool = False
    watch: bool = False
    netns: str = ""
    for_s: float = 30.0
    count: int = 100

    def check(self) -> None:
        """Raise QuestionError for options that contradict each other."""
        if self.probe and self.watch:
            raise QuestionError("--probe and --watch: choose one of the two")
        if (self.probe or self.watch) and not self.live:
            name = "--probe" if self.probe else "--watch"
            raise QuestionError(f"{name} looks at real packets: add --live")


@dataclass(frozen=True, slots=True)
class ServiceQuestion:
    """What ``kpctl trace svc`` was asked."""

    target: str
    origins: tuple[str, ...]
    namespace: str
    protocol: str
    every: bool


@dataclass(frozen=True, slots=True)
class PacketQuestion:
    """What ``kpctl trace packet`` was asked; ``fields`` are those of ``Question.read``."""

    fields: Mapping[str, Any]
    origins: tuple[str, ...]
    namespace: str
    iface: str | None


def trace_service(asked: ServiceQuestion, where: Where, view: View, live: LiveOptions) -> int:
    """Follow calls to a Service; return the exit code."""
    origin = read_origin(asked.origins)
    target = read_asked(asked.target, asked.namespace)
    node = _node(where, origin, live, _narrow(target, origin, asked.namespace, where))
    questions = Questions(node, asked.namespace)
    calls = questions.about(target, origin.client, protocol=asked.protocol, every=asked.every)
    asked_of = [call.question for call in calls]
    if live.live:
        return _live(asked_of, view, live, questions.names, any_source=not origin.client)
    return _answer(node, asked_of, view, questions.names)


def trace_packet(asked: PacketQuestion, where: Where, view: View, live: LiveOptions) -> int:
    """Follow one packet; return the exit code."""
    origin = read_origin(asked.origins)
    fields, iface = dict(asked.fields), asked.iface
    if not fields["dst"] or not ("src" in fields or origin.client):
        raise QuestionError("--src (or --from) and --dst are needed, or --packets")
    if "src" not in fields:
        called = Question.read({**fields, "src": fields["dst"]})
        node = _node(where, origin, live, _narrow(None, origin, asked.namespace, where))
        family = IPFamily.IPV4 if called.dst.version == 4 else IPFamily.IPV6
        client = Questions(node, asked.namespace).client(origin.client, family)
        if client is None:
            raise QuestionError(f"--from: there is no client {origin.client!r} of {family.value}")
        fields["src"], iface = str(client.address), iface or client.iface
    else:
        node = _node(where, origin, live, Narrow())
    question = Question.read({**fields, "iface": iface})
    names = Names.of(node)
    if live.live:
        return _live([question], view, live, names, any_source=False)
    return _answer(node, [question], view, names)


def trace_many(path: str, origins: Sequence[str], where: Where) -> int:
    """Answer one question a line with one report a line."""
    node = _node(where, read_origin(origins), LiveOptions(), Narrow())
    tracer = Tracer(node)
    for number, line in enumerate(_lines(path), start=1):
        try:
            question = Question.parse(line)
        except QuestionError as error:
            raise QuestionError(f"{path}: line {number}: {error}") from error
        typer.echo(_json(tracer.report(tracer.ask(question))))
    return OK


def _node(where: Where, origin: Origin, live: LiveOptions, narrow: Narrow) -> NodeSnapshot:
    if origin.dump and live.live:
        raise QuestionError(f"--live looks at this node's packets, not at {origin.dump}")
    return read_node(where._replace(dump=origin.dump), narrow)


def _narrow(asked: Asked | None, origin: Origin, namespace: str, where: Where) -> Narrow:
    """Return the objects that a question needs of an API server."""
    pod = ""
    if origin.client.startswith(("pod/", "pods/")):
        pod = origin.client.partition("/")[2]
        pod = pod if "/" in pod else f"{namespace or 'default'}/{pod}"
    return Narrow(asked.service if asked else "", pod, where.node)


def _answer(node: NodeSnapshot, questions: Sequence[Question], view: View, names: Names) -> int:
    tracer = Tracer(node)
    traces = [tracer.ask(question) for question in questions]
    if view.output == "json":
        reports = [tracer.report(found) for found in traces]
        typer.echo(_json(reports[0] if len(reports) == 1 else _list(reports)))
    else:
        for found in traces:
            _show(found, view, names)
    gaps = dict.fromkeys(gap for found in traces for gap in tracer.gaps(found))
    for gap in gaps:
        typer.echo(f"gap: {gap}", err=True)
    return max(map(_exit_code, traces))


def _list(reports: Sequence[dict[str, object]]) -> dict[str, object]:
    return {"apiVersion": "kpctl.io/v1", "kind": "TraceReportList", "items": list(reports)}


def _show(found: Trace, view: View, names: Names) -> None:
    from rich.console import Console

    from kpctl import trace_view

    del view, names
    Console().print(trace_view.view(found))


def _live(
    questions: Sequence[Question],
    view: View,
    options: LiveOptions,
    names: Names,
    *,
    any_source: bool,
) -> int:
    from kpctl.live_trace.probe import Probe
    from kpctl.live_trace.question import PacketFilter
    from kpctl.live_trace.run import run_check, run_probe, run_watch
    from kpctl.live_trace.watch import WatchOptions

    if len(questions) > 1:
        raise QuestionError(
            "--live looks at one port at a time; name it: "
            + ", ".join(str(question.port) for question in questions)
        )
    question = questions[0]
    as_json = view.output == "json"
    packets = PacketFilter.of(question, any_source=any_source)
    if options.watch:
        watching = WatchOptions(options.for_s, options.count)
        return run_watch(packets, watching, names, as_json=as_json)
    if options.probe:
        probe = Probe(question.protocol, question.dst, question.port, origin=_origin(options))
        return run_probe(probe, names, as_json=as_json)
    return run_check(packets, as_json=as_json)


def _origin(options: LiveOptions) -> Any:
    from kpctl.lab.netns import Namespace

    return Namespace(options.netns) if options.netns else None


def _lines(path: str) -> Iterator[str]:
    def filled(file: TextIO) -> Iterator[str]:
        return (line for line in file if line.strip())

    if path == "-":
        yield from filled(sys.stdin)
        return
    try:
        with Path(path).open(encoding="utf-8") as file:
            yield from filled(file)
    except OSError as error:
        typer.echo(f"error: {path}: {error.strerror}", err=True)
        raise typer.Exit(ENVIRONMENT) from error


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _exit_code(found: Trace) -> int:
    if found.certainty == UNKNOWN:
        return UNDETERMINED
    return FINDINGS if found.verdict in (DROP, REJECT) else OK
