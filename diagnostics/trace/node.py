"""
A node as packets see it: hooks in order, and at each hook whoever listens there.

    from outside or a pod:  INGRESS → PREROUTING → routing → INPUT or FORWARD → POSTROUTING
    from the node itself:   routing → OUTPUT → routing → POSTROUTING

IPVS takes packets for its virtual servers out of INPUT and sends them on through OUTPUT and
POSTROUTING. Of all NAT rules at one hook only the first that translates counts, because a
connection is translated once. Among listeners of one priority the kernel asks the one that was
registered last first; no dump tells when that was, so that both orders are followed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Protocol

from diagnostics.trace.facts import Facts, Route
from diagnostics.trace.packet import UDP, Packet
from diagnostics.trace.routing_checks import (
    PASSES,
    Doubt,
    not_forwarded,
    odd_addresses,
    unless_allowed,
)
from diagnostics.trace.walk import Branch, End, Step, Tri, Verdict, either


class Hook(enum.Enum):
    """Netfilter's hooks of the IP families, and that of the device a packet comes in on."""

    INGRESS = "ingress"
    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"


# What a route that refuses answers, of IPv4 and IPv6 (fib_props[], ip6_rt_type_to_error()): the
# ICMP code that others get, the error that a program of the node itself gets.
_ANSWERS = {
    4: {"prohibit": "admin-prohibited", "unreachable": "host-unreachable"},
    6: {"prohibit": "adm-prohibited", "unreachable": "no-route"},
}
_ERRORS = {"prohibit": "EACCES", "unreachable": "EHOSTUNREACH", "blackhole": "EINVAL"}


class Listener(Protocol):
    """Something registered at a hook: a built-in chain, a base chain, IPVS."""

    @property
    def hook(self) -> Hook:
        """Where it listens."""

    @property
    def priority(self) -> int:
        """Lower comes first."""

    @property
    def is_nat(self) -> bool:
        """Whether it is asked only for the first packet, and only until somebody translates."""

    @property
    def reroutes(self) -> bool:
        """Whether the node's own packets are routed again if this changes mark or addresses."""

    def run(self, branch: Branch) -> Iterable[End]:
        """Return how the branch may leave this listener."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node's listeners, in any order, and its facts."""

    listeners: Sequence[Listener]
    facts: Facts
    _by_hook: dict[Hook, list[tuple[Listener, ...]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def from_network(self, branch: Branch) -> list[End]:
        """Return how a packet that came in on an interface may end."""
        ends = self._then(self._at(Hook.INGRESS, branch), self._from_device)
        return list(ends)

    def _from_device(self, branch: Branch) -> Iterator[End]:
        yield from self._then(self._at(Hook.PREROUTING, branch), self._route_in)

    def from_node(self, branch: Branch) -> list[End]:
        """Return how a packet of one of the node's own processes may end."""
        branch = branch.as_(replace(branch.packet, routed_mark=branch.packet.mark))
        return list(self._routed_out(branch, self._send))

    def _send(self, branch: Branch) -> Iterator[End]:
        yield from self._then(self._at(Hook.OUTPUT, branch), self._leave)

    def _route_in(self, branch: Branch) -> Iterator[End]:
        yield from self._unless(odd_addresses(branch.packet, self.facts), branch, self._to_where)

    def _unless(
        self, doubt: Doubt, branch: Branch, on: Callable[[Branch], Iterator[End]]
    ) -> Iterator[End]:
        """Go on, unless the kernel drops the packet here."""
        if doubt.drops is Tri.NO:
            yield from on(branch)
            return
        met = branch.met(Step("routing", "", "", "", doubt.text, doubt.drops, doubt.why))
        dropped = [End(met, Verdict.DROP)]
        yield from dropped if doubt.drops is Tri.YES else either(dropped, on(met))

    def _to_where(self, branch: Branch) -> Iterator[End]:
        packet = branch.packet
        local = self.facts.is_local(packet.dst)
        if local is None:
            yield from either(
                self._deliver(self._routed(branch, "this node", Tri.MAYBE)),
                self._forward(self._routed(branch, "another host", Tri.MAYBE)),
            )
        elif local:
            yield from self._deliver(self._routed(branch, "this node", Tri.YES))
        else:
            yield from self._forward(branch)

    def _deliver(self, branch: Branch) -> Iterator[End]:
        yield from self._then(self._at(Hook.INPUT, branch), self._after_input)

    def _after_input(self, branch: Branch) -> Iterator[End]:
        if branch.packet.via_ipvs:
            yield from self._then(self._at(Hook.OUTPUT, branch), self._leave)
        else:
            yield End(branch, Verdict.ACCEPT)

    def _forward(self, branch: Branch) -> Iterator[End]:
        packet = branch.packet
        route = self.facts.route(packet.dst, packet)
        doubt = not_forwarded(packet, self.facts)
        if route is None or not (route.refusal or route.is_local):
            oif = route.oif if route else None
            yield from self._unless(doubt, branch, lambda here: self._pass_on(here, oif))
            return
        if route.is_local:
            where = "this node, by a route of type local"
            special: Iterable[End] = self._deliver(self._routed(branch, where, Tri.YES))
        elif doubt.drops is Tri.YES and packet.family == 4:
            special = self._unless(doubt, branch, self._to_where)
        else:
            special = [self._refused(branch, route.refusal)]
        if route.is_certain:
            yield from special
        else:
            other = self._unless(doubt, branch, lambda here: self._pass_on(here, None))
            yield from either(special, other)

    def _pass_on(self, branch: Branch, oif: str | None) -> Iterator[End]:
        branch = self._routed(branch, f"device {oif}" if oif else "an unknown device", Tri.YES)
        forwarded = branch.as_(replace(branch.packet, oif=oif))
        yield from self._then(self._at(Hook.FORWARD, forwarded), self._post)

    def _refused(self, branch: Branch, kind: str) -> End:
        """Return the end at a route that lets nothing through; a blackhole does not answer."""
        refused = self._routed(branch, f"a route of type {kind}", Tri.YES)
        if kind == "blackhole":
            return End(refused, Verdict.DROP)
        return End(refused, Verdict.REJECT, _ANSWERS[branch.packet.family][kind])

    def _leave(self, branch: Branch) -> Iterator[End]:
        yield from self._routed_out(branch, self._post, was_sent=True)

    def _routed_out(
        self, branch: Branch, on: Callable[[Branch], Iterator[End]], *, was_sent: bool = False
    ) -> Iterator[End]:
        """Go on where the node's own packet leaves, unless its route refuses."""
        packet = branch.packet
        route = self._own_route(packet)
        leaving = branch.as_(replace(packet, oif=route.oif if route else None))
        if route is None or not route.refusal:
            doubt = self._stays_inside(leaving.packet)
            met = branch.met(Step("routing", "", "", "", doubt.text, doubt.drops, doubt.why))
            refused = _not_sent(met, "EINVAL", was_sent=was_sent)
        else:
            doubt = Doubt(Tri.YES if route.is_certain else Tri.MAYBE)
            met = self._routed(branch, f"a route of type {route.refusal}", doubt.drops)
            refused = _not_sent(met, _ERRORS[route.refusal], was_sent=was_sent)
            leaving = branch.as_(replace(packet, oif=None))
        if doubt.drops is Tri.NO:
            yield from on(leaving)
        elif doubt.drops is Tri.YES:
            yield refused
        else:
            yield from either([refused], on(replace(leaving, trail=met.trail)))

    def _own_route(self, packet: Packet) -> Route | None:
        """Return the route of a packet of the node itself, None if it is not known."""
        if self.facts.is_local(packet.dst):
            return Route("lo", None, is_local=True)
        routed = replace(packet, mark=packet.routed_mark, iif="")
        return self.facts.route(packet.dst, routed)

    def _stays_inside(self, packet: Packet) -> Doubt:
        """Return whether a packet may not leave: no route takes 127.0.0.1 out as a source."""
        inside = packet.oif in ("lo", None) or packet.via_ipvs
        if packet.family == 6 or not packet.src.is_loopback or inside:
            return PASSES
        text = f"{packet.src} is to leave by {packet.oif}"
        return unless_allowed(packet.oif, "route_localnet", text, self.facts, by_default=False)

    def _post(self, branch: Branch) -> Iterator[End]:
        ends = self._at(Hook.POSTROUTING, branch)
        if branch.packet.oif == "lo":
            # It comes in again on the loopback device; NAT has seen the connection already.
            yield from self._then(ends, self._loop)
        else:
            yield from ends

    def _loop(self, branch: Branch) -> Iterator[End]:
        arrived = branch.as_(replace(branch.packet, iif="lo", oif=""))
        ends = [End(arrived, Verdict.ACCEPT)]
        for hook in (Hook.INGRESS, Hook.PREROUTING, Hook.INPUT):
            for listener in self._listening(hook):
                if not listener.is_nat:
                    ends = list(self._through(listener, ends))
        yield from ends

    def _routed(self, branch: Branch, where: str, result: Tri) -> Branch:
        text = f"{branch.packet.dst} goes to {where}"
        return branch.met(Step("routing", "", "", "", text, result, ""))

    def _at(self, hook: Hook, branch: Branch) -> list[End]:
        """Return how a branch may leave a hook."""
        ends = [End(branch, Verdict.ACCEPT)]
        for equals in self._turns(hook):
            ends = [passed for end in ends for passed in self._through_equals(equals, end)]
        return ends

    def _through_equals(self, equals: Sequence[Listener], end: End) -> Iterable[End]:
        """Return how a branch may leave listeners of one priority, in whichever order."""
        if len(equals) == 1:
            return self._through(equals[0], [end])
        ends = list(either(self._in_turn(equals, end), self._in_turn(equals[::-1], end)))
        if end.branch.maybe or not any(one.branch.maybe for one in ends):
            return ends
        text = f"{len(equals)} base chains of priority {equals[0].priority}"
        why = "the one registered last comes first, and nothing tells which that is"
        step = Step(equals[0].hook.value, "", "", "order", text, Tri.MAYBE, why)
        told = replace(end, branch=end.branch.met(step))
        return either(self._in_turn(equals, told), self._in_turn(equals[::-1], told))

    def _in_turn(self, listeners: Iterable[Listener], end: End) -> list[End]:
        ends = [end]
        for listener in listeners:
            ends = list(self._through(listener, ends))
        return ends

    def _listening(self, hook: Hook) -> list[Listener]:
        return [listener for equals in self._turns(hook) for listener in equals]

    def _turns(self, hook: Hook) -> list[tuple[Listener, ...]]:
        """Return who listens at a hook, those of one priority together."""
        turns = self._by_hook.get(hook)
        if turns is None:
            here = [listener for listener in self.listeners if listener.hook is hook]
            here.sort(key=_priority)
            turns = self._by_hook[hook] = [tuple(group) for _, group in groupby(here, _priority)]
        return turns

    def _through(self, listener: Listener, ends: Iterable[End]) -> Iterator[End]:
        for end in ends:
            if end.verdict is not Verdict.ACCEPT or _is_settled(listener, end.branch):
                yield end
            else:
                yield from (
                    _rerouted(listener, end.branch, one) for one in listener.run(end.branch)
                )

    def _then(self, ends: Iterable[End], on: Callable[[Branch], Iterable[End]]) -> Iterator[End]:
        for end in ends:
            if end.verdict is Verdict.ACCEPT:
                yield from on(end.branch)
            else:
                yield end


def _priority(listener: Listener) -> int:
    return listener.priority


def _rerouted(listener: Listener, before: Branch, end: End) -> End:
    """Return the end with the mark that its route was looked up by, if that was done again."""
    old, new = before.packet, end.branch.packet
    if listener.hook is not Hook.OUTPUT or not listener.reroutes:
        return end
    moved = (old.dst, old.src) != (new.dst, new.src)
    if not moved and (listener.is_nat or old.mark == new.mark):
        return end
    return replace(end, branch=end.branch.as_(replace(new, routed_mark=new.mark)))


def _not_sent(branch: Branch, error: str, *, was_sent: bool) -> End:
    """
    Return the end of the node's own packet that has no route.

    Its program is told by an error, but not of TCP's SYN once that was sent: it is sent again.
    """
    if was_sent and branch.packet.protocol != UDP:
        return End(branch, Verdict.DROP)
    return End(branch, Verdict.REJECT, error)


def _is_settled(listener: Listener, branch: Branch) -> bool:
    if not listener.is_nat:
        return False
    if branch.packet.answers is not None:
        return True
    if listener.hook in (Hook.INPUT, Hook.POSTROUTING):
        return branch.packet.source_rewritten
    return branch.packet.is_translated
