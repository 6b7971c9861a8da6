"""A trace as the JSON object that ``kpctl trace -o json`` prints and tools read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from diagnostics.trace.packet import PROTOCOL_NAMES, Packet
from diagnostics.trace.report import Destination, Trace
from diagnostics.trace.walk import Step

API_VERSION = "kpctl.io/v1"
KIND = "TraceReport"
# Services' names as kube-proxy and kpctl write them into comments: "shop/web:http cluster IP".
_SERVICE = re.compile(r'"([a-z0-9][a-z0-9.-]*/[a-z0-9][a-z0-9.-]*(?::[A-Za-z0-9.-]+)?)(?:"| )')
# kube-proxy's nftables chains: "service-4AT6LBPK-shop/web/tcp/http".
_CHAIN = re.compile(r"(?:service|external)-[A-Z0-9]{8}-([^/\s]+/[^/\s]+)/\w+/([^/\s_]*)")
_NUMBER = re.compile(r"rule (\d+)")
IPTABLES, NFTABLES, IPVS = "iptables", "nftables", "ipvs"


def report(trace: Trace, gaps: Sequence[str]) -> dict[str, object]:
    """
    Return the object.

    ``probability`` is an exact fraction as text; ``rule`` is a number, or what cites the place
    (``handle 12``, ``policy``); ``service`` and ``dataplane`` are null when nothing tells them.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "packet": _packet(trace.packet),
        "verdict": trace.verdict,
        "certainty": trace.certainty,
        "endpoints": [_endpoint(one) for one in trace.destinations],
        "service": service_of(trace.steps),
        "dataplane": dataplane_of(trace.steps),
        "steps": [_step(one) for one in trace.steps],
        "gaps": list(gaps),
    }


def service_of(steps: Sequence[Step]) -> str | None:
    """Return the Service that the rules on the way name in their comments, None for none."""
    for step in steps:
        for text in (step.text, step.why):
            if found := _SERVICE.search(text):
                return found[1]
            if named := _CHAIN.search(text):
                return f"{named[1]}:{named[2]}" if named[2] else named[1]
    return None


def dataplane_of(steps: Sequence[Step]) -> str | None:
    """Return which data plane handled the packet, None when no proxy did."""
    if any(step.table == IPVS for step in steps):
        return IPVS
    if any(step.chain.startswith("KUBE-") for step in steps):
        return IPTABLES
    return NFTABLES if any(step.table.endswith(" kube-proxy") for step in steps) else None


def _packet(packet: Packet) -> dict[str, object]:
    return {
        "src": str(packet.src),
        "dst": str(packet.dst),
        "port": packet.dport,
        "protocol": PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol)),
    }


def _endpoint(destination: Destination) -> dict[str, object]:
    share = destination.probability
    return {
        "address": str(destination.address),
        "port": destination.port,
        "probability": f"{share.numerator}/{share.denominator}",
        "masquerade": destination.masquerade,
    }


def _step(step: Step) -> dict[str, object]:
    number = _NUMBER.fullmatch(step.place)
    return {
        "hook": step.hook,
        "table": step.table,
        "chain": step.chain,
        "rule": int(number[1]) if number else step.place,
        "text": step.text,
        "result": step.result.value,
        "why": step.why,
    }
