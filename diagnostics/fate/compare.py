"""Which calls end differently on two nodes, or on one node in two states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from diagnostics.fate.alike import Alike
from diagnostics.fate.probes import Call, Oracle, Outcome
from diagnostics.trace.report import UNKNOWN, Trace


@dataclass(frozen=True, slots=True)
class Change:
    """A call to a service port ("" when nobody tells) that ends differently."""

    service: str
    call: Call
    before: Outcome
    after: Outcome
    after_trace: Trace


Observer = Callable[[str, Call, Trace], None]
"""Is shown the service port of each call, the call, and what becomes of it afterwards."""


def _nobody(service: str, call: Call, trace: Trace) -> None:
    del service, call, trace


def changes(
    calls: Iterable[tuple[str, Call]],
    before: Oracle,
    after: Oracle,
    observer: Observer = _nobody,
    alike: Alike | None = None,
) -> Iterator[Change]:
    """
    Yield the calls whose outcome differs; what cannot be known is no difference.

    Neither is how calls that no rule knows are refused. With *alike*, which is for rules compiled
    *before*, those are asked only for calls that do not end as siblings of theirs should.
    """
    for service, call in calls:
        trace = after.trace(call)
        observer(service, call, trace)
        new = Outcome.of(trace)
        if alike is not None and alike.agrees(call, new):
            continue
        old = before.outcome(call)
        if alike is not None:
            alike.learn(call, old)
        if UNKNOWN in (old.certainty, new.certainty) or not (old.known or new.known):
            continue
        if (old.verdict, old.shares, old.known) != (new.verdict, new.shares, new.known):
            yield Change(service, call, old, new, trace)
