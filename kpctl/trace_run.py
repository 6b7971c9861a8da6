"""Answers what was asked of ``kpctl trace``: finds the questions, follows them, prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec
import typer

from diagnostics.cluster.names import Names
from diagnostics.fate.asked import Asked, read_asked
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.trace.answer import report
from diagnostics.trace.question import Question, QuestionError, Tracer
from diagnostics.trace.replies import Surroundings
from diagnostics.trace.report import DROP, REJECT, UNKNOWN, Trace
from kpctl.cluster_lists import Narrow
from kpctl.exit_codes import ENVIRONMENT, FINDINGS, OK, UNDETERMINED
from kpctl.reading import Where, read_node
from kpctl.trace_questions import Origin, Questions, read_origin
from proxy.config.durations import parse_duration
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
    duration: str = "30s"
    count: int = 100

    @property
    def for_s(self) -> float:
        """How long to watch, in seconds; raises QuestionError."""
        text = self.duration
        seconds = parse_duration(f"{text}s" if text.replace(".", "", 1).isdigit() else text)
        if seconds is None:
            raise QuestionError(f"--for {text!r}: write a duration such as 30s or 2m")
        return seconds

    @property
    def looks(self) -> bool:
        """Whether real packets are looked at, instead of rules."""
        return self.live and (self.probe or self.watch)

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
    if live.looks:
        return _live(asked_of, view, live, questions.names, any_source=not origin.client)
    code = _answer(node, asked_of, view, questions.names)
    if live.live:
        _say_what_is_possible(asked_of)
    return code


def trace_packet(asked: PacketQuestion, where: Where, view: View, live: LiveOptions) -> int:
    """Follow one packet; return the exit code."""
    origin = read_origin(asked.origins)
    fields, iface = dict(asked.fields), asked.iface
    if not fields["dst"] or not ("src" in fields or origin.client):
        raise QuestionError("--src (or --from) and --dst are needed, or --packets")
    if "src" in fields and origin.client:
        raise QuestionError(f"--src and --from {origin.client}: both say who calls; choose one")
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
    if live.looks:
        return _live([question], view, live, names, any_source=False)
    code = _answer(node, [question], view, names)
    if live.live:
        _say_what_is_possible([question])
    return code


def trace_many(path: str, origins: Sequence[str], where: Where) -> int:
    """Answer one question a line with one report a line."""
    node = _node(where, read_origin(origins), LiveOptions(), Narrow())
    tracer, around = Tracer(node), Surroundings.of(node)
    for number, line in enumerate(_lines(path), start=1):
        try:
            question = Question.parse(line)
        except QuestionError as error:
            raise QuestionError(f"{path}: line {number}: {error}") from error
        found = tracer.ask(question)
        typer.echo(_json(report(found, tracer.gaps(found), around)))
    return OK


def _node(where: Where, origin: Origin, live: LiveOptions, narrow: Narrow) -> NodeSnapshot:
    if origin.dump and live.live:
        raise QuestionError(f"--live looks at this node's packets, not at {origin.dump}")
    return read_node(where._replace(dump=origin.dump), narrow, selective=True)


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
    around = Surroundings.of(node, names)
    if view.output == "json":
        reports = [report(found, tracer.gaps(found), around) for found in traces]
        typer.echo(_json(reports[0] if len(reports) == 1 else _list(reports)))
    else:
        from kpctl.trace_output.show import show

        for found in traces:
            show(found, around, view.output, at_length=view.explain, everything=view.everything)
    gaps = dict.fromkeys(gap for found in traces for gap in tracer.gaps(found))
    for gap in gaps:
        typer.echo(f"gap: {gap}", err=True)
    return max(map(_exit_code, traces))


def _list(reports: Sequence[dict[str, object]]) -> dict[str, object]:
    return {"apiVersion": "kpctl.io/v1", "kind": "TraceReportList", "items": list(reports)}


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
    from kpctl.live_trace.run import guarded, run_probe, run_watch
    from kpctl.live_trace.watch import WatchOptions

    if len(questions) > 1:
        raise QuestionError(
            "--live looks at one port at a time; name it: "
            + ", ".join(str(question.port) for question in questions)
        )
    question = replace(questions[0], iface=None) if any_source else questions[0]
    as_json = view.output == "json"
    packets = PacketFilter.of(question, any_source=any_source)
    if options.probe:
        return guarded(
            lambda: run_probe(
                Probe.of(question, netns=options.netns, any_source=any_source),
                names,
                as_json=as_json,
            )
        )
    watching = WatchOptions(options.for_s, options.count)
    return run_watch(packets, watching, names, as_json=as_json)


def _say_what_is_possible(questions: Sequence[Question]) -> None:
    """Tell on stderr whether real packets could be looked at as well."""
    from kpctl.live_trace.question import PacketFilter
    from kpctl.live_trace.run import run_check

    for question in questions[:1]:
        run_check(PacketFilter.of(question, any_source=True))


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
