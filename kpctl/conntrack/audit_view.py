"""How stale entries and one explained entry look on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from diagnostics.conntrack.assess import span
from diagnostics.conntrack.explain import Explanation, Today
from diagnostics.conntrack.model import protocol_name
from diagnostics.conntrack.stale_rows import StaleRow
from diagnostics.readers.conntrack import Flow
from diagnostics.trace.packet import place_text
from kpctl.columns import columns
from kpctl.conntrack.status_view import size_text

_UNKNOWN = "?"
_HEAD = ("PROT", "SERVICE", "CLIENT", "CALLED", "GOES TO", "WHO", "STATE", "LEFT", "RATE", "WHY")


def audit_lines(rows: Sequence[StaleRow]) -> Iterator[str]:
    """Yield the table of stale entries."""
    return columns([_HEAD, *map(_stale, rows)], frozenset({7, 8}))


def _stale(row: StaleRow) -> tuple[str, ...]:
    flow = row.flow
    return (
        protocol_name(flow.protocol),
        row.service or "(none)",
        place(flow.original.source, flow.original.source_port),
        place(flow.original.destination, flow.original.destination_port),
        place(flow.reply.source, flow.reply.source_port) if flow.is_dnat else "(not translated)",
        row.owner,
        _state(flow),
        _left(flow),
        _UNKNOWN if row.rate is None else f"{size_text(row.rate)}/s",
        row.reason.value,
    )


def place(address: str, port: int) -> str:
    """Return ``IP:port``, or the address where there is no port."""
    return place_text(ip_address(address), port) if port else address


def _state(flow: Flow) -> str:
    return " ".join(filter(None, (flow.state, *sorted(flow.flags))))


def _left(flow: Flow) -> str:
    return _UNKNOWN if flow.timeout_s is None else span(flow.timeout_s)


def explain_lines(one: Explanation) -> Iterator[str]:
    """Yield an entry in words."""
    flow = one.flow
    original, reply = flow.original, flow.reply
    client = place(original.source, original.source_port)
    called = place(original.destination, original.destination_port)
    yield f"Entry:      {protocol_name(flow.protocol)} {client} -> {called}"
    yield f"Service:    {one.service or 'none has this address and port, as far as is known'}"
    yield f"Client:     {client}{_who(one.client)}"
    yield f"Endpoint:   {place(reply.source, reply.source_port)}{_who(one.endpoint)}"
    yield from _list("NAT:", one.rewritten)
    yield from _list("State:", one.states)
    left = "not told" if flow.timeout_s is None else f"{span(flow.timeout_s)} without a packet"
    yield f"Time left:  {left}"
    yield from _counted(one)
    if flow.mark or flow.zone:
        yield f"Marks:      mark {flow.mark:#x}, zone {flow.zone}"
    yield f"Verdict:    {one.verdict}"
    for why in one.why:
        yield f"            - {why}"
    if one.reason is not None:
        yield "            what clears it: kpctl conntrack audit --delete, or this entry alone:"
        yield f"            {one.clear}"
    if one.today is not None:
        yield from _rules(one.today)


def _who(name: str) -> str:
    return f" ({name})" if name else ""


def _list(title: str, texts: Sequence[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        yield f"{title if number == 0 else '':<12}{text}"


def _counted(one: Explanation) -> Iterator[str]:
    detail = one.detail
    if detail.bytes is not None:
        packets = (one.flow.original.packets or 0) + (one.flow.reply.packets or 0)
        rate = "" if detail.rate is None else f", {size_text(detail.rate)}/s on average"
        yield f"Carried:    {size_text(detail.bytes)} in {packets} packets{rate}"
    if detail.age_s is not None:
        yield f"Age:        {span(detail.age_s)}"


def _rules(today: Today) -> Iterator[str]:
    same = "which is this endpoint" if today.reached else "never to this entry's endpoint"
    yield f"Rules now:  {today.text}; {same}" if today.steps else f"Rules now:  {today.text}"
    for step in today.steps:
        where = " ".join(filter(None, (step.hook, step.table, step.chain, step.place)))
        yield f"            {where}: {step.text or step.why}"
