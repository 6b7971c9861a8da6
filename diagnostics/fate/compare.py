"""Which calls end differently on two nodes, or on one node in two states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

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
    calls: Iterable[tuple[str, Call]], before: Oracle, after: Oracle, observer: Observer = _nobody
) -> Iterator[Change]:
    """
    Yield the calls whose outcome differs; what cannot be known is no difference.

    Neither is how calls that no rule knows are refused.
    """
    for service, call in calls:
        trace = after.trace(call)
        observer(service, call, trace)
        old, new = before.outcome(call), Outcome.of(trace)
        if UNKNOWN in (old.certainty, new.certainty) or not (old.known or new.known):
            continue
        if (old.verdict, old.shares, old.known) != (new.verdict, new.shares, new.known):
            yield Change(service, call, old, new, trace)
