"""
Plans of all service ports of one family, kept up to date service by service.

Two Services may claim one address and port. kube-proxy lets whichever it writes last win, anew at
each sync; here the Service that was created first keeps it, the other one is reported, and gets
the address when the first lets go of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from proxy.model.addresses import unpack_address
from proxy.model.endpoints import Endpoint, PortKey
from proxy.model.services import ServiceName, ServicePort, ServicePortName
from proxy.plan.service_plan import Frontend, ServicePortPlan, plan_service_port
from proxy.plan.topology import Location

Changes = dict[ServicePortName, ServicePortPlan | None]
ClaimKey = bytes  # address (empty for a NodePort), protocol number, port


class Conflict(NamedTuple):
    """A frontend that a service port asked for and did not get."""

    loser: ServicePortName
    winner: ServicePortName
    frontend: str


def claim_key(plan: ServicePortPlan, frontend: Frontend) -> ClaimKey:
    """Return what a frontend occupies: no two service ports can have the same."""
    return frontend.address + bytes((plan.protocol,)) + frontend.port.to_bytes(2, "big")


def claim_text(plan: ServicePortPlan, frontend: Frontend) -> str:
    """Return a frontend as people write it: ``10.0.0.1:80/TCP`` or ``nodePort 30080/TCP``."""
    protocol = plan.name.protocol
    if not frontend.address:
        return f"nodePort {frontend.port}/{protocol}"
    address = unpack_address(frontend.address)
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{frontend.port}/{protocol}"


class Planner:
    """The plans of one family; ``update`` costs as much as the service it is given."""

    def __init__(self, location: Location, node_address: bytes | None) -> None:
        self.location = location
        self.node_address = node_address
        self._plans: dict[ServicePortName, ServicePortPlan] = {}
        self._ports_of: dict[ServiceName, tuple[ServicePortName, ...]] = {}
        self._endpoint_counts: dict[ServicePortName, int] = {}
        self.endpoint_total = 0  # of all service ports, ready or not
        self._owners: dict[ClaimKey, ServicePortName] = {}
        self._contenders: dict[ClaimKey, set[ServicePortName]] = {}

    def __len__(self) -> int:
        return len(self._plans)

    def plans_of(self, service: ServiceName) -> tuple[ServicePortPlan, ...]:
        """Return the plans in force for a Service's ports, conflicts settled."""
        return tuple(self.effective(name) for name in self._ports_of.get(service, ()))

    def all_effective(self) -> Iterable[ServicePortPlan]:
        """Return all plans in force."""
        return map(self.effective, self._plans)

    def effective(self, name: ServicePortName) -> ServicePortPlan:
        """Return the plan of a service port without the frontends that another one holds."""
        plan = self._plans[name]
        if not self._contenders:
            return plan
        kept = tuple(f for f in plan.frontends if self._owners[claim_key(plan, f)] == name)
        return plan if len(kept) == len(plan.frontends) else replace(plan, frontends=kept)

    def conflicts(self) -> list[Conflict]:
        """Return every frontend that is claimed more than once, losers by name."""
        found = []
        for key, names in self._contenders.items():
            winner = self._owners[key]
            for loser in sorted(names - {winner}):
                found.append(Conflict(loser, winner, self._text_of(loser, key)))
        return found

    def update(
        self,
        service: ServiceName,
        ports: tuple[ServicePort, ...],
        endpoints: Mapping[PortKey, tuple[Endpoint, ...]],
    ) -> Changes:
        """
        Plan a Service anew; no ports means it is gone.

        Returns:
            The service ports whose plan in force differs from before (None: gone), those of other
            Services that won or lost a contested frontend included.
        """
        new = {port.name: self._plan(port, endpoints) for port in ports}
        old_names = self._ports_of.get(service, ())
        before: Changes = {name: self._in_force(name) for name in (*old_names, *new)}
        for name in old_names:
            if name not in new:
                self._count_endpoints(name, 0)
                self._release(self._plans.pop(name), before)
        for name, plan in new.items():
            previous = self._plans.get(name)
            if previous != plan:
                self._plans[name] = plan
                self._reclaim(previous, plan, before)
        if new:
            self._ports_of[service] = tuple(new)
        else:
            self._ports_of.pop(service, None)
        after = {name: self._in_force(name) for name in before}
        return {name: plan for name, plan in after.items() if plan != before[name]}

    def _in_force(self, name: ServicePortName) -> ServicePortPlan | None:
        return self.effective(name) if name in self._plans else None

    def _plan(
        self, port: ServicePort, endpoints: Mapping[PortKey, tuple[Endpoint, ...]]
    ) -> ServicePortPlan:
        mine = endpoints.get((port.name.port, port.name.protocol), ())
        self._count_endpoints(port.name, len(mine))
        return plan_service_port(port, mine, self.location, self.node_address)

    def _count_endpoints(self, name: ServicePortName, count: int) -> None:
        self.endpoint_total += count - self._endpoint_counts.pop(name, 0)
        if count:
            self._endpoint_counts[name] = count

    def _reclaim(
        self,
        previous: ServicePortPlan | None,
        plan: ServicePortPlan,
        before: Changes,
    ) -> None:
        wanted = {claim_key(plan, frontend) for frontend in plan.frontends}
        held = {claim_key(previous, f) for f in previous.frontends} if previous else set()
        for key in held - wanted:
            self._let_go(key, plan.name, before)
        for key in wanted - held:
            self._claim(key, plan.name, before)
        for key in wanted & held & self._contenders.keys():
            # Made anew under the same name, the Service has another age.
            self._settle(key, self._contenders[key], before)

    def _claim(self, key: ClaimKey, name: ServicePortName, before: Changes) -> None:
        owner = self._owners.setdefault(key, name)
        if owner == name:
            return
        names = self._contenders.setdefault(key, {owner})
        names.add(name)
        self._settle(key, names, before)

    def _release(self, plan: ServicePortPlan, before: Changes) -> None:
        for key in {claim_key(plan, frontend) for frontend in plan.frontends}:
            self._let_go(key, plan.name, before)

    def _let_go(self, key: ClaimKey, name: ServicePortName, before: Changes) -> None:
        names = self._contenders.get(key)
        if names is None:
            del self._owners[key]
            return
        names.discard(name)
        self._settle(key, names, before)
        if len(names) == 1:
            del self._contenders[key]

    def _settle(self, key: ClaimKey, names: set[ServicePortName], before: Changes) -> None:
        winner = min(names, key=lambda name: (self._plans[name].created, name))
        loser = self._owners[key]
        if winner != loser:
            for name in (winner, loser):
                if name not in before:  # a port of another Service
                    before[name] = self._in_force(name)
            self._owners[key] = winner

    def _text_of(self, name: ServicePortName, key: ClaimKey) -> str:
        plan = self._plans[name]
        return next(claim_text(plan, f) for f in plan.frontends if claim_key(plan, f) == key)
