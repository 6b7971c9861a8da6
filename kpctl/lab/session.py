"""
Runs a lab from start to end: once for scripts, or live until Ctrl-C.

Data go to stdout, everything else to stderr. The lab is removed on every way out.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from rich.console import Console
from rich.live import Live

from kpctl.exit_codes import FINDINGS, OK
from kpctl.lab import state, view
from kpctl.lab.build import Lab, remove
from kpctl.lab.probes import Outcome, Tally
from kpctl.lab.state import LabError
from kpctl.lab.traffic import attempt

# Enough to miss one of three random endpoints once in 3.7 million runs.
ATTEMPTS = 40
# The outcome of these does not vary, and waiting for a drop takes the time it takes.
ATTEMPTS_WITHOUT_ANSWER = 3

_ROUND_S = 0.5  # each probe is sent this often, so some 30 connections a second in all
_RECENT = 30  # attempts of each probe that the live table counts
_REFRESH_PER_S = 4
_SUMMARY_S = 10


class Ended(Exception):
    """Somebody ended the lab: Ctrl-C, SIGTERM or a closed terminal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run_once(lab: Lab, *, as_json: bool) -> int:
    """
    Make the lab, send every probe a fixed number of times, remove the lab, print the report.

    Returns:
        0 if everything went as it should, 1 if not, 128 + signal if interrupted.

    Raises:
        LabError: The lab did not become ready.
        CommandError: A tool failed.
        OSError: The kernel refuses something.
    """
    try:
        tallies = asyncio.run(_once(lab))
    except Ended as ended:
        note(f"lab {lab.record.name}: removed after {ended}")
        return 128 + ended.number
    if as_json:
        sys.stdout.write(f"{view.report_text(lab.record, tallies)}\n")
    else:
        _print_table(tallies)
    problems = view.problems(tallies)
    for problem in problems:
        note(problem)
    return FINDINGS if problems else OK


def run_live(lab: Lab) -> int:
    """
    Make the lab, send traffic and show it until somebody ends it, remove the lab.

    Returns:
        0, when ended by a signal, which is the usual way.

    Raises:
        LabError: The lab did not become ready, or its proxy ended.
        CommandError: A tool failed.
        OSError: The kernel refuses something.
        ExceptionGroup: One of these, from a concurrent task.
    """
    try:
        asyncio.run(_live(lab))
    except Ended as ended:
        note(f"lab {lab.record.name}: removed after {ended}")
    return OK


def sweep(name: str | None) -> None:
    """
    Remove what labs left behind whose process was killed, and say so.

    Args:
        name: Look at the lab of this name only; None for all.

    """
    for record in state.records():
        if name in (None, record.name) and not record.alive():
            note(f"removing what lab {record.name} left behind")
            remove(record)


def note(text: str) -> None:
    """Tell the user something that is not data."""
    with suppress(OSError):  # a terminal that was closed must not keep the lab from ending
        sys.stderr.write(f"{text}\n")


async def _once(lab: Lab) -> list[Tally]:
    async with _running(lab):
        return list(await asyncio.gather(*(_series(lab, tally) for tally in _tallies(lab, None))))


async def _live(lab: Lab) -> None:
    tallies = _tallies(lab, _RECENT)
    console = Console()
    async with _running(lab), asyncio.TaskGroup() as tasks:
        for position, tally in enumerate(tallies):
            tasks.create_task(_stream(lab, tally, _ROUND_S * position / len(tallies)))
        tasks.create_task(_watch_proxy(lab))
        if console.is_terminal:
            await _show_screen(lab, tallies, console)
        else:
            await _show_lines(lab, tallies)


@asynccontextmanager
async def _running(lab: Lab) -> AsyncIterator[None]:
    """The lab, ready; ended by a signal or by the end of the block."""
    started = time.monotonic()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "called from a coroutine"
    received: list[int] = []

    def end(number: int) -> None:
        # The first signal ends the lab; more of them must not interrupt the cleaning up.
        received.append(number)
        if len(received) == 1:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        lab.up()
        note(f"lab {lab.record.name}: pods and Services made, waiting for the proxy")
        await lab.ready()
        note(f"lab {lab.record.name}: ready after {time.monotonic() - started:.1f} s")
        yield
    except asyncio.CancelledError:
        if not received:
            raise
        raise Ended(received[0]) from None
    finally:
        lab.down()


def _tallies(lab: Lab, recent: int | None) -> list[Tally]:
    return [Tally(probe, deque(maxlen=recent)) for probe in lab.probes]


async def _series(lab: Lab, tally: Tally) -> Tally:
    """Send one probe a fixed number of times, one after the other."""
    landing = tally.probe.outcome is Outcome.LANDED
    for _ in range(ATTEMPTS if landing else ATTEMPTS_WITHOUT_ANSWER):
        tally.add(await attempt(tally.probe, lab.record.namespace(tally.probe.role)))
    return tally


async def _stream(lab: Lab, tally: Tally, delay_s: float) -> None:
    """Send one probe for ever, at most once a round."""
    sender = lab.record.namespace(tally.probe.role)
    loop = asyncio.get_running_loop()
    due = loop.time() + delay_s
    while True:
        await asyncio.sleep(due - loop.time())
        tally.add(await attempt(tally.probe, sender))
        due = max(due + _ROUND_S, loop.time())


async def _watch_proxy(lab: Lab) -> None:
    """Raise when the proxy ends."""
    while not (error := lab.proxy_error()):
        await asyncio.sleep(_ROUND_S)
    raise LabError(error)


async def _show_screen(lab: Lab, tallies: Sequence[Tally], console: Console) -> None:
    """Show the table, again and again in place."""
    several = len(state.records()) > 1
    with Live(
        console=console,
        get_renderable=lambda: view.screen(lab.record, tallies, several=several),
        refresh_per_second=_REFRESH_PER_S,
        vertical_overflow="crop",
    ):
        await asyncio.Event().wait()


async def _show_lines(lab: Lab, tallies: Sequence[Tally]) -> None:
    """Print the table once, then a line for each change of a probe and regular summaries."""
    while any(not tally.sent for tally in tallies):
        await asyncio.sleep(0.1)
    _print_table(tallies)
    for hint in view.hints(lab.record, several=len(state.records()) > 1):
        note(f"try: {hint}")
    problems = [""] * len(tallies)
    due = time.monotonic() + _SUMMARY_S
    while True:
        await asyncio.sleep(_ROUND_S)
        for index, tally in enumerate(tallies):
            if tally.problem != problems[index]:
                problems[index] = tally.problem
                _line(f"{tally.probe.way}: {tally.problem or 'as expected again'}")
        if time.monotonic() >= due:
            due += _SUMMARY_S
            _line(view.summary(tallies))


def _print_table(tallies: Sequence[Tally]) -> None:
    """Print the table to stdout."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=view.PLAIN_WIDTH)
    console.print(view.traffic_table(tallies))


def _line(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()
