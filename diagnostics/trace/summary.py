"""A trace in one sentence, and what the client notices of it."""

from __future__ import annotations

from collections.abc import Sequence

from diagnostics.trace.chain_names import service_called
from diagnostics.trace.packet import TCP, place_text
from diagnostics.trace.replies import Reply, Surroundings
from diagnostics.trace.report import CERTAIN, DNAT, DROP, REJECT, UNKNOWN, Trace
from diagnostics.trace.walk import Step, Tri, Verdict

IPTABLES, NFTABLES, IPVS = "iptables", "nftables", "ipvs"

# Linux' icmp_err_convert (net/ipv4/icmp.c) and tab_unreach (net/ipv6/icmp.c): what connect()
# fails with, by what "--reject-with" and nft's "reject with" call it without their prefixes.
_REFUSED = "connection refused (ECONNREFUSED)"
_NO_HOST = "no route to host (EHOSTUNREACH)"
_NO_NET = "network is unreachable (ENETUNREACH)"
_DENIED = "permission denied (EACCES)"
_ERRORS = {
    4: {
        "port-unreachable": _REFUSED,
        "net-unreachable": _NO_NET,
        "net-prohibited": _NO_NET,
        "host-unreachable": _NO_HOST,
        "host-prohibited": _NO_HOST,
        "admin-prohibited": _NO_HOST,
        "prot-unreachable": "protocol not available (ENOPROTOOPT)",
        "proto-unreachable": "protocol not available (ENOPROTOOPT)",
    },
    6: {
        "port-unreachable": _REFUSED,
        "no-route": _NO_NET,
        "addr-unreachable": _NO_HOST,
        "adm-prohibited": _DENIED,
        "admin-prohibited": _DENIED,
        "policy-fail": _DENIED,
        "reject-route": _DENIED,
    },
}
# What a program of the node itself fails with when there is no route for its packet.
_OWN_ERRORS = {
    "EACCES": _DENIED,
    "EHOSTUNREACH": _NO_HOST,
    "EINVAL": "invalid argument (EINVAL)",
}
_DOUBTS = {
    CERTAIN: "Certain: the",
    UNKNOWN: "Unknown, because there were no rules to follow: as far as one can see the",
}


def sentence(trace: Trace, around: Surroundings | None = None) -> str:
    """Return the verdict with its certainty in one sentence."""
    begin = _DOUBTS.get(
        trace.certainty, "Maybe, because a match on the way cannot be decided from outside: the"
    )
    plane = dataplane_of(trace.steps)
    by = f" by {plane}" if plane else ""
    service = service_called(trace, around)
    of = f" of {service}" if service else ""
    if trace.verdict == DNAT:
        itself = "" if service else _itself(trace, around)
        whom = f"{itself or _whom(trace)}{of}{by}{_shares(trace)}{_source(trace)}"
        return f"{begin} packet goes to {whom}{_otherwise(trace)}."
    to = f" to {service}" if service else ""
    said = {
        DROP: f"is dropped{by}",
        REJECT: f"is rejected{by}",
        "accept": "is let in by a rule, and keeps its destination",
        "none": "is translated by nobody, and keeps its destination",
    }[trace.verdict]
    return f"{begin} packet{to} {said}."


def _whom(trace: Trace) -> str:
    count = len({(one.address, one.port) for one in trace.destinations})
    return "the only endpoint" if count == 1 else f"one of {count} endpoints"


def _itself(trace: Trace, around: Surroundings | None) -> str:
    """Return the node's own port that packets are redirected to, "" if they go elsewhere."""
    places = {(one.address, one.port) for one in trace.destinations}
    if len(places) != 1:
        return ""
    address, port = places.pop()
    is_own = address.is_loopback or (around is not None and around.facts.is_local(address))
    return f"the node itself, port {port}" if is_own else ""


def _otherwise(trace: Trace) -> str:
    """Return what else may become of the packet."""
    ends = {end.verdict for end in trace.ends}
    words = {Verdict.DROP: "dropped", Verdict.REJECT: "rejected"}
    found = [word for verdict, word in words.items() if verdict in ends]
    return f", or is {' or '.join(found)}" if found else ""


def _shares(trace: Trace) -> str:
    shares = {one.probability for one in trace.destinations}
    if len(trace.destinations) == 1:
        return ""
    return f", {shares.pop()} each" if len(shares) == 1 else ", with unequal shares"


def _source(trace: Trace) -> str:
    rewritten = {one.masquerade for one in trace.destinations}
    if rewritten == {True}:
        return ", with its source address rewritten"
    return "" if len(rewritten) > 1 else ", with its own source address"


def client_sees(trace: Trace, back: Sequence[Reply] = ()) -> str:
    """
    Return what the client notices in one sentence; "" when an endpoint is there to answer.

    *back* are the answers, as far as they were followed.
    """
    tcp = trace.packet.protocol == TCP
    if trace.verdict == DROP:
        if tcp:
            return (
                "The client gets no answer: it repeats its SYN and gives up with a time-out "
                "(Linux: after about 2 minutes)."
            )
        return "The client gets no answer, and no error either."
    if trace.verdict == REJECT:
        return _refusal(trace, tcp=tcp)
    if trace.verdict == DNAT:
        return _unanswered(back)
    if any(step.hook == "routing" and step.text.endswith(" this node") for step in trace.steps):
        place = place_text(trace.packet.dst, trace.packet.dport)
        refused = f"; if none does: {_REFUSED}" if tcp else ""
        return f"The client reaches the process of this node that listens on {place}{refused}."
    return (
        f"The client reaches whoever has {trace.packet.dst}; if nobody has, it gets no answer "
        "or an ICMP error from a router."
    )


def _unanswered(back: Sequence[Reply]) -> str:
    lost = [one for one in back if one.delivered not in (None, Tri.YES)]
    if not lost:
        return ""
    perhaps = any(one.delivered is Tri.MAYBE for one in lost)
    whose = "the answers" if len(lost) == len(back) else "the answers of some endpoints"
    sure = "may be dropped" if perhaps else "are dropped"
    return f"The client may wait in vain: {whose} {sure} on their way back through this node."


def _refusal(trace: Trace, *, tcp: bool) -> str:
    how = next((end.how for end in trace.ends if end.verdict is Verdict.REJECT), "")
    if "reset" in how:
        return f"The client is told at once: {_REFUSED}, by a TCP RST."
    if how in _OWN_ERRORS:
        return f"The program that calls is told at once by its own kernel: {_OWN_ERRORS[how]}."
    reason = how.replace("icmp6-", "").replace("icmpx-", "").replace("icmp-", "").replace(" ", "-")
    error = _ERRORS[trace.packet.family].get(reason, "an error")
    message = f"ICMP{'v6' if trace.packet.family == 6 else ''} {reason.replace('-', ' ')}"
    if tcp:
        return f"The client is told at once: {error}, by {message}."
    return f"The client is told by {message}; a connected socket reports: {error}."


def dataplane_of(steps: Sequence[Step]) -> str | None:
    """Return which data plane handled the packet, None when no proxy did."""
    if any(step.table == IPVS for step in steps):
        return IPVS
    if any(step.chain.startswith("KUBE-") for step in steps):
        return IPTABLES
    return NFTABLES if any(step.table.endswith(" kube-proxy") for step in steps) else None
