"""Rules of third parties that decide about calls to Services: they hijack them, or refuse them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from diagnostics.fate.difference import Difference, Kind
from diagnostics.fate.judge import cited, deciding_step
from diagnostics.fate.probes import Call, Outcome
from diagnostics.trace.report import CERTAIN, DNAT, DROP, REJECT, Trace
from diagnostics.trace.summary import dataplane_of
from diagnostics.trace.walk import Step, Verdict

_TRANSLATING = re.compile(r"\b(?:DNAT|REDIRECT|NETMAP|dnat|redirect)\b")


@dataclass(slots=True)
class _Met:
    """What one rule does to one service port, or to all."""

    outcome: str
    subject: dict[str, None] = field(default_factory=dict)
    clients: dict[str, None] = field(default_factory=dict)
    services: dict[str, None] = field(default_factory=dict)

    def add(self, service: str, call: Call) -> None:
        self.services[service] = None
        self.subject[call.frontend.text] = None
        self.clients[call.client.kind] = None


class Outsiders:
    """
    Collects them while calls are followed.

    A refusal is worth a note only: firewalls refuse on purpose. Another destination is a
    difference, because nobody but the proxy should translate a Service's address.
    """

    def __init__(self) -> None:
        self._hijacked: dict[tuple[str, str], _Met] = {}
        self._refused: dict[str, _Met] = {}

    def see(self, service: str, call: Call, trace: Trace) -> None:
        """Take in what became of a call that the API has a frontend for."""
        step = _decided_by_others(trace)
        if step is None:
            for partly in _refused_in_part(trace):
                some = _Met(_certainly("is refused on the way to some endpoints", trace))
                self._refused.setdefault(cited(partly), some).add(service, call)
            return
        said = Outcome.of(trace).text
        if trace.verdict == DNAT:
            self._hijacked.setdefault((service, cited(step)), _Met(said)).add(service, call)
        else:
            self._refused.setdefault(cited(step), _Met(_certainly(said, trace))).add(service, call)

    def differences(self, family: str) -> Iterator[Difference]:
        """Yield one for each service port and rule that takes its calls."""
        for (service, rule), met in self._hijacked.items():
            yield Difference(
                kind=Kind.HIJACKED,
                service=service,
                family=family,
                subject=tuple(met.subject),
                expected="the proxy's rules decide",
                actual=f"{met.outcome}, which they did not choose",
                clients=tuple(met.clients),
                evidence=(rule,),
            )

    def notes(self) -> Iterator[str]:
        """Yield one sentence for each rule that refuses calls."""
        for rule, met in self._refused.items():
            count = len(met.services)
            whom = next(iter(met.services)) if count == 1 else f"{count} service ports"
            clients = ", ".join(met.clients)
            yield f"a call to {whom} from {clients} {met.outcome} by somebody else's rule: {rule}"


def _certainly(said: str, trace: Trace) -> str:
    """Return what happens, as a possibility where a rate or a socket decides about it."""
    return said if trace.certainty == CERTAIN else said.replace("is ", "may be ", 1)


def _decided_by_others(trace: Trace) -> Step | None:
    if trace.verdict in (DROP, REJECT):
        step = deciding_step(trace.steps)
    elif trace.verdict == DNAT:
        step = deciding_step([one for one in trace.steps if _translates(one)])
    else:
        return None
    return step if step is not None and dataplane_of((step,)) is None else None


def _refused_in_part(trace: Trace) -> Iterator[Step]:
    """Yield rules of third parties that refuse what others let through to other endpoints."""
    if trace.verdict != DNAT:
        return
    for end in trace.ends:
        if end.verdict is not Verdict.ACCEPT:
            step = deciding_step(end.branch.steps())
            if step is not None and dataplane_of((step,)) is None:
                yield step


def _translates(step: Step) -> bool:
    return dataplane_of((step,)) == "ipvs" or _TRANSLATING.search(step.text) is not None
