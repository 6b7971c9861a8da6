"""What the state and the flags of an entry mean."""

from __future__ import annotations

from diagnostics.readers.conntrack import Flow

_TCP = {
    "SYN_SENT": "the client asked for a connection and was not answered yet",
    "SYN_SENT2": "both sides asked for a connection at the same time",
    "SYN_RECV": "the endpoint answered, and the client has not confirmed yet",
    "ESTABLISHED": "the connection is open",
    "FIN_WAIT": "one side has closed its direction, and the other has not confirmed yet",
    "CLOSE_WAIT": "one side has closed, and the other still may send",
    "LAST_ACK": "both sides have closed; the last confirmation is missing",
    "TIME_WAIT": "the connection is over; the entry waits for stragglers",
    "CLOSE": "the connection was reset",
    "NONE": "no packet of it was understood yet",
}
_SCTP = {
    "COOKIE_WAIT": "the client asked for an association",
    "COOKIE_ECHOED": "the association is being opened",
    "ESTABLISHED": "the association is open",
    "SHUTDOWN_SENT": "one side ends the association",
    "SHUTDOWN_RECD": "one side ends the association",
    "SHUTDOWN_ACK_SENT": "both sides end the association",
    "CLOSED": "the association is over",
    "HEARTBEAT_SENT": "a second path of an association is being tried",
}
_TCP_NUMBER, _SCTP_NUMBER = 6, 132


def explain_state(flow: Flow) -> tuple[str, ...]:
    """Return sentences on the state and each flag."""
    texts = []
    names = {_TCP_NUMBER: _TCP, _SCTP_NUMBER: _SCTP}.get(flow.protocol, {})
    if flow.state in names:
        texts.append(f"{flow.state}: {names[flow.state]}")
    if "UNREPLIED" in flow.flags:
        texts.append("UNREPLIED: no answer has passed by here")
    elif not flow.state:
        texts.append("answered: packets of both directions have passed by here")
    if "ASSURED" in flow.flags:
        texts.append("ASSURED: not thrown out early when the table is full")
    elif "UNREPLIED" not in flow.flags:
        texts.append("not assured: one of the first to go when the table is full")
    if flow.flags & {"OFFLOAD", "HW_OFFLOAD"}:
        texts.append("OFFLOAD: its packets take a short cut past the rules, so it has no time left")
    return tuple(texts)
