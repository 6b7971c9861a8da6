"""
What the commands call: look whether it is possible, send a probe, or watch; each prints and ends.

Data go to stdout, everything else to stderr. Exit codes: 0 it went somewhere, 1 it was dropped,
rejected or not answered, 2 the question is too wide, 3 no packet came, 4 it cannot be done here.
"""

from __future__ import annotations

import math
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import typer

from diagnostics.cluster.names import Names
from diagnostics.trace.answer import API_VERSION
from kpctl.exit_codes import ENVIRONMENT, OK
from kpctl.live_trace.answer import packet_json, probe_exit_code, probe_json, watch_exit_code
from kpctl.live_trace.guard import Limits, legacy_tables, objections
from kpctl.live_trace.packets import TracedPacket
from kpctl.live_trace.probe import Probe, send_probe
from kpctl.live_trace.question import LiveTraceError, PacketFilter
from kpctl.live_trace.rule_book import KernelRuleBook
from kpctl.live_trace.translate import Outcome, PacketStory, Translator
from kpctl.live_trace.view import packet_line, packet_tree, probe_view
from kpctl.live_trace.watch import MOST_S, Watch, WatchOptions
from kpctl.trace_output.tree import console
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily

_GRACE_S = 30.0
_LOST = "the kernel had more to tell than could be read, so steps or packets may be missing"


def run_check(packets: PacketFilter, *, as_json: bool = False, limits: Limits | None = None) -> int:
    """
    Tell on stderr, or as JSON, whether real packets can be looked at; nothing is sent or changed.

    Returns:
        0 if they can, else the exit code of the worst reason against it.
    """
    found = list(objections(packets, limits or Limits()))
    gaps = _gaps(packets.family)
    if as_json:
        _print_json(
            {
                "apiVersion": API_VERSION,
                "kind": "LiveTraceCheck",
                "packets": packets.text,
                "possible": not found,
                "objections": [{"why": str(one), "next": one.hint} for one in found],
                "gaps": gaps,
            }
        )
    else:
        for one in found:
            typer.echo(f"not possible here: {one}; {one.hint}", err=True)
        if not found:
            text = f"possible here, with --probe or --watch: {packets.text}"
            typer.echo(f"{text}; nothing was sent", err=True)
        _print_gaps(gaps)
    return found[0].exit_code if found else OK


def run_probe(
    probe: Probe,
    names: Names | None = None,
    *,
    as_json: bool = False,
    limits: Limits | None = None,
) -> int:
    """Send a probe, print what became of it, and return the exit code."""
    return guarded(lambda: _probe(probe, names, as_json, limits or Limits()))


def run_watch(
    packets: PacketFilter,
    options: WatchOptions,
    names: Names | None = None,
    *,
    as_json: bool = False,
    limits: Limits | None = None,
) -> int:
    """
    Print packets as they pass by, and a summary at the end, which Ctrl-C brings on.

    With *as_json* a line for each packet, of kind TracedPacket, and a last one of kind WatchReport.

    Returns:
        The exit code.
    """
    watch = Watch(packets, options, limits or Limits())
    return guarded(lambda: _Watching(watch, names, as_json).run())


def guarded(action: Callable[[], int]) -> int:
    """Return what *action* returns; of its errors, say on stderr what and what next."""
    try:
        return action()
    except LiveTraceError as error:
        typer.echo(f"error: {error}; {error.hint}", err=True)
        return error.exit_code
    except NetlinkError as error:
        typer.echo(f"error: the kernel's trace failed: {error.strerror}", err=True)
        return ENVIRONMENT


def _probe(probe: Probe, names: Names | None, as_json: bool, limits: Limits) -> int:
    book = KernelRuleBook()
    translator = Translator(book, device_name, names)
    probed = send_probe(probe, limits)
    told = (translator.story(packet) for packet in probed.packets)
    stories = [story for story in told if story is not None]
    gaps = [*_gaps(probe.packets.family), *book.gaps, *([_LOST] if probed.lost else [])]
    if as_json:
        _print_json(probe_json(probed, stories, translator, gaps))
    else:
        console().print(probe_view(probed, stories, translator))
        _print_gaps(gaps)
    return probe_exit_code(probed)


class _Watching:
    """One watch under way, and what is known so far."""

    def __init__(self, watch: Watch, names: Names | None, as_json: bool) -> None:
        self._watch = watch
        self._as_json = as_json
        self._book = KernelRuleBook()
        self._translator = Translator(self._book, device_name, names)
        self._outcomes: Counter[Outcome] = Counter()
        self._ways: set[tuple[object, ...]] = set()
        self._console = console()
        self._clock_ahead_s = time.time() - time.monotonic()

    def run(self) -> int:
        typer.echo(f"watching {self._watch.packets.text}; Ctrl-C ends it", err=True)
        started = time.monotonic()
        # Even when nobody reads what is printed, which stops this process, it ends.
        longest = min(max(self._watch.options.for_s, 0.0), MOST_S) + _GRACE_S
        signal.alarm(math.ceil(longest))
        try:
            self._watch.run(self._take)
        except KeyboardInterrupt:
            typer.echo("ended by Ctrl-C", err=True)
        finally:
            signal.alarm(0)
        self._sum_up(time.monotonic() - started)
        return watch_exit_code(self._outcomes)

    def _take(self, packet: TracedPacket) -> None:
        story = self._translator.story(packet)
        if story is None:
            return
        self._outcomes[story.outcome] += 1
        if self._as_json:
            _print_json(packet_json(story, self._translator))
            return
        seconds = story.at_s + self._clock_ahead_s
        clock = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 1000):03}"
        line = packet_line(story, self._translator, clock)
        # A way that was shown once is not spelt out again.
        known = _way(story) in self._ways
        self._ways.add(_way(story))
        self._console.print(line if known else packet_tree(story, line))

    def _sum_up(self, seconds: float) -> None:
        gaps = [*_gaps(self._watch.packets.family), *self._book.gaps]
        gaps += [_LOST] if self._watch.lost else []
        counts = {one.value: self._outcomes[one] for one in Outcome}
        if self._as_json:
            _print_json(
                {
                    "apiVersion": API_VERSION,
                    "kind": "WatchReport",
                    "watched": self._watch.packets.text,
                    "seconds": round(seconds, 3),
                    "packetsPerSecondBefore": round(self._watch.per_second, 1),
                    "packets": self._outcomes.total(),
                    "outcomes": counts,
                    "gaps": gaps,
                }
            )
            return
        ends = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        total = self._outcomes.total()
        typer.echo(f"{total} packets in {seconds:.0f} s{f': {ends}' if ends else ''}", err=True)
        _print_gaps(gaps)


def _way(story: PacketStory) -> tuple[object, ...]:
    places = tuple((step.hook, step.table, step.chain, step.place) for step in story.steps)
    return story.outcome, places


def device_name(index: int) -> str:
    """Return an interface's name, or its number when it is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"device {index}"


def _gaps(family: IPFamily) -> list[str]:
    tables = legacy_tables(family)
    if not tables:
        return []
    return [
        f"iptables-legacy has tables here ({', '.join(tables)}): no trace shows their rules, only"
        " what becomes of the packet; without --probe and --watch they are followed"
    ]


def _print_gaps(gaps: list[str]) -> None:
    for gap in gaps:
        typer.echo(f"gap: {gap}", err=True)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode(value).decode())
