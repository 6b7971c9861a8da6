"""Compares what became of a flow's packets with what must become of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.packets.flows.attempts import Outcome, Probe
from tests.packets.flows.scenario import Endpoint, Flow

_MISS_PROBABILITY = 1e-6
_SINGLE_FATE_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Observation:
    """
    All that was seen of a flow; ``str`` is one line for people.

    ``problems`` are words for what is wrong whatever was expected.
    """

    verdicts: frozenset[str]
    endpoints: frozenset[Endpoint]
    masquerades: frozenset[bool]
    problems: frozenset[str]

    def __str__(self) -> str:
        parts = [" and ".join(sorted(self.verdicts))]
        if self.endpoints:
            parts.append("to " + _list(self.endpoints))
        if self.masquerades:
            parts.append(" and ".join(_masquerade(each) for each in sorted(self.masquerades)))
        return ", ".join([*parts, *sorted(self.problems)])


def attempts_for(flow: Flow) -> int:
    """
    How many connections show every endpoint of a flow, and any that should not be there.

    With as many, the chance to miss one of the endpoints, or of one endpoint more than expected,
    is below one in a million.
    """
    if flow.expect.verdict != "dnat":
        return _SINGLE_FATE_ATTEMPTS
    choices = len(flow.expect.endpoints) + 1
    return math.ceil(math.log(_MISS_PROBABILITY / choices) / math.log(1 - 1 / choices))


def observe(probe: Probe, outcomes: Sequence[Outcome]) -> Observation:
    """Sum up the outcomes of a flow's connections, each of which was *probe*."""
    verdicts, endpoints, masquerades, problems = set(), set(), set(), set()
    for outcome in outcomes:
        verdict = _verdict(probe, outcome)
        verdicts.add(verdict)
        if verdict == "dnat" and outcome.at is not None:
            endpoints.add(outcome.at)
        if outcome.fate == "landed":
            masquerades.add(outcome.source != probe.source)
        if not outcome.answered:
            problems.add("some answers did not find their way back")
    return Observation(
        frozenset(verdicts), frozenset(endpoints), frozenset(masquerades), frozenset(problems)
    )


def holds(flow: Flow, seen: Observation) -> bool:
    """Whether what was seen is what must be."""
    expect = flow.expect
    if expect.sticky and len(expect.endpoints) > 1:
        endpoints_hold = len(seen.endpoints) == 1 and seen.endpoints <= expect.endpoints
    else:
        endpoints_hold = seen.endpoints == expect.endpoints
    # Letting a packet in explicitly looks like not touching it when nothing else keeps it out.
    verdict = "none" if expect.verdict == "accept" else expect.verdict
    masquerade_holds = expect.masquerade is None or seen.masquerades <= {expect.masquerade}
    return endpoints_hold and masquerade_holds and seen.verdicts == {verdict} and not seen.problems


def describe(flow: Flow) -> str:
    """What must become of the flow, in the words of an observation."""
    expect = flow.expect
    parts = [expect.verdict]
    if expect.endpoints:
        parts.append("to " + ("one of " if expect.sticky else "") + _list(expect.endpoints))
    if expect.verdict in ("dnat", "none") and expect.masquerade is not None:
        parts.append(_masquerade(expect.masquerade))
    return ", ".join(parts)


def _verdict(probe: Probe, outcome: Outcome) -> str:
    match outcome.fate:
        case "silent":
            return "drop"
        case "refused":
            return "reject"
        case "stranger":
            return "none"
        case "landed":
            return "none" if outcome.at == probe.target else "dnat"
        case other:
            return other


def _masquerade(rewritten: bool) -> str:
    return "source rewritten" if rewritten else "source kept"


def _list(endpoints: frozenset[Endpoint]) -> str:
    return " ".join(sorted(map(str, endpoints)))
