"""
Plays a scenario: brings the proxy from stage to stage and sends every flow of each.

A proxy needs a moment to follow a change, so a flow that fails is sent again until it holds or
SETTLE_S have passed; what passes at once costs no time. At the end of each stage the tracer is
asked where the same packets go, and must answer what they did.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.kernel.command import ToolMissing
from tests.packets.flows.attempts import Probe
from tests.packets.flows.judge import Observation, attempts_for, describe, holds, observe
from tests.packets.flows.probes import Exchange, exchange
from tests.packets.flows.scenario import Endpoint, Flow, Scenario, Stage
from tests.packets.flows.site import Site
from tests.packets.flows.traced import disagreements

SETTLE_S = 3.0
_EXCERPT_LINES = 30
# What shows each data plane's rules, by IP family; of those that are not in use nothing is shown.
_COMMON_LISTINGS = (("nft", "list", "ruleset"), ("ipvsadm", "-Sn"), ("ipset", "save"))
_LISTINGS = {
    4: (*_COMMON_LISTINGS, ("iptables-legacy-save",)),
    6: (*_COMMON_LISTINGS, ("ip6tables-legacy-save",)),
}


class ProxyUnderTest(Protocol):
    """Whatever programs the node's kernel."""

    def start(self, stage: Stage) -> None:
        """Start with the stage's objects; return when the kernel has been programmed."""

    def follow(self, stage: Stage) -> None:
        """
        Make the stage's changes; return when the kernel has been programmed.

        Where the stage says so, the process is killed before them and started again after.
        """

    def evidence(self) -> str:
        """What the proxy has said lately, for the report of a failure."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A flow that did not do what it must, or of which the tracer says what it did not do."""

    scenario: str
    stage: str
    flow: Flow
    seen: Observation
    rules: str
    trace: str = ""

    def __str__(self) -> str:
        packet = f"{self.flow.source} -> {self.flow.target}/{self.flow.protocol}"
        return (
            f"{self.scenario} | {self.stage} | {self.flow.name} ({packet})"
            f" | expected {describe(self.flow)} | observed {self.seen}"
            f"{self.trace and f' | {self.trace}'}\n{self.rules}"
        )


def play(
    scenario: Scenario, site: Site, proxy: ProxyUnderTest, *, settle_s: float = SETTLE_S
) -> list[Failure]:
    """
    Play all stages.

    Returns:
        The flows that failed, in order, and then those the tracer is wrong about; empty if all is
        well.

    Raises:
        HarnessError: The test network does not work.
        AssertionError: The proxy did not follow at all.
    """
    failures: list[Failure] = []
    for number, stage in enumerate(scenario.stages):
        if number == 0:
            proxy.start(stage)
        else:
            proxy.follow(stage)
        failures += _check(scenario, stage, site, settle_s)
    return failures


def report(failures: Sequence[Failure], proxy: ProxyUnderTest) -> str:
    """The failures as text, with what the proxy said."""
    return "\n".join(["", *map(str, failures), proxy.evidence()])


def _check(scenario: Scenario, stage: Stage, site: Site, settle_s: float) -> list[Failure]:
    deadline = time.monotonic() + settle_s
    failing: Sequence[Flow] = stage.flows
    seen: dict[Flow, Observation] = {}
    while True:
        seen |= zip(failing, _send(failing, site, scenario.endpoints), strict=True)
        failing = [flow for flow, what in seen.items() if not holds(flow, what)]
        if not failing or time.monotonic() > deadline:
            break
    unlike = [(flow, seen[flow], "") for flow in failing] + disagreements(site, seen)
    return [
        Failure(scenario.name, stage.name, flow, what, _excerpt(site, flow), text)
        for flow, what, text in unlike
    ]


def _send(flows: Sequence[Flow], site: Site, endpoints: frozenset[Endpoint]) -> list[Observation]:
    """What becomes of each flow now, in the same order."""
    if not flows:
        return []
    probes = [Probe(flow.source, flow.target, flow.protocol) for flow in flows]
    with exchange(site, probes, endpoints) as made:
        loud = [i for i, flow in enumerate(flows) if flow.expect.verdict != "drop"]
        quiet = [i for i, flow in enumerate(flows) if flow.expect.verdict == "drop"]
        found: dict[int, Observation] = {}
        for indices, is_quiet in ((loud, False), (quiet, True)):
            found |= _send_some(flows, probes, indices, made, is_quiet)
    return [found[index] for index in range(len(flows))]


def _send_some(
    flows: Sequence[Flow],
    probes: Sequence[Probe],
    indices: Sequence[int],
    made: Exchange,
    is_quiet: bool,
) -> dict[int, Observation]:
    volley = [index for index in indices for _ in range(attempts_for(flows[index]))]
    if not volley:
        return {}
    send = made.send_expecting_silence if is_quiet else made.send
    outcomes = list(zip(volley, send([probes[index] for index in volley]), strict=True))
    return {
        index: observe(probes[index], [outcome for at, outcome in outcomes if at == index])
        for index in indices
    }


def _excerpt(site: Site, flow: Flow) -> str:
    """What the node's kernel was told about the flow's destination or endpoints."""
    listings = [_listing(site, program) for program in _LISTINGS[_family(flow.target.ip)]]
    listing = [line for lines in listings for line in lines]
    words = [flow.target.ip, f". {flow.target.port} ", *(at.ip for at in flow.expect.endpoints)]
    words.append(f"{flow.protocol.lower()}:{flow.target.port}")  # as ipset spells a port
    lines = [line for line in listing if any(word in line for word in words)]
    shown = [f"    {line.strip()}" for line in lines[:_EXCERPT_LINES]]
    if not shown:
        return f"    (nothing in {len(listing)} lines of the kernel's rules speaks of it)"
    return "\n".join(shown)


def _listing(site: Site, program: Sequence[str]) -> list[str]:
    """What a program prints of the node; nothing where it is not installed."""
    try:
        return site.node.run(program, check=False).stdout.splitlines()
    except ToolMissing:
        return []


def _family(address: str) -> int:
    return 6 if ":" in address else 4
