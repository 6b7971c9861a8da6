"""
The way back: what becomes of an endpoint's answer, and who undoes which translation.

Addresses are rewritten back by whoever rewrote them: connection tracking or IPVS on this node. So
an answer that does not pass this node again reaches the client with the endpoint's address, and the
client drops it. Netfilter rewrites an answer's destination before routing (prerouting) and its
source behind it (input, postrouting); IPVS its source at forward, input and output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from diagnostics.cluster.names import Names
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.trace.answering import followed_back
from diagnostics.trace.build import node_of
from diagnostics.trace.facts import Facts
from diagnostics.trace.node import Node
from diagnostics.trace.packet import Address, Packet, place_text
from diagnostics.trace.report import Destination, Trace
from diagnostics.trace.snapshot_facts import SnapshotFacts
from diagnostics.trace.walk import Step, Tri, Verdict
from proxy.model.addresses import IPFamily

# Of so many endpoints the answers are followed; those of the others fare alike nearly always.
_MOST_FOLLOWED = 32
CONNTRACK, IPVS = "conntrack", "ipvs"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    What helps to tell who is who; ``node`` is this node's name, "" if unknown.

    ``hooks`` returns the node's listeners, which answers meet; None: nobody follows answers.
    """

    facts: Facts
    names: Names
    node: str = ""
    hooks: Callable[[IPFamily], Node] | None = None

    @classmethod
    def of(cls, snapshot: NodeSnapshot, names: Names | None = None) -> Surroundings:
        """Return those of a snapshot; *names* if they were read already."""
        hooks = functools.cache(lambda family: node_of(snapshot, family))
        return cls(SnapshotFacts(snapshot), names or Names.of(snapshot), snapshot.name, hooks)

    def is_here(self, address: Address) -> bool | None:
        """Return whether an address is this node's or that of a Pod on it; None: not known."""
        if self.facts.is_local(address):
            return True
        host = self.names.host(address)
        return None if not host or not self.node else host == self.node


@dataclass(frozen=True, slots=True)
class Rewrite:
    """
    One translation that is undone.

    Attributes:
        hook: where, as in a Step.
        by: conntrack or ipvs.
        field: source or destination, of the answer.
        before, after: what it is before and behind that place; ``address:port``, or
            words where the address is not known.
    """

    hook: str
    by: str
    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Reply:
    """
    An endpoint's answer.

    Attributes:
        destination: the endpoint that answers.
        passes: whether the answer comes by this node again.
        why: the reason, one sentence without its stop.
        rewrites: what this node does with it if it comes by, in order.
        delivered: whether the node's rules let it through if it comes by; None: not followed.
        steps: the rules on its way, those that drop it if it is dropped.
    """

    destination: Destination
    passes: Tri
    why: str
    rewrites: tuple[Rewrite, ...] = ()
    delivered: Tri | None = None
    steps: tuple[Step, ...] = ()


def replies(trace: Trace, around: Surroundings) -> tuple[Reply, ...]:
    """Return the way back for each destination, in their order; () where nothing answers."""
    arrived = {
        (end.branch.packet.dst, end.branch.packet.dport, end.branch.packet.source_rewritten): end
        for end in trace.ends
        if end.verdict is Verdict.ACCEPT and end.branch.packet.is_translated
    }
    return tuple(
        _reply(
            arrived[one.address, one.port, one.masquerade].branch.packet,
            one,
            around if number < _MOST_FOLLOWED else replace(around, hooks=None),
        )
        for number, one in enumerate(trace.destinations)
    )


def _reply(packet: Packet, endpoint: Destination, around: Surroundings) -> Reply:
    passes, why = _comes_by(packet, endpoint, around)
    rewrites = () if passes is Tri.NO else tuple(_rewrites(packet, endpoint, around))
    if passes is Tri.NO:
        return Reply(endpoint, passes, why)
    client = _seen_from(packet, endpoint, around)
    if around.hooks is None or client is None or packet.via_ipvs:
        return Reply(endpoint, passes, why, rewrites)
    family = IPFamily.IPV4 if packet.family == 4 else IPFamily.IPV6
    delivered, steps = followed_back(around.hooks(family), packet, client)
    return Reply(endpoint, passes, why, rewrites, delivered, steps)


def _seen_from(packet: Packet, endpoint: Destination, around: Surroundings) -> Address | None:
    return _seen_address(packet, around) if endpoint.masquerade else packet.src


def _comes_by(packet: Packet, endpoint: Destination, around: Surroundings) -> tuple[Tri, str]:
    if endpoint.masquerade:
        return Tri.YES, "the endpoint saw an address of this node as the source and answers to it"
    if packet.src == endpoint.address and not around.facts.is_local(packet.src):
        return Tri.NO, (
            "the endpoint is the client and sees its own address as the source: "
            "it answers itself, and the answer is not recognised"
        )
    if around.is_here(packet.src):
        return Tri.YES, "the client is on this node"
    here = around.is_here(endpoint.address)
    if here:
        return Tri.YES, "the endpoint is on this node"
    where = around.names.host(endpoint.address)
    whose = (
        f"the endpoint is on {where}"
        if here is False
        else "it is not known where the endpoint runs"
    )
    return Tri.MAYBE, (
        f"{whose}; it sees the client's own address, and only if its way to {packet.src} leads "
        "through this node is the answer translated back: if not, the client drops it"
    )


def _rewrites(packet: Packet, endpoint: Destination, around: Surroundings) -> Iterator[Rewrite]:
    client = str(packet.src)
    if endpoint.masquerade:
        yield Rewrite("prerouting", CONNTRACK, "destination", _seen_as(packet, around), client)
    place, called = place_text(endpoint.address, endpoint.port), place_text(*packet.original)
    to_node = bool(around.facts.is_local(packet.src))
    if packet.via_ipvs:
        from_node = bool(around.facts.is_local(endpoint.address))
        hook = "output" if from_node else "input" if to_node else "forward"
        yield Rewrite(hook, IPVS, "source", place, called)
    else:
        yield Rewrite("input" if to_node else "postrouting", CONNTRACK, "source", place, called)


def _seen_as(packet: Packet, around: Surroundings) -> str:
    return str(_seen_address(packet, around) or "this node's address")


def _seen_address(packet: Packet, around: Surroundings) -> Address | None:
    """Return the address that MASQUERADE chooses: that of the device which the packet leaves by."""
    route = around.facts.route(packet.dst)
    if route and route.source:
        return route.source
    own = around.facts.device_addresses(packet.oif) if packet.oif else None
    fitting = [one for one in own or () if one.version == packet.family and not one.is_link_local]
    return fitting[0] if fitting else None
