"""What kind of difference it is when a call ends otherwise than it should."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from diagnostics.fate.compare import Change
from diagnostics.fate.difference import Difference, Kind
from diagnostics.fate.probes import Outcome
from diagnostics.trace.report import DNAT, DROP, REJECT
from diagnostics.trace.walk import Step, Tri
from proxy.config.types import IPVS

_MOST_NAMED = 4
_MOST_READABLE = 9999


class Judgement(NamedTuple):
    """A kind of difference, and both sides in words."""

    kind: Kind
    expected: str
    actual: str


def judge(expected: Outcome, actual: Outcome) -> Iterator[Judgement]:
    """Yield how two different outcomes differ."""
    if (expected.verdict, expected.known) != (actual.verdict, actual.known):
        kind = Kind.POLICY
        if expected.known and not actual.known:
            kind = Kind.MISSING
        elif actual.known and not expected.known:
            kind = Kind.STALE
        yield Judgement(kind, expected.text, actual.text)
    elif expected.verdict == DNAT:
        yield from _endpoints(expected, actual)


def _endpoints(expected: Outcome, actual: Outcome) -> Iterator[Judgement]:
    wanted, found = _by_place(expected), _by_place(actual)
    if wanted.keys() != found.keys():
        missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
        if {_address(place) for place in missing} == {_address(place) for place in extra}:
            yield Judgement(Kind.PORT, _listed(missing), _listed(extra))
        else:
            parts = (("without", missing), ("also", extra))
            said = "; ".join(f"{word} {_listed(places)}" for word, places in parts if places)
            yield Judgement(Kind.ENDPOINTS, _listed(wanted), said)
    elif any(wanted[place].share != found[place].share for place in wanted):
        changed = [place for place in wanted if wanted[place].share != found[place].share]
        yield Judgement(Kind.WEIGHT, _shares(wanted, changed), _shares(found, changed))
    both = wanted.keys() & found.keys()
    masked = [place for place in both if wanted[place].masked != found[place].masked]
    if masked:
        words = {frozenset({True}): "rewritten", frozenset({False}): "kept"}
        before = words.get(wanted[masked[0]].masked, "sometimes rewritten")
        after = words.get(found[masked[0]].masked, "sometimes rewritten")
        yield Judgement(
            Kind.MASQUERADE, f"the source address is {before}", f"the source address is {after}"
        )


@dataclass(slots=True)
class _Place:
    share: Fraction = Fraction(0)
    masked: frozenset[bool] = frozenset()


def _by_place(outcome: Outcome) -> dict[str, _Place]:
    found: dict[str, _Place] = defaultdict(_Place)
    for target, share in outcome.shares:
        place = found[target.place]
        place.share += share
        place.masked |= {target.masquerade}
    return found


def _address(place: str) -> str:
    return place.rpartition(":")[0]


def _listed(places: Iterable[str]) -> str:
    ordered = sorted(places)
    more = f" and {len(ordered) - _MOST_NAMED} more" if len(ordered) > _MOST_NAMED else ""
    return ", ".join(ordered[:_MOST_NAMED]) + more


def _shares(places: dict[str, _Place], named: Iterable[str]) -> str:
    ordered = sorted(named)[:_MOST_NAMED]
    return ", ".join(f"{place} {_share(places[place].share)}" for place in ordered)


def _share(share: Fraction) -> str:
    return str(share) if share.denominator <= _MOST_READABLE else f"{float(share):.6g}"


@dataclass(slots=True)
class _Group:
    subject: dict[str, None] = field(default_factory=dict)
    clients: dict[str, None] = field(default_factory=dict)
    evidence: dict[str, None] = field(default_factory=dict)


def differences(family: str, changes: Iterable[Change]) -> Iterator[Difference]:
    """Yield one difference for all calls to a service port that differ in the same way."""
    groups: dict[tuple[str, Judgement], _Group] = {}
    for change in changes:
        for judgement in judge(change.before, change.after):
            group = groups.setdefault((change.service, judgement), _Group())
            group.subject[change.call.frontend.text] = None
            group.clients[change.call.client.kind] = None
            # Of a call that nobody decides about any rule would be as good as another.
            decided = change.after.verdict in (DNAT, DROP, REJECT)
            if decided and (step := deciding_step(change.after_trace.steps)):
                group.evidence[cited(step)] = None
    for (service, judgement), group in groups.items():
        yield Difference(
            kind=judgement.kind,
            service=service,
            family=family,
            subject=tuple(group.subject),
            expected=judgement.expected,
            actual=judgement.actual,
            clients=tuple(group.clients),
            evidence=tuple(group.evidence)[:_MOST_NAMED],
        )


_DECIDING = re.compile(
    r"\b(?:DNAT --|REDIRECT|DROP|REJECT|dnat (?:ip6? )?to|redirect|drop|reject)\b"
)


def deciding_step(steps: Iterable[Step]) -> Step | None:
    """Return the rule or server that sent the packet where it goes, else the last it met."""
    met = [step for step in steps if step.result is not Tri.NO and step.table]
    deciding = [step for step in met if step.table == IPVS or _DECIDING.search(step.text)]
    return next(reversed(deciding or met), None)


def cited(step: Step) -> str:
    """Return ``nat KUBE-SVC-… rule 3: -j KUBE-SEP-…``."""
    place = " ".join(part for part in (step.table, step.chain, step.place) if part)
    return f"{place}: {step.text}"
