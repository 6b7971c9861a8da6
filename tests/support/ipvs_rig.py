"""IPVS mode on a kernel in memory: its reconciler alone, and the engine around it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from proxy.backends.ipvs.settings import IpvsSettings
from proxy.engine.ipvs.plane import IpvsOptions, IpvsPlane
from proxy.engine.ipvs.reconciler import IpvsReconciler
from proxy.model.addresses import IPFamily, pack_address
from proxy.model.services import ServicePortName
from proxy.netfilter.ipvs import ServerKey
from proxy.plan.service_plan import ServicePortPlan
from tests.support.engine_rig import PROTOCOLS, V4, FakeTime, Rig
from tests.support.fake_ipvs import FakeNode
from tests.support.plans import ServiceGenerator

Plans = dict[ServicePortName, ServicePortPlan]
LIMIT_S = 3600.0


def packed(text: str) -> bytes:
    """The bytes of an address."""
    found = pack_address(text)
    assert found is not None, text
    return found


def key(ip: str, port: int = 80, protocol: str = "TCP") -> ServerKey:
    """A virtual server's identity."""
    return ServerKey(packed(ip), port, PROTOCOLS[protocol])


def by_name(*plans: ServicePortPlan) -> Plans:
    return {each.name: each for each in plans}


@dataclass
class Rounds:
    """A sequence of changes of a dozen Services and what they make of the plans."""

    family: IPFamily
    seed: int
    rounds: int = 20

    def __iter__(self) -> Iterator[tuple[Plans, dict[ServicePortName, ServicePortPlan | None]]]:
        draw = random.Random(self.seed)
        made = ServiceGenerator(self.seed, self.family)
        plans: Plans = {}
        for _ in range(self.rounds):
            changes: dict[ServicePortName, ServicePortPlan | None] = {}
            for number in draw.sample(range(12), draw.choice((1, 1, 2, 6))):
                new = made.plan(number)
                changes[new.name] = None if draw.random() < 0.2 else new
            plans = {name: p for name, p in (plans | changes).items() if p is not None}
            yield plans, changes


class Node:
    """A reconciler and the kernel it writes to."""

    def __init__(
        self, settings: IpvsSettings, *, limit_s: float = LIMIT_S, legacy: bool = True
    ) -> None:
        self.time = FakeTime()
        self.kernel = FakeNode(legacy=legacy)
        self.limit_s = limit_s
        self.restart(settings)

    def restart(self, settings: IpvsSettings) -> None:
        """A new process on what the kernel holds."""
        self.reconciler = IpvsReconciler(
            settings,
            self.kernel.ports(settings.family),
            drain_limit_s=self.limit_s,
            monotonic=self.time.monotonic,
        )

    def state(self, *plans: ServicePortPlan) -> None:
        """State everything; fails when that is refused."""
        result = self.reconciler.restate(plans)
        assert (result.error, result.refused) == ("", {})

    def change(self, changes: Mapping[ServicePortName, ServicePortPlan | None]) -> None:
        """Write changes; fails when they are refused."""
        result = self.reconciler.change(changes)
        assert (result.error, result.refused) == ("", {})

    def content(self) -> dict[str, Any]:
        return self.kernel.content(self.reconciler.settings.family)


class IpvsRig(Rig):
    """A Rig in IPVS mode; ``rig.kernel`` is the node, whose own addresses are *node_ips*."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        *flags: str,
        families: tuple[IPFamily, ...] = (V4,),
        kernel: FakeNode | None = None,
        limit_s: float = LIMIT_S,
        node_ips: tuple[str, ...] = ("192.168.0.10",),
    ) -> None:
        self.kernel = kernel or FakeNode()

        def made(clock: Any) -> IpvsPlane:
            return IpvsPlane(
                {family: self.kernel.ports(family) for family in families},
                IpvsOptions(limit_s),
                monotonic=clock,
            )

        super().__init__(patch, "--proxy-mode=ipvs", *flags, families=families, plane=made)
        self.set_addresses(*node_ips)

    def set_addresses(self, *ips: str) -> None:
        """The node's own addresses, from now on; the engine is told separately."""
        for family in self.addresses:
            mine = (packed(ip) for ip in ips)
            self.addresses[family] = frozenset(a for a in mine if len(a) * 8 == family.bits)

    def reals(self, ip: str, port: int = 80, protocol: str = "TCP") -> dict[str, int]:
        """Weights of the real servers of a virtual server, by IPv4 address."""
        weights = self.kernel.ipvs.weights(key(ip, port, protocol))
        return {".".join(map(str, real.address)): weight for real, weight in weights.items()}

    def serves(self, ip: str, port: int = 80, protocol: str = "TCP") -> bool:
        return key(ip, port, protocol) in self.kernel.ipvs.content
