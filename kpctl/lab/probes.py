"""
What traffic the lab sends, what should become of it, and the judgement of what did.

A :class:`Probe` is one way to one frontend, sent again and again; each attempt yields an
:class:`Observation`; a :class:`Tally` collects them. Nothing here does I/O.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from dataclasses import dataclass, field


class Outcome(enum.Enum):
    """What became of one attempt."""

    LANDED = "landed"
    REFUSED = "refused"  # a TCP reset or an ICMP port unreachable
    DROPPED = "dropped"  # no answer within the probe's patience
    FAILED = "failed"  # any other error, such as no route


class SourceRule(enum.Enum):
    """Which source address the pod should see."""

    KEPT = "kept"
    MASQUERADED = "masq"
    HAIRPIN = "hairpin"  # masqueraded exactly when the pod answers itself
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Probe:
    """
    One way to a frontend.

    Attributes:
        service: ``namespace/name``, or a remark in parentheses where there is no Service.
        protocol: ``tcp``, or ``udp``, which is DNS.
        role: The host of the topology that it is sent from.
        bind: The source address, None for the host's choice.
        alias: What the sender is called in the lab, "" for its role.
        outcome: What should become of each attempt.
        pods: The pods that may answer, and all will in the long run; empty unless landing.
        source: Which source address they should see.
        sticky: Whether one pod must answer all attempts.
    """

    service: str
    address: str
    port: int
    role: str
    protocol: str = "tcp"
    bind: str | None = None
    outcome: Outcome = Outcome.LANDED
    pods: frozenset[str] = frozenset()
    source: SourceRule = SourceRule.ANY
    sticky: bool = False
    alias: str = ""

    @property
    def frontend(self) -> str:
        """``10.96.0.10:80``, ``[fd03::10]:80``; UDP is marked by ``/udp``."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}" + ("/udp" if self.protocol == "udp" else "")

    @property
    def sender(self) -> str:
        """Who sends it."""
        return self.alias or self.role

    @property
    def way(self) -> str:
        """All of that in words: ``shop/web on 10.96.0.10:80 from toolbox``."""
        return f"{self.service} on {self.frontend} from {self.sender}"


@dataclass(frozen=True, slots=True)
class Observation:
    """
    What became of one attempt.

    Attributes:
        outcome: The kind of end it took.
        pod: Who answered, "" unless landed.
        sent_from: The source address before any translation, "" if it never left.
        seen_from: The source address that the pod saw, "" unless landed.
        detail: The error's text, if it failed.
    """

    outcome: Outcome
    pod: str = ""
    sent_from: str = ""
    seen_from: str = ""
    detail: str = ""

    @property
    def masqueraded(self) -> bool:
        """Whether the pod saw another source address than the sender's."""
        return self.seen_from != self.sent_from


def objection(probe: Probe, seen: Observation) -> str:
    """Why *seen* is not what *probe* should experience, judged alone; "" if it is."""
    if seen.outcome is not probe.outcome:
        what = f"{seen.outcome.value} ({seen.detail})" if seen.detail else seen.outcome.value
        return f"{what} instead of {probe.outcome.value}"
    if seen.outcome is not Outcome.LANDED:
        return ""
    if seen.pod not in probe.pods:
        return f"landed on {seen.pod} instead of {' or '.join(sorted(probe.pods))}"
    wanted = {
        SourceRule.KEPT: False,
        SourceRule.MASQUERADED: True,
        SourceRule.HAIRPIN: seen.pod == probe.role,
        SourceRule.ANY: seen.masqueraded,
    }[probe.source]
    if seen.masqueraded != wanted:
        word = "masqueraded" if seen.masqueraded else "not masqueraded"
        return f"{seen.pod} saw {seen.seen_from}, {word}"
    return ""


@dataclass(slots=True)
class Tally:
    """
    What a probe has experienced so far.

    ``recent`` holds the last observations, as many as its maxlen allows; the counters hold all.
    """

    probe: Probe
    recent: deque[Observation] = field(default_factory=lambda: deque(maxlen=30))
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    pods: Counter[str] = field(default_factory=Counter)
    unexpected: int = 0
    problem: str = ""  # of the latest attempt, "" if it went as it should
    first_problem: str = ""  # of the first attempt that did not

    @property
    def sent(self) -> int:
        """How many attempts have come to an end."""
        return self.outcomes.total()

    def add(self, seen: Observation) -> None:
        """Count and judge one attempt."""
        self.problem = objection(self.probe, seen)
        if not self.problem and self.probe.sticky and self.recent:
            before = self.recent[-1].pod
            if before and before != seen.pod:
                self.problem = f"moved from {before} to {seen.pod} despite session affinity"
        self.unexpected += bool(self.problem)
        self.first_problem = self.first_problem or self.problem
        self.outcomes[seen.outcome] += 1
        if seen.pod:
            self.pods[seen.pod] += 1
        self.recent.append(seen)

    def shortfall(self) -> str:
        """
        What a finished series of attempts lacks, "" if nothing.

        Every endpoint is to be reached: with 3 endpoints chosen at random, 40 attempts miss one
        of them once in 3.7 million series.
        """
        if not self.sent:
            return "nothing was sent"
        missed = self.probe.pods - self.pods.keys()
        if missed and not self.probe.sticky:
            return f"never reached {', '.join(sorted(missed))}"
        return ""
