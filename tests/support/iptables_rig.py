"""The engine in iptables mode, on tables in memory."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.backends.iptables import names
from proxy.engine.iptables import plane as iptables_plane
from proxy.engine.iptables.plane import IptablesPlane, KernelFacts
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.kernel.xtables_backend import Backend
from proxy.model.addresses import IPFamily
from proxy.model.services import ServicePortName
from tests.support.engine_rig import V4, Rig
from tests.support.fake_iptables import FakeIptables

CHILD = 4711
"""The pid under which the rig's own programs write."""


class FakeSysctls:
    """What the plane uses of SysctlTree; never the machine's."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def read(self, key: str) -> str:
        return self.values.get(key, "0")

    def write(self, key: str, value: int) -> None:
        self.values[key] = str(value)


class IptablesRig(Rig):
    """
    A Rig in iptables mode; ``rig.kernel`` holds the tables of the first family.

    *kernel* hands in tables that somebody has written to.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        *flags: str,
        families: tuple[IPFamily, ...] = (V4,),
        kernel: FakeIptables | None = None,
        facts: KernelFacts | None = None,
    ) -> None:
        self.sysctls = FakeSysctls()
        patch.setattr(iptables_plane, "SysctlTree", lambda: self.sysctls)
        self.kernel = kernel or FakeIptables()
        self.kernels = {f: FakeIptables() for f in families} | {families[0]: self.kernel}
        kind = "legacy" if self.kernel.legacy else "nft"

        def made(clock: Any) -> IptablesPlane:
            return IptablesPlane(
                self.kernels,
                Backend(kind, "of the test"),
                facts or KernelFacts(),
                own_pids=lambda: frozenset({CHILD}),
                monotonic=clock,
            )

        super().__init__(patch, "--proxy-mode=iptables", *flags, families=families, plane=made)

    def serves(self, ip: str, port: int = 80, protocol: str = "TCP") -> bool:
        """Whether packets for this address are translated."""
        return bool(self.endpoints_of(ip, port, protocol))

    def chain_of(self, ip: str, port: int = 80, protocol: str = "TCP") -> str:
        """The chain that packets for this address go to; "" for none."""
        found = self._matching("nat", names.SERVICES, ip, port, protocol)
        return found[0].rpartition(" ")[2] if found else ""

    def endpoints_of(self, ip: str, port: int = 80, protocol: str = "TCP") -> set[str]:
        """Addresses that packets for this address may be sent to."""
        chain = self.chain_of(ip, port, protocol)
        targets = self.kernel.leads_to(chain) if chain else set()
        return {target.rpartition(":")[0] for target in targets}

    def refuses(self, ip: str, port: int = 80, protocol: str = "TCP") -> bool:
        """Whether untranslated packets for this ClusterIP are answered or dropped."""
        return bool(self._matching("filter", names.SERVICES, ip, port, protocol))

    def _matching(self, table: str, chain: str, ip: str, port: int, protocol: str) -> list[str]:
        head, tail = f"-d {ip}/32 -p {protocol.lower()} ", f" --dport {port} "
        rules = self.kernel.rules(table, chain)
        return [rule for rule in rules if rule.startswith(head) and tail in rule]


def chains_of(name: ServicePortName) -> tuple[str, ...]:
    """The chains that a service port may have, those of its endpoints aside."""
    own = [prefix for prefix in names.SERVICE_PREFIXES if prefix != names.ENDPOINT]
    return tuple(prefix + names.port_hash(name) for prefix in own)


def foreign_rule(place: str = "nat/KUBE-SERVICES", sender: int = 1) -> ForeignEdit:
    """Somebody with this pid added a rule to a chain of ours."""
    return ForeignEdit(V4, ("rule added: 1",), (place,), "rule", "iptables[1]", sender)
