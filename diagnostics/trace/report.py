"""What becomes of a packet, summed up over all branches of the walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from diagnostics.trace.node import Node
from diagnostics.trace.packet import Address, Packet
from diagnostics.trace.walk import Branch, End, Step, Tri, Verdict

DNAT, DROP, REJECT, ACCEPT, NONE = "dnat", "drop", "reject", "accept", "none"
CERTAIN, MAYBE, UNKNOWN = "certain", "maybe", "unknown"


@dataclass(frozen=True, slots=True)
class Destination:
    """
    An endpoint the packet may reach.

    ``probability`` is exact; ``masquerade`` says whether the endpoint sees another source address.
    """

    address: Address
    port: int
    probability: Fraction
    masquerade: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """
    The answer to "what will happen to this packet".

    Attributes:
        verdict: dnat, drop, reject, accept (a rule lets it in) or none (nobody touches it).
        certainty: certain; maybe when the ends differ with an undecidable match; unknown when
            there were no rules to walk through.
        destinations: where dnat leads, by address text.
        ends: every end of the walk, with the steps that led there.
    """

    packet: Packet
    verdict: str
    certainty: str
    destinations: tuple[Destination, ...]
    ends: tuple[End, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the likeliest branch."""
        if not self.ends:
            return ()
        return max(self.ends, key=lambda end: end.branch.probability).branch.steps()


def trace(node: Node, packet: Packet, *, from_node: bool) -> Trace:
    """Return what becomes of a packet that comes in on a device, or from a process of the node."""
    start = Branch(packet)
    ends = node.from_node(start) if from_node else node.from_network(start)
    verdicts = {_verdict(end) for end in ends}
    certainty = _certainty(ends) if node.listeners else UNKNOWN
    found = _destinations(ends, certain=certainty == CERTAIN)
    return Trace(packet, _worst(verdicts), certainty, found, tuple(ends))


def _certainty(ends: Sequence[End]) -> str:
    """Return whether something undecidable matters: where all ways lead to one end it does not."""
    if not any(end.branch.maybe for end in ends):
        return CERTAIN
    outcomes = {_outcome(end) for end in ends}
    is_one = len(outcomes) == 1 and not any(end.branch.opaque for end in ends)
    return CERTAIN if is_one else MAYBE


def _outcome(end: End) -> tuple[object, ...]:
    """What can be noticed of an end from outside; marks cannot."""
    packet = end.branch.packet
    return _verdict(end), end.how, packet.dst, packet.dport, packet.source_rewritten


def _verdict(end: End) -> str:
    if end.verdict is Verdict.DROP:
        return DROP
    if end.verdict is Verdict.REJECT:
        return REJECT
    if end.branch.packet.is_translated:
        return DNAT
    return ACCEPT if any(map(_lets_in, end.branch.steps())) else NONE


def _lets_in(step: Step) -> bool:
    return step.result is Tri.YES and step.table == "filter" and step.text.endswith(" -j ACCEPT")


def _worst(verdicts: set[str]) -> str:
    """Return the verdict to report when branches differ: what succeeds, and then what is seen."""
    return next((v for v in (DNAT, REJECT, DROP, ACCEPT) if v in verdicts), NONE)


def _destinations(ends: Sequence[End], *, certain: bool) -> tuple[Destination, ...]:
    """Return where packets arrive; of what is uncertain, with the shares of those that do."""
    found: dict[tuple[Address, int, bool], Fraction] = {}
    for end in ends:
        packet = end.branch.packet
        if end.verdict is Verdict.ACCEPT and packet.is_translated:
            key = (packet.dst, packet.dport, packet.source_rewritten)
            found[key] = found.get(key, Fraction(0)) + end.branch.probability
    whole = Fraction(1) if certain else sum(found.values(), Fraction(0))
    ordered = sorted(found.items(), key=lambda item: (str(item[0][0]), item[0][1:]))
    return tuple(Destination(*key[:2], share / whole, key[2]) for key, share in ordered)
