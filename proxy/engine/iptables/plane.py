"""The iptables mode on this node."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proxy.backends.iptables.ruleset import IptablesRules
from proxy.backends.iptables.settings import IptablesSettings
from proxy.config.types import IPTABLES, ProxyConfig
from proxy.engine.iptables.reconciler import IptablesReconciler, RulesPort
from proxy.engine.node_settings import NodeView, base_settings, node_port_restriction
from proxy.engine.start_gate import FatalError
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.kernel.sysctl import SysctlError, SysctlTree
from proxy.kernel.xtables_backend import Backend
from proxy.model.addresses import IPFamily
from proxy.plan.planner import Planner
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"
# The cost of one transaction grows with the square of its size on nf_tables; the legacy kernel
# copies the whole table at each one.
_CHAINS_AT_ONCE = {"nft": 400, "legacy": 15_000}


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """
    What the rules depend on in this kernel.

    ``counters`` are the nfacct objects that could be made, ``tcp_be_liberal`` is
    nf_conntrack_tcp_be_liberal at the start.
    """

    counters: frozenset[str] = frozenset()
    tcp_be_liberal: bool = False


def route_localnet() -> None:
    """Let packets to 127.0.0.0/8 be translated; KUBE-FIREWALL keeps those from outside away."""
    tree = SysctlTree()
    try:
        if tree.read(ROUTE_LOCALNET) != "1":
            tree.write(ROUTE_LOCALNET, 1)
            log.info("Set sysctl", entry=ROUTE_LOCALNET, value=1)
    except SysctlError as error:
        raise FatalError(
            f"{error}; NodePorts on localhost need it: set iptables.localhostNodePorts: false, "
            "nodePortAddresses without loopback, or let this process write the parameter"
        ) from error


class IptablesPlane:
    """
    A DataPlane; *own_pids* are those of the programs that changed rules for us.

    *allow_localnet* prepares the node for NodePorts on localhost; it may raise FatalError.
    """

    mode = IPTABLES

    def __init__(
        self,
        ports: Mapping[IPFamily, RulesPort],
        backend: Backend,
        facts: KernelFacts,
        *,
        explain: Callable[[IPFamily], str] = lambda _: "",
        own_pids: Callable[[], frozenset[int]] = frozenset,
        allow_localnet: Callable[[], None] = route_localnet,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ports = ports
        self._backend = backend
        self._facts = facts
        self._own_pids = own_pids
        self._allow_localnet = allow_localnet
        self._monotonic = monotonic
        self.explain = explain

    @property
    def families(self) -> tuple[IPFamily, ...]:
        """The IP families it serves."""
        return tuple(self._ports)

    def settings(self, config: ProxyConfig, view: NodeView, family: IPFamily) -> IptablesSettings:
        """Return the settings of one family's rules."""
        base = base_settings(config, view, family, loopback=config.iptables.localhost_node_ports)
        return IptablesSettings.extending(
            base,
            localhost_node_ports=_localhost_node_ports(config, view, family),
            drop_invalid=not self._facts.tcp_be_liberal,
            random_fully=self._backend.random_fully,
            counters=self._facts.counters,
        )

    def reconciler(
        self, family: IPFamily, settings: IptablesSettings, planner: Planner
    ) -> IptablesReconciler:
        """Return the reconciler of one family's rules."""
        if settings.localhost_node_ports:
            self._allow_localnet()
        return IptablesReconciler(
            IptablesRules(settings),
            self._ports[family],
            chains_at_once=_CHAINS_AT_ONCE[self._backend.kind],
            endpoint_total=lambda: planner.endpoint_total,
            monotonic=self._monotonic,
        )

    def is_own(self, edit: ForeignEdit) -> bool:
        """Return whether a change that was noticed was made by a program we started."""
        return edit.sender in self._own_pids()


def _localhost_node_ports(config: ProxyConfig, view: NodeView, family: IPFamily) -> bool:
    if family is not IPFamily.IPV4 or not config.iptables.localhost_node_ports:
        return False
    return node_port_restriction(config, view, family).covers_ipv4_loopback
