"""Rules of third parties that decide about calls to Services: they hijack them, or refuse them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from diagnostics.fate.difference import Difference, Kind
from diagnostics.fate.judge import cited, deciding_step
from diagnostics.fate.probes import Call, Outcome
from diagnostics.trace.report import DNAT, DROP, REJECT, Trace
from diagnostics.trace.summary import dataplane_of
from diagnostics.trace.walk import Step

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
            return
        said = Outcome.of(trace).text
        if trace.verdict == DNAT:
            self._hijacked.setdefault((service, cited(step)), _Met(said)).add(service, call)
        else:
            self._refused.setdefault(cited(step), _Met(said)).add(service, call)

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


def _decided_by_others(trace: Trace) -> Step | None:
    if trace.verdict in (DROP, REJECT):
        step = deciding_step(trace.steps)
    elif trace.verdict == DNAT:
        step = deciding_step([one for one in trace.steps if _translates(one)])
    else:
        return None
    return step if step is not None and dataplane_of((step,)) is None else None


def _translates(step: Step) -> bool:
    return dataplane_of((step,)) == "ipvs" or _TRANSLATING.search(step.text) is not None
