"""How the fate of calls can differ, and what is said of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """
    Kinds of differences.

    MISSING: a frontend that the API has and the kernel does not know. STALE: the reverse.
    ENDPOINTS: endpoints that should, or should not, get traffic. PORT: the right addresses with a
    wrong port. WEIGHT: the right endpoints with wrong probabilities. POLICY: reject, drop or
    forward, but another one. MASQUERADE: the source address is rewritten, or kept, wrongly.
    AFFINITY: another session affinity. JUMP: the kernel does not come to the proxy's rules.
    EDITED: rules of the proxy that differ without changing where packets go. LEFTOVER: rules of
    another mode. HIJACKED: rules of a third party decide instead of the proxy's.
    """

    MISSING = "missing"
    STALE = "stale"
    ENDPOINTS = "endpoints"
    PORT = "port"
    WEIGHT = "weight"
    POLICY = "policy"
    MASQUERADE = "masquerade"
    AFFINITY = "affinity"
    JUMP = "jump"
    EDITED = "edited"
    LEFTOVER = "leftover"
    HIJACKED = "hijacked"


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One difference.

    Attributes:
        service: ``shop/web:http``, "" for one of the whole node.
        family: IPv4 or IPv6, "" for both.
        subject: the frontends, or what of the kernel.
        expected, actual: in words.
        clients: kinds of clients that notice.
        evidence: rules that decide, each with its place.
        since: RFC 3339 time at which the API objects behind it last changed, "" if unknown.
    """

    kind: Kind
    service: str
    family: str
    subject: tuple[str, ...]
    expected: str
    actual: str
    clients: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    since: str = ""
