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
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

from diagnostics.trace.facts import Facts
from diagnostics.trace.walk import Branch, End, Step, Tri, Verdict, either


class Hook(enum.Enum):
    """Netfilter's hooks of the IP families, and that of the device a packet comes in on."""

    INGRESS = "ingress"
    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"


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

    def run(self, branch: Branch) -> Iterable[End]:
        """Return how the branch may leave this listener."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node's listeners, in any order, and its facts."""

    listeners: Sequence[Listener]
    facts: Facts

    def from_network(self, branch: Branch) -> list[End]:
        """Return how a packet that came in on an interface may end."""
        ends = self._then(self._at(Hook.INGRESS, branch), self._from_device)
        return list(ends)

    def _from_device(self, branch: Branch) -> Iterator[End]:
        yield from self._then(self._at(Hook.PREROUTING, branch), self._route_in)

    def from_node(self, branch: Branch) -> list[End]:
        """Return how a packet of one of the node's own processes may end."""
        leaving = branch.as_(replace(branch.packet, oif=self._way_out(branch)))
        return list(self._then(self._at(Hook.OUTPUT, leaving), self._leave))

    def _route_in(self, branch: Branch) -> Iterator[End]:
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
        route = self.facts.route(branch.packet.dst, branch.packet)
        if route and route.refusal:
            yield self._refused(branch, route.refusal)
            return
        oif = route.oif if route else None
        branch = self._routed(branch, f"device {oif}" if oif else "an unknown device", Tri.YES)
        forwarded = branch.as_(replace(branch.packet, oif=oif))
        yield from self._then(self._at(Hook.FORWARD, forwarded), self._post)

    def _refused(self, branch: Branch, kind: str) -> End:
        """Return the end at a route that lets nothing through; a blackhole does not answer."""
        refused = self._routed(branch, f"a route of type {kind}", Tri.YES)
        if kind == "blackhole":
            return End(refused, Verdict.DROP)
        return End(refused, Verdict.REJECT, f"host {kind}")

    def _leave(self, branch: Branch) -> Iterator[End]:
        yield from self._post(branch.as_(replace(branch.packet, oif=self._way_out(branch))))

    def _way_out(self, branch: Branch) -> str | None:
        """Return the device by which the node's own packet leaves, None if it is not known."""
        if self.facts.is_local(branch.packet.dst):
            return "lo"
        route = self.facts.route(branch.packet.dst)
        return route.oif if route else None

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
        for _, group in groupby(self._listening(hook), key=lambda listener: listener.priority):
            equals = tuple(group)
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
        here = [listener for listener in self.listeners if listener.hook is hook]
        return sorted(here, key=lambda listener: listener.priority)

    def _through(self, listener: Listener, ends: Iterable[End]) -> Iterator[End]:
        for end in ends:
            if end.verdict is not Verdict.ACCEPT or _is_settled(listener, end.branch):
                yield end
            else:
                yield from listener.run(end.branch)

    def _then(self, ends: Iterable[End], on: Callable[[Branch], Iterable[End]]) -> Iterator[End]:
        for end in ends:
            if end.verdict is Verdict.ACCEPT:
                yield from on(end.branch)
            else:
                yield end


def _is_settled(listener: Listener, branch: Branch) -> bool:
    if not listener.is_nat:
        return False
    if listener.hook in (Hook.INPUT, Hook.POSTROUTING):
        return branch.packet.source_rewritten
    return branch.packet.is_translated
