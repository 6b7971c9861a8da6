"""What chains and addresses on a packet's way stand for: Services, endpoints, Pods, nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from diagnostics.cluster.names import Names
from diagnostics.trace.packet import Packet, place_text
from diagnostics.trace.replies import Surroundings
from diagnostics.trace.report import Trace
from diagnostics.trace.walk import Branch, Step

# Services' names as kube-proxy and kpctl write them into comments: "shop/web:http cluster IP".
_SERVICE = re.compile(r'"([a-z0-9][a-z0-9.-]*/[a-z0-9][a-z0-9.-]*(?::[A-Za-z0-9.-]+)?)(?:"| )')
# kube-proxy's nftables chains: "service-4AT6LBPK-shop/web/tcp/http".
_CHAIN = re.compile(
    r"(?:service|external|firewall|endpoint)-[A-Z0-9]{8}-([^/\s]+/[^/\s]+)/\w+/([^/\s_]*)"
)
_SERVICE_CHAIN = re.compile(r"KUBE-(?:SVC|SVL|EXT|FW|XLB)-[A-Z0-9]{16}")
_ENDPOINT_CHAIN = re.compile(r"KUBE-SEP-[A-Z0-9]{16}|endpoint-[A-Z0-9]{8}-\S+")


def service_of(steps: Sequence[Step]) -> str | None:
    """Return the Service that the rules on the way name in their comments, None for none."""
    return next((found for step in steps if (found := service_in(step))), None)


def service_in(step: Step) -> str:
    """Return the service port that a rule names, ``shop/web:http``, or ""."""
    for text in (step.text, step.why):
        if found := _SERVICE.search(text):
            return found[1]
        if named := _CHAIN.search(text):
            return f"{named[1]}:{named[2]}" if named[2] else named[1]
    return ""


def service_called(trace: Trace, around: Surroundings | None) -> str:
    """Return the service port that the rules name, else the one that the API knows, or ""."""
    if named := service_of(trace.steps):
        return named
    packet = trace.packet
    if around is None:
        return ""
    local = around.facts.is_local(packet.dst)
    found = around.names.service(packet.dst, packet.dport, packet.protocol)
    # A NodePort is one only on the node's own addresses.
    return found if local is not False or not _is_node_port(packet, around) else ""


def _is_node_port(packet: Packet, around: Surroundings) -> bool:
    unspecified = type(packet.dst)(0)
    by_port = around.names.service(unspecified, packet.dport, packet.protocol)
    return bool(by_port) and by_port == around.names.service(
        packet.dst, packet.dport, packet.protocol
    )


def meanings(trace: Trace, around: Surroundings | None = None) -> dict[str, str]:
    """
    Return what stands behind the chains and addresses of a trace.

    For chains of a Service ``shop/web:http``, for those of an endpoint ``10.0.0.1:80, pod
    shop/web-1 on node-2``, for addresses who has them. What nothing tells is left out.
    """
    found: dict[str, str] = {}
    names = around.names if around else None
    for end in trace.ends:
        found.update(_chains(end.branch, names))
    if names is not None:
        addresses = {trace.packet.src, trace.packet.dst}
        addresses |= {one.address for one in trace.destinations}
        for address in sorted(addresses, key=str):
            if owner := names.owner(address):
                found[str(address)] = owner
    if service := service_called(trace, around):
        found[place_text(trace.packet.dst, trace.packet.dport)] = service
    return found


def _chains(branch: Branch, names: Names | None) -> Iterator[tuple[str, str]]:
    for step in branch.steps():
        if service := service_in(step):
            for chain in _SERVICE_CHAIN.findall(step.text):
                yield chain, service
        if _ENDPOINT_CHAIN.fullmatch(step.chain) and branch.packet.is_translated:
            place = place_text(branch.packet.dst, branch.packet.dport)
            owner = names.owner(branch.packet.dst) if names else ""
            yield step.chain, f"{place}, {owner}" if owner else place
