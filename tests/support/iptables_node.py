"""iptables rules of made-up services, written to tables in memory as the reconciler writes them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from proxy.backends.iptables import names
from proxy.backends.iptables.restore import Section, render
from proxy.backends.iptables.ruleset import IptablesRules, removals
from proxy.backends.iptables.settings import COUNTERS, IptablesSettings
from proxy.backends.settings import LocalTraffic
from proxy.model.addresses import IPFamily
from proxy.model.services import ServicePortName
from proxy.plan.service_plan import ServicePortPlan
from tests.support.fake_iptables import FakeIptables
from tests.support.iptables_text import service_port
from tests.support.plans import ServiceGenerator, network

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
SETTINGS = {
    V4: IptablesSettings(V4, local_traffic=LocalTraffic(network=network("10.0.0.0/8"))),
    V6: IptablesSettings(V6, local_traffic=LocalTraffic(interface_prefix="veth")),
}
LOCALHOST = replace(SETTINGS[V4], localhost_node_ports=True, counters=frozenset(COUNTERS))
Plans = dict[ServicePortName, ServicePortPlan]


class Node:
    """Rules and the tables they were written to."""

    def __init__(self, settings: IptablesSettings = SETTINGS[V4]) -> None:
        self.rules = IptablesRules(settings)
        self.kernel = FakeIptables()

    def run(self, sections: Iterable[Section]) -> None:
        if filled := [section for section in sections if section]:
            self.kernel.restore(render(filled))

    def state(
        self, plans: Iterable[ServicePortPlan], *, comments: bool = True, size: int = 5
    ) -> None:
        """State everything, bottom-up."""
        placed, shared = {}, {}
        self.run(self.rules.skeleton(self.chains()))
        for chunk in self.rules.chunks(plans, endpoint_comments=comments, size=size):
            self.run([chunk.section])
            placed |= chunk.placed
            shared |= chunk.shared
        self.run(self.rules.dispatch(shared))
        self.rules.replace(placed)

    def change(
        self, changes: Mapping[ServicePortName, ServicePortPlan | None], *, comments: bool = True
    ) -> None:
        change = self.rules.change(changes, endpoint_comments=comments)
        self.run(change.sections)
        self.rules.commit(change.placed)

    def prune(self, size: int = 5) -> None:
        for section in removals(self.rules.stale_chains(self.chains()), size):
            self.run([section])

    def chains(self) -> dict[str, frozenset[str]]:
        return {table: self.kernel.chains(table) for table in ("mangle", "nat", "filter")}


def fresh(settings: IptablesSettings, plans: Plans) -> Node:
    node = Node(settings)
    node.state(plans.values())
    return node


def by_name(*plans: ServicePortPlan) -> Plans:
    return {each.name: each for each in plans}


def apply(plans: Plans, changes: Mapping[ServicePortName, ServicePortPlan | None]) -> Plans:
    return {name: p for name, p in (plans | changes).items() if p is not None}


@dataclass
class Rounds:
    """A sequence of changes of a dozen Services and what they make of the plans."""

    family: IPFamily
    seed: int

    def __iter__(self) -> Iterator[tuple[Plans, dict[ServicePortName, ServicePortPlan | None]]]:
        draw = random.Random(self.seed)
        made = ServiceGenerator(self.seed, self.family)
        plans: Plans = {}
        for _ in range(25):
            changes: dict[ServicePortName, ServicePortPlan | None] = {}
            for number in draw.sample(range(12), draw.choice((1, 1, 2, 6))):
                new = made.plan(number)
                changes[new.name] = None if draw.random() < 0.2 else new
            plans = apply(plans, changes)
            yield plans, changes


Face = tuple[tuple[object, ...], frozenset[tuple[str, str]]]


def face(kernel: FakeIptables, owner: str, *, deep: bool = True) -> Face:
    """
    How packets to a service port fare: its translations and its refusals.

    *deep* follows the translations to the end.
    """
    translated = [
        kernel.followed(rule) if deep else rule
        for chain in (names.SERVICES, names.NODEPORTS)
        for rule in kernel.rules("nat", chain)
        if service_port(rule) == owner
    ]
    refused = {
        (chain, rule)
        for chain in (names.SERVICES, names.EXTERNAL_SERVICES, names.PROXY_FIREWALL)
        for rule in kernel.rules("filter", chain)
        if service_port(rule) == owner
    }
    return tuple(translated), frozenset(refused)


def stands_for(found: Face, state: Face) -> bool:
    """Whether packets fare as in *state*: refusals too many do no harm to what is translated."""
    return found[0] == state[0] and found[1] >= state[1]
