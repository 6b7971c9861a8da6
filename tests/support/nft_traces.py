"""Trace messages as the kernel sent them, from recordings and made up."""

from __future__ import annotations

from pathlib import Path

from proxy.netfilter.trace_messages import Headers, TraceKind, TraceMessage, read_trace_message

_RECORDED = Path(__file__).parents[1] / "data" / "nft_trace"


def recorded(name: str) -> list[TraceMessage]:
    """The messages of a recording, which a lab's node made of one packet."""
    lines = (_RECORDED / f"{name}.hex").read_text().split()
    read = [read_trace_message(bytes.fromhex(line)) for line in lines]
    found = [message for message in read if message is not None]
    assert len(found) == len(lines)
    return found


def told(
    place: str,
    verdict: str = "continue",
    *,
    kind: TraceKind = TraceKind.RULE,
    handle: int = 1,
    headers: Headers | None = None,
    devices: tuple[int, int] = (0, 0),
    packet_id: int = 1,
) -> TraceMessage:
    """A message; *place* is family, table and chain."""
    family, table, chain = place.split()
    return TraceMessage(
        packet_id, family, table, chain, kind, handle, verdict, headers, *devices, 0
    )
