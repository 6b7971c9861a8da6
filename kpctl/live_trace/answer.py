"""What real packets did, as JSON objects and as sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address

from diagnostics.trace.answer import API_VERSION
from diagnostics.trace.packet import PROTOCOL_NAMES, place_text
from diagnostics.trace.walk import Step
from kpctl.exit_codes import FINDINGS, OK, UNDETERMINED
from kpctl.live_trace.probe import Answer, Probed
from kpctl.live_trace.translate import (
    Outcome,
    PacketStory,
    Translator,
    destination,
    headers_text,
    source,
)
from proxy.conntrack.entries import Direction, Entry
from proxy.netfilter.trace_messages import Headers

_NUMBER = re.compile(r"rule (\d+)")
_REFUSED = frozenset({Outcome.DROPPED, Outcome.REJECTED})
_GONE_ON = frozenset({Outcome.SENT, Outcome.DELIVERED})
_TOLD = frozenset({Answer.CONNECTED, Answer.ANSWERED})
_ANSWERS = {
    Answer.CONNECTED: "The connection was opened",
    Answer.ANSWERED: "An answer came",
    Answer.REFUSED: "It was refused",
    Answer.UNREACHABLE: "It is unreachable",
    Answer.SILENT: "No answer came",
}


def story_text(story: PacketStory, translator: Translator) -> str:
    """Return where a packet got to, in words: ``goes to 10.244.1.11:8080 (pod shop/web-1)``."""
    to = _owned(destination(story.final), translator.owner(story.final.destination))
    said = {
        Outcome.SENT: f"goes to {to} by {story.device_out}",
        Outcome.DELIVERED: f"arrives at {to} on this node",
        Outcome.DROPPED: f"is dropped in {story.last_hook}",
        Outcome.REJECTED: f"is rejected in {story.last_hook}",
        Outcome.VANISHED: f"is not seen behind {story.last_hook}: no nftables rule dropped it,"
        " so iptables-legacy, IPVS, routing or a full connection table did",
    }[story.outcome]
    if story.source_rewritten:
        said += f", from {source(story.final)}"
    return said


def probe_text(probed: Probed, stories: Sequence[PacketStory], translator: Translator) -> str:
    """Return what became of a probe, and of its packets in order, in one sentence."""
    told = _ANSWERS[probed.answer]
    if probed.detail and probed.answer is not Answer.REFUSED:
        told += f" ({probed.detail})"
    told += f" after {probed.seconds * 1000:.1f} ms"
    if stories and stories[0].outcome in _REFUSED:
        return f"{told}; a rule {stories[0].outcome.value} it in {stories[0].last_hook}."
    landed = landing(probed, stories)
    if landed is None:
        return f"{told}; neither the connection table nor the kernel's trace tells where it went."
    owned = _owned(_end(*landed), translator.owner(landed[0]))
    replied = probed.answer in _TOLD or (probed.entry is not None and probed.entry.replied)
    went = "it landed on" if replied else "it was sent on to"
    return f"{told}; {went} {owned}{_masquerading(probed, stories)}."


def _masquerading(probed: Probed, stories: Sequence[PacketStory]) -> str:
    entry = probed.entry
    if entry is not None:
        seen = (entry.reply.destination, entry.reply.destination_port)
    elif stories:
        seen = (stories[0].final.source, stories[0].final.source_port)
    else:
        return ""
    if seen == (probed.sent.source, probed.sent.source_port):
        return ", which sees the caller's address"
    return f", which sees {_end(*seen)} instead"


def _owned(place: str, owner: str) -> str:
    return f"{place} ({owner})" if owner else place


def landing(probed: Probed, stories: Sequence[PacketStory]) -> tuple[str, int] | None:
    """
    Return address and port where a probe landed, None if nobody got it.

    By the connection table, or by its first packet on a node that tracks no connections.
    """
    if probed.entry is not None:
        return probed.entry.reply.source, probed.entry.reply.source_port
    if stories and stories[0].outcome in _GONE_ON:
        return stories[0].final.destination, stories[0].final.destination_port
    return None


def probe_exit_code(probed: Probed) -> int:
    """Return 0 when it went somewhere, 1 when it was refused or lost, as for every trace."""
    if probed.answer in _TOLD:
        return OK
    udp_landed = probed.answer is Answer.SILENT and probed.entry and not probed.entry.tcp_state
    return OK if udp_landed else FINDINGS


def watch_exit_code(outcomes: dict[Outcome, int]) -> int:
    """Return 1 if packets were dropped or rejected, 3 if there were none or some vanished."""
    if any(outcomes.get(one) for one in _REFUSED):
        return FINDINGS
    if outcomes.get(Outcome.VANISHED) or not sum(outcomes.values()):
        return UNDETERMINED
    return OK


def packet_json(story: PacketStory, translator: Translator) -> dict[str, object]:
    """Return one packet as an object of kind TracedPacket."""
    return {
        "apiVersion": API_VERSION,
        "kind": "TracedPacket",
        "packet": _headers(story.called),
        "final": _headers(story.final),
        "outcome": story.outcome.value,
        "destinationRewritten": story.destination_rewritten,
        "sourceRewritten": story.source_rewritten,
        "endpoint": translator.owner(story.final.destination) or None,
        "service": story.service or None,
        "deviceIn": story.device_in or None,
        "deviceOut": story.device_out or None,
        "lastHook": story.last_hook,
        "steps": [_step(step) for step in story.steps],
        "text": f"{headers_text(story.called)} {story_text(story, translator)}",
    }


def probe_json(
    probed: Probed, stories: list[PacketStory], translator: Translator, gaps: list[str]
) -> dict[str, object]:
    """Return a probe as an object of kind ProbeReport."""
    landed = landing(probed, stories)
    return {
        "apiVersion": API_VERSION,
        "kind": "ProbeReport",
        "sent": _direction(probed.sent),
        "answer": probed.answer.value,
        "detail": probed.detail,
        "seconds": round(probed.seconds, 6),
        "landed": None if landed is None else {"address": landed[0], "port": landed[1]},
        "endpoint": (translator.owner(landed[0]) or None) if landed else None,
        "connection": _entry(probed.entry),
        "packets": [packet_json(story, translator) for story in stories],
        "text": probe_text(probed, stories, translator),
        "gaps": gaps,
    }


def connection_text(entry: Entry) -> str:
    """Return an entry of the connection table in one line."""
    words = [entry.tcp_state, "answered" if entry.replied else "not answered"]
    way = f"{_way(entry.original)}, answers {_way(entry.reply)}"
    return f"{way} [{' '.join(word for word in words if word)}]"


def _way(direction: Direction) -> str:
    sender = _end(direction.source, direction.source_port)
    return f"{sender} -> {_end(direction.destination, direction.destination_port)}"


def _end(address: str, port: int) -> str:
    return place_text(ip_address(address), port)


def _entry(entry: Entry | None) -> dict[str, object] | None:
    if entry is None:
        return None
    return {
        "original": _direction(entry.original),
        "reply": _direction(entry.reply),
        "state": entry.tcp_state or None,
        "replied": entry.replied,
        "assured": entry.assured,
        "sourceRewritten": entry.source_rewritten,
        "destinationRewritten": entry.destination_rewritten,
        "mark": entry.mark,
    }


def _direction(direction: Direction) -> dict[str, object]:
    return {
        "src": direction.source,
        "sourcePort": direction.source_port,
        "dst": direction.destination,
        "port": direction.destination_port,
    }


def _headers(headers: Headers) -> dict[str, object]:
    return {
        "src": headers.source,
        "sourcePort": headers.source_port,
        "dst": headers.destination,
        "port": headers.destination_port,
        "protocol": PROTOCOL_NAMES.get(headers.protocol, str(headers.protocol)),
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
