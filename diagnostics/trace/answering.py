"""
An endpoint's answer on its way through the rules: a SYN/ACK, or the like, of a known connection.

Rules of NAT are not asked again: connection tracking undoes what they did, the masquerade where an
answer comes in or is made (before routing), the DNAT where it leaves or is delivered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from diagnostics.live.errors import ReadError
from diagnostics.trace.node import Hook, Node
from diagnostics.trace.packet import Address, Packet
from diagnostics.trace.walk import Branch, End, Step, Tri, Verdict

# One of Linux' ephemeral ports, for a client whose own is not known.
_EPHEMERAL = 49152
_PLACES = {Hook.PREROUTING: -100, Hook.OUTPUT: -100, Hook.INPUT: 100, Hook.POSTROUTING: 100}


@dataclass(frozen=True, slots=True)
class _Undo:
    """A listener that translates answers back; see Node."""

    hook: Hook
    is_nat: bool = False
    reroutes: bool = True

    @property
    def priority(self) -> int:
        """NAT's own."""
        return _PLACES[self.hook]

    def run(self, branch: Branch) -> Iterator[End]:
        """Return the branch with an address translated back."""
        packet, opener = branch.packet, branch.packet.answers
        if opener is not None and not packet.untracked:
            if self.hook in (Hook.PREROUTING, Hook.OUTPUT):
                packet = replace(packet, dst=opener.src, dport=opener.sport or _EPHEMERAL)
            else:
                address, port = opener.original
                packet = replace(packet, src=address, sport=port)
        yield End(branch.as_(packet), Verdict.ACCEPT)


def followed_back(node: Node, arrived: Packet, client: Address) -> tuple[Tri, tuple[Step, ...]]:
    """
    Return whether the answer to a packet gets through a node's rules, and the rules on its way.

    Args:
        node: which the answer comes by.
        arrived: the packet that is answered, as it arrived at its endpoint.
        client: the source address that the endpoint saw.
    """
    answer = Packet(
        src=arrived.dst,
        dst=client,
        protocol=arrived.protocol,
        dport=arrived.sport or _EPHEMERAL,
        sport=arrived.dport,
        ct_mark=arrived.ct_mark,
        answers=replace(arrived, iif="", oif=""),
    )
    both = replace(node, listeners=(*node.listeners, *map(_Undo, _PLACES)))
    try:
        ends = _ends(both, answer)
    except ReadError as error:
        step = Step("routing", "", "", "", "the way of the answer", Tri.MAYBE, str(error))
        return Tri.MAYBE, (step,)
    lost = [end for end in ends if end.verdict is not Verdict.ACCEPT]
    shown = max(lost or ends, key=lambda end: end.branch.probability)
    if not lost:
        return Tri.YES, shown.branch.steps()
    sure = len(lost) == len(ends) and not any(end.branch.opaque for end in ends)
    return Tri.NO if sure else Tri.MAYBE, shown.branch.steps()


def _ends(node: Node, answer: Packet) -> list[End]:
    if node.facts.is_local(answer.src):
        return node.from_node(Branch(answer))
    route = node.facts.route(answer.src)
    iif = route.oif or None if route else None
    return node.from_network(Branch(replace(answer, iif=iif)))
