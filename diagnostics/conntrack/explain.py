"""One entry in words: which Service, rule and pod, what was rewritten, how long, and why stale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from diagnostics.conntrack.model import Detail, protocol_name
from diagnostics.conntrack.shares import Naming
from diagnostics.conntrack.states import explain_state
from diagnostics.conntrack.text import entry_of
from diagnostics.readers.conntrack import Flow
from diagnostics.trace.packet import PROTOCOL_NAMES, UDP, place_text
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.report import DNAT, DROP, REJECT, Trace
from diagnostics.trace.report import UNKNOWN as NOT_KNOWN
from diagnostics.trace.walk import End, Step, Tri
from proxy.conntrack.stale import Reason

FINE, STALE, UNKNOWN = "fine", "stale", "unknown"
_MOST_STEPS = 12


@dataclass(frozen=True, slots=True)
class Today:
    """
    What the rules of now do with the first packet of such a connection.

    Attributes:
        text: in words.
        steps: the rules that lead to the entry's endpoint, or where it goes now.
        reached: whether the entry's own endpoint is one of those that may be chosen.
    """

    text: str
    steps: tuple[Step, ...] = ()
    reached: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    All that is known of an entry.

    Attributes:
        service, client, endpoint: names, "" where there are none.
        rewritten: what was translated, in words.
        states: the state and flags, in words.
        verdict: fine, stale or unknown; ``reason`` is the policy's for stale.
        why: sentences behind the verdict.
        clear: the command that removes exactly this entry.
        gaps: what was not known.
    """

    detail: Detail
    service: str
    client: str
    endpoint: str
    rewritten: tuple[str, ...]
    states: tuple[str, ...]
    verdict: str
    reason: Reason | None
    why: tuple[str, ...]
    clear: str
    today: Today | None = None
    gaps: tuple[str, ...] = field(default=())

    @property
    def flow(self) -> Flow:
        """The entry."""
        return self.detail.flow


def explain(
    detail: Detail, naming: Naming, tracer: Tracer | None, gaps: tuple[str, ...] = ()
) -> Explanation:
    """
    Return what an entry is.

    Args:
        detail: The entry.
        naming: Who is who.
        tracer: The node's rules; None when they are not known.
        gaps: Why something of these is not known.
    """
    flow = detail.flow
    entry = entry_of(flow, b"")
    reason = None
    if naming.truth is not None:
        reason = naming.truth.verdict(flow.protocol, entry.called, entry.target)
    service = naming.service(flow.protocol, entry.called)
    today, unread = ask_rules(flow, tracer) if tracer else (None, ())
    return Explanation(
        detail,
        service,
        naming.owner(flow.original.source),
        naming.owner(flow.reply.source),
        tuple(_rewritten(flow)),
        explain_state(flow),
        _verdict(naming, reason),
        reason,
        tuple(_why(flow, service, reason, naming)),
        _clear(flow),
        today,
        (*gaps, *unread),
    )


def _verdict(naming: Naming, reason: Reason | None) -> str:
    if naming.truth is None:
        return UNKNOWN
    return STALE if reason else FINE


def _rewritten(flow: Flow) -> Iterator[str]:
    original, reply = flow.original, flow.reply
    if flow.is_dnat:
        called = _place(original.destination, original.destination_port)
        yield f"destination {called} became {_place(reply.source, reply.source_port)}"
    if flow.is_snat:
        client = _place(original.source, original.source_port)
        seen = _place(reply.destination, reply.destination_port)
        yield f"source {client} became {seen}, which is what the endpoint sees"
    if not flow.is_dnat and not flow.is_snat:
        yield "nothing was translated"


def _why(flow: Flow, service: str, reason: Reason | None, naming: Naming) -> Iterator[str]:
    if naming.truth is None:
        yield "Services and endpoints of now are not known"
        return
    if reason is None:
        if not service:
            yield "no Service has this address and port, so no Service's rules made it"
        elif flow.is_dnat:
            yield "its endpoint is one of the Service's"
        else:
            yield "the address is this node's own, or IPVS translates without conntrack's knowledge"
        return
    yield reason.value
    if "UNREPLIED" in flow.flags:
        yield "nobody answers: each packet is sent to where nobody takes it"
    if flow.timeout_s is not None and flow.protocol == UDP:
        yield (
            f"it lives on for {flow.timeout_s} s after the last packet, so a client that keeps "
            "sending never gets rid of it"
        )


def _clear(flow: Flow) -> str:
    ends = flow.original
    protocol = protocol_name(flow.protocol).lower()
    parts = [f"conntrack -D -p {protocol} -s {ends.source} -d {ends.destination}"]
    if ends.source_port or ends.destination_port:
        parts.append(f"--sport {ends.source_port} --dport {ends.destination_port}")
    if flow.zone:
        parts.append(f"--zone {flow.zone}")
    return " ".join(parts)


def ask_rules(flow: Flow, tracer: Tracer) -> tuple[Today | None, tuple[str, ...]]:
    """
    Return what the rules of now do with such a packet, and what was not known.

    None for protocols without ports, and where no rules are known.
    """
    if flow.protocol not in PROTOCOL_NAMES:
        return None, ()
    source, destination = ip_address(flow.original.source), ip_address(flow.original.destination)
    found = tracer.ask(Question(source, destination, flow.original.destination_port, flow.protocol))
    gaps = tuple(tracer.gaps(found))
    if found.certainty == NOT_KNOWN:
        return None, gaps
    target = (ip_address(flow.reply.source), flow.reply.source_port)
    ends = [end for end in found.ends if _leads_to(end, target)]
    shown = ends[0] if ends else max(found.ends, key=lambda e: e.branch.probability, default=None)
    steps = () if shown is None else _telling(shown.branch.steps())
    return Today(_text(found), steps, bool(ends)), gaps


def _leads_to(end: End, target: tuple[object, int]) -> bool:
    packet = end.branch.packet
    return packet.is_translated and (packet.dst, packet.dport) == target


def _telling(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the rules that took the packet, without those that looked and let it pass."""
    return tuple(step for step in steps if step.result is not Tri.NO)[:_MOST_STEPS]


def _text(found: Trace) -> str:
    if found.verdict == DNAT:
        places = [place_text(one.address, one.port) for one in found.destinations]
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        return f"a new connection goes to {', '.join(places[:3])}{more}"
    words = {DROP: "is dropped", REJECT: "is rejected"}
    return f"a new connection {words.get(found.verdict, 'is not translated')}"


def _place(address: str, port: int) -> str:
    if not port:
        return address
    return place_text(ip_address(address), port)
