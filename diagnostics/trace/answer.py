"""
A trace as the JSON object that ``kpctl trace -o json`` prints and tools read.

The structs below are its encoder, its strict decoder and the source of the published JSON Schema
(``docs/schemas/trace-report.v1.json``). Fields are only ever added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from diagnostics.trace.chain_names import meanings, service_called, service_of
from diagnostics.trace.packet import PROTOCOL_NAMES, Packet, place_text
from diagnostics.trace.replies import Reply, Surroundings, replies
from diagnostics.trace.report import Destination, Trace
from diagnostics.trace.summary import client_sees, dataplane_of, sentence
from diagnostics.trace.walk import End, Step, Tri, Verdict

__all__ = ["Report", "answer", "dataplane_of", "report", "schema", "service_of"]

API_VERSION: Literal["kpctl.io/v1"] = "kpctl.io/v1"
KIND: Literal["TraceReport"] = "TraceReport"
SCHEMA_ID = "https://kpctl.io/schemas/trace-report.v1.json"
_NUMBER = re.compile(r"rule (\d+)")
_PASSES: dict[Tri, Literal["yes", "no", "maybe"]] = {
    Tri.YES: "yes",
    Tri.NO: "no",
    Tri.MAYBE: "maybe",
}


class _Object(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True
):
    """Common settings."""


class PacketObject(_Object, frozen=True):
    """The packet of a new connection as it was asked for."""

    src: str
    dst: str
    port: int
    protocol: str


class EndpointObject(_Object, frozen=True):
    """Where the packet may arrive; ``probability`` is an exact fraction as text."""

    address: str
    port: int
    probability: str
    masquerade: bool
    owner: str | UnsetType = UNSET
    node: str | UnsetType = UNSET


class StepObject(_Object, frozen=True):
    """A rule; ``rule`` is its number, or what cites the place (``handle 12``, ``policy``)."""

    hook: str
    table: str
    chain: str
    rule: int | str
    text: str
    result: Literal["match", "no-match", "maybe"]
    why: str


class PathObject(_Object, frozen=True):
    """
    One way through the node.

    Its steps are the first ``shared`` ones of the report's ``steps``, followed by its own.
    ``how`` says what a reject answers; ``endpoint`` is null unless the packet is translated.
    """

    probability: str
    certain: bool
    verdict: Literal["accept", "drop", "reject"]
    how: str
    endpoint: str | None
    masquerade: bool
    shared: int
    steps: list[StepObject]


class RewriteObject(_Object, frozen=True):
    """A translation that is undone for an answer."""

    hook: str
    by: Literal["conntrack", "ipvs"]
    field: Literal["source", "destination"]
    before: str
    after: str


class ReplyObject(_Object, frozen=True):
    """
    An endpoint's answer, and whether it comes by this node.

    ``delivered``: whether the rules of this node let it through if it comes by; ``steps`` are those
    on its way. Both are absent where the answer was not followed.
    """

    endpoint: str
    masquerade: bool
    passes: Literal["yes", "no", "maybe"]
    why: str
    rewrites: list[RewriteObject]
    delivered: Literal["yes", "no", "maybe"] | UnsetType = UNSET
    steps: list[StepObject] | UnsetType = UNSET


class Report(_Object, frozen=True):
    """
    A TraceReport.

    ``steps`` are those of the likeliest way, ``paths`` all ways. ``service`` and ``dataplane`` are
    null when nothing tells them. ``names`` says what stands behind chains and addresses;
    ``replies`` and ``names`` are there when the node's surroundings were looked at.
    """

    api_version: Literal["kpctl.io/v1"]
    kind: Literal["TraceReport"]
    packet: PacketObject
    verdict: Literal["dnat", "drop", "reject", "accept", "none"]
    certainty: Literal["certain", "maybe", "unknown"]
    endpoints: list[EndpointObject]
    service: str | None
    dataplane: Literal["iptables", "nftables", "ipvs"] | None
    steps: list[StepObject]
    gaps: list[str]
    summary: str
    client: str
    paths: list[PathObject]
    names: dict[str, str] | UnsetType = UNSET
    replies: list[ReplyObject] | UnsetType = UNSET


def report(
    trace: Trace, gaps: Sequence[str], around: Surroundings | None = None
) -> dict[str, object]:
    """Return the object as plain values; see ``answer``."""
    made: dict[str, object] = msgspec.to_builtins(answer(trace, gaps, around))
    return made


def answer(trace: Trace, gaps: Sequence[str], around: Surroundings | None = None) -> Report:
    """Return the object; *around* adds owners, names and the way back."""
    steps, back = trace.steps, replies(trace, around) if around else ()
    plane: Any = dataplane_of(steps)
    verdict: Any = trace.verdict
    certainty: Any = trace.certainty
    return Report(
        api_version=API_VERSION,
        kind=KIND,
        packet=_packet(trace.packet),
        verdict=verdict,
        certainty=certainty,
        endpoints=[_endpoint(one, around) for one in trace.destinations],
        service=service_called(trace, around) or None,
        dataplane=plane,
        steps=[_step(one) for one in steps],
        gaps=list(gaps),
        summary=sentence(trace, around),
        client=client_sees(trace, back),
        paths=[_path(end, steps) for end in trace.ends],
        names=meanings(trace, around) if around else UNSET,
        replies=[_reply(one) for one in back] if around else UNSET,
    )


def schema() -> dict[str, Any]:
    """Return the JSON Schema of reports (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **msgspec.json.schema(Report),
    }


def _packet(packet: Packet) -> PacketObject:
    return PacketObject(
        src=str(packet.src),
        dst=str(packet.dst),
        port=packet.dport,
        protocol=PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol)),
    )


def _endpoint(one: Destination, around: Surroundings | None) -> EndpointObject:
    return EndpointObject(
        address=str(one.address),
        port=one.port,
        probability=f"{one.probability.numerator}/{one.probability.denominator}",
        masquerade=one.masquerade,
        owner=(around.names.owner(one.address) if around else "") or UNSET,
        node=(around.names.host(one.address) if around else "") or UNSET,
    )


def _step(step: Step) -> StepObject:
    number = _NUMBER.fullmatch(step.place)
    return StepObject(
        hook=step.hook,
        table=step.table,
        chain=step.chain,
        rule=int(number[1]) if number else step.place,
        text=step.text,
        result=step.result.value,
        why=step.why,
    )


def _path(end: End, main: Sequence[Step]) -> PathObject:
    steps, packet = end.branch.steps(), end.branch.packet
    shared = 0
    while shared < min(len(steps), len(main)) and steps[shared] == main[shared]:
        shared += 1
    share = end.branch.probability
    translated = packet.is_translated and end.verdict is Verdict.ACCEPT
    return PathObject(
        probability=f"{share.numerator}/{share.denominator}",
        certain=not end.branch.maybe,
        verdict=end.verdict.value,
        how=end.how,
        endpoint=place_text(packet.dst, packet.dport) if translated else None,
        masquerade=packet.source_rewritten,
        shared=shared,
        steps=[_step(step) for step in steps[shared:]],
    )


def _reply(one: Reply) -> ReplyObject:
    rewrites = [
        RewriteObject(
            hook=rewrite.hook,
            by=rewrite.by,  # type: ignore[arg-type]
            field=rewrite.field,  # type: ignore[arg-type]
            before=rewrite.before,
            after=rewrite.after,
        )
        for rewrite in one.rewrites
    ]
    return ReplyObject(
        endpoint=place_text(one.destination.address, one.destination.port),
        masquerade=one.destination.masquerade,
        passes=_PASSES[one.passes],
        why=one.why,
        rewrites=rewrites,
        delivered=UNSET if one.delivered is None else _PASSES[one.delivered],
        steps=UNSET if one.delivered is None else [_step(step) for step in one.steps],
    )
