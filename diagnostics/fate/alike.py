"""
Service ports that are planned alike, so that what is intended for one tells it for the others.

Compiled rules are a function of plans. Two plans that differ in names and addresses alone are
compiled to rules that differ in these alone, and calls to them end alike but for the addresses. An
outcome that is what such a sibling's rules intend therefore agrees; any other must be compared with
what the service port's own rules intend. Where third parties treat siblings differently, the actual
outcome is not like the sibling's, and so it is looked at in full.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from diagnostics.fate.clients import OWN_ENDPOINT, Clients
from diagnostics.fate.frontends import Frontend, frontends_of
from diagnostics.fate.probes import Call, Outcome
from diagnostics.trace.packet import Address
from proxy.plan.service_plan import ServicePortPlan, Target


@dataclass(frozen=True, slots=True)
class _Shape:
    """A plan without its names and addresses; ``numbers`` are those of its endpoints."""

    plan: ServicePortPlan
    numbers: Mapping[tuple[Address, int], int]
    frontends: Mapping[Frontend, int]
    key: Hashable


class Alike:
    """
    Intended outcomes by the shape of plans; frontends without a plan are like no other.

    Args:
        plans: The plans of one family.
        clients: Who calls, and which addresses the node has.
    """

    def __init__(self, plans: Iterable[ServicePortPlan], clients: Clients) -> None:
        self._own = frozenset(clients.node_addresses)
        self._plans = {front: plan for plan in plans for front in frontends_of(plan)}
        self._last: _Shape | None = None  # calls to one service port follow each other
        self._intended: dict[Hashable, Hashable] = {}

    def agrees(self, call: Call, actual: Outcome) -> bool | None:
        """Return whether *actual* is what siblings intend; None when none was learnt of."""
        shape = self._shape(call)
        intended = None if shape is None else self._intended.get(self._key(shape, call))
        if shape is None or intended is None:
            return None
        return intended == _renamed(shape, actual)

    def learn(self, call: Call, intended: Outcome) -> None:
        """Take in what the compiled rules intend for a call."""
        shape = self._shape(call)
        if shape is not None:
            self._intended[self._key(shape, call)] = _renamed(shape, intended)

    def _shape(self, call: Call) -> _Shape | None:
        plan = self._plans.get(call.frontend)
        if plan is None or (self._last is not None and self._last.plan is plan):
            return None if plan is None else self._last
        self._last = self._made(plan)
        return self._last

    def _made(self, plan: ServicePortPlan) -> _Shape:
        places: dict[Target, int] = {}
        for target in (*plan.cluster, *plan.local, *plan.on_node):
            places.setdefault(target, len(places))
        pools = (plan.cluster, plan.local, plan.on_node)
        numbers = {_place(target): number for target, number in places.items()}
        hosts = {target[:-2]: number for target, number in places.items()}
        key = (
            plan.protocol,
            tuple(self._role(one.address, one[0], *one[3:]) for one in plan.frontends),
            tuple(tuple(places[target] for target in pool) for pool in pools),
            tuple(address in self._own for address, _ in numbers),
            tuple(hosts.get(address, -1) for address in plan.hairpins),
            plan.affinity_timeout_s,
            plan.source_ranges,
            plan.own_sources,
        )
        fronts = {front: number for number, front in enumerate(frontends_of(plan))}
        return _Shape(plan, numbers, fronts, key)

    def _role(self, address: bytes, *traits: object) -> Hashable:
        return bool(address) and ip_address(address) in self._own, *traits

    def _key(self, shape: _Shape, call: Call) -> Hashable:
        client, frontend = call.client, call.frontend
        calls_itself = client.kind == OWN_ENDPOINT
        return (
            shape.key,
            shape.frontends[frontend],
            client.kind,
            client.iface,
            None if calls_itself else client.address,
            tuple(n for (address, _), n in shape.numbers.items() if address == client.address),
            None if frontend.address else call.address,
        )


def _place(target: Target) -> tuple[Address, int]:
    return ip_address(target[:-2]), int.from_bytes(target[-2:], "big")


def _renamed(shape: _Shape, outcome: Outcome) -> Hashable:
    """Return an outcome with endpoints by number; one that is not planned stays as it is."""
    shares = frozenset(
        (shape.numbers.get((one.address, one.port), one), one.masquerade, share)
        for one, share in outcome.shares
    )
    return outcome.verdict, outcome.certainty, outcome.known, shares
