"""
Compares what the tracer says of a flow with what became of the flow's packets.

The tracer reads the node as it is, so the rules of session affinity hold what the packets taught
them: for a client that has called, it must name the one endpoint where its connections went.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from ipaddress import ip_address

from diagnostics.snapshot.live import LiveSource
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.trace.packet import PROTOCOLS
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.report import ACCEPT, CERTAIN, DNAT, NONE, Trace
from tests.packets.flows.judge import Observation
from tests.packets.flows.scenario import Endpoint, Flow
from tests.packets.flows.site import Site

Disagreement = tuple[Flow, Observation, str]


def disagreements(site: Site, seen: Mapping[Flow, Observation]) -> list[Disagreement]:
    """
    Ask the tracer about flows on the node as it is.

    Args:
        site: The node is entered, and only read.
        seen: The flows, and what became of their packets just before.
    """
    if not seen:
        return []
    with site.node.enter():
        tracer = Tracer(NodeSnapshot(LiveSource()))
        return [
            (flow, what, text)
            for flow, what in seen.items()
            if (text := disagreement(traced(tracer, flow), flow, what))
        ]


def traced(tracer: Tracer, flow: Flow) -> Trace:
    """Return the tracer's answer for a flow."""
    source, target = ip_address(flow.source), ip_address(flow.target.ip)
    return tracer.ask(Question(source, target, flow.target.port, PROTOCOLS[flow.protocol]))


def disagreement(found: Trace, flow: Flow, what: Observation) -> str:
    """Say what the tracer got wrong, "" when it is right."""
    said = NONE if found.verdict == ACCEPT else found.verdict
    if {said} != what.verdicts or found.certainty != CERTAIN:
        return f"the trace says {found.verdict}, {found.certainty}"
    if sum(end.branch.probability for end in found.ends) != 1:
        return "the probabilities of all ends of the trace do not sum to 1"
    if said == DNAT:
        return _wrong_endpoints(found, flow, what)
    rewritten = {end.branch.packet.source_rewritten for end in found.ends}
    if what.masquerades and rewritten != what.masquerades:
        return f"the trace says: source rewritten {rewritten}"
    return ""


def _wrong_endpoints(found: Trace, flow: Flow, what: Observation) -> str:
    endpoints = {Endpoint(str(one.address), one.port) for one in found.destinations}
    shares = {one.probability for one in found.destinations}
    masquerades = {one.masquerade for one in found.destinations}
    # What IPVS remembers of a client is in no dump; everywhere else it is among the rules.
    unseen = flow.expect.sticky and _is_ipvs(found)
    same = endpoints >= what.endpoints if unseen else endpoints == what.endpoints
    if same and shares == {Fraction(1, len(endpoints))} and masquerades == what.masquerades:
        return ""
    places = ", ".join(
        f"{one.address}:{one.port} {one.probability}, source rewritten {one.masquerade}"
        for one in found.destinations
    )
    return f"the trace says {places}"


def _is_ipvs(found: Trace) -> bool:
    return any(step.table == "ipvs" for step in found.steps)
