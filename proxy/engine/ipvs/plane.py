"""The IPVS mode on this node."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proxy.backends.ipvs.settings import IpvsSettings
from proxy.config.types import IPVS, ProxyConfig
from proxy.engine.ipvs.ports import IpvsPorts
from proxy.engine.ipvs.reconciler import IpvsReconciler
from proxy.engine.node_settings import NodeView, base_settings, is_loopback
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.model.addresses import IPFamily, parse_networks, unpack_address
from proxy.plan.planner import Planner

DEFAULT_SCHEDULER = "rr"


@dataclass(frozen=True, slots=True)
class IpvsOptions:
    """
    What does not come from the configuration file.

    ``drain_limit_s`` bounds graceful termination, 0 for no limit; ``random_fully`` tells whether
    iptables knows ``--random-fully``.
    """

    drain_limit_s: float
    random_fully: bool = True


class IpvsPlane:
    """A DataPlane; *own_pids* are those of the programs that changed rules for us."""

    mode = IPVS

    def __init__(
        self,
        ports: Mapping[IPFamily, IpvsPorts],
        options: IpvsOptions,
        *,
        explain: Callable[[IPFamily], str] = lambda _: "",
        own_pids: Callable[[], frozenset[int]] = frozenset,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ports = ports
        self._options = options
        self._own_pids = own_pids
        self._monotonic = monotonic
        self.explain = explain

    @property
    def families(self) -> tuple[IPFamily, ...]:
        """The IP families it serves."""
        return tuple(self._ports)

    def settings(self, config: ProxyConfig, view: NodeView, family: IPFamily) -> IpvsSettings:
        """Return the settings of one family's virtual servers."""
        base = base_settings(config, view, family)
        local = view.addresses.get(family, frozenset())
        wanted = local if base.node_port_addresses is None else base.node_port_addresses
        return IpvsSettings.extending(
            base,
            scheduler=config.ipvs.scheduler or DEFAULT_SCHEDULER,
            node_addresses=local,
            node_port_servers=frozenset(filter(_takes_node_ports, wanted)),
            exclude_cidrs=parse_networks(config.ipvs.exclude_cidrs),
            random_fully=self._options.random_fully,
        )

    def reconciler(
        self, family: IPFamily, settings: IpvsSettings, planner: Planner
    ) -> IpvsReconciler:
        """Return the reconciler of one family's virtual servers."""
        del planner
        return IpvsReconciler(
            settings,
            self._ports[family],
            drain_limit_s=self._options.drain_limit_s,
            monotonic=self._monotonic,
        )

    def is_own(self, edit: ForeignEdit) -> bool:
        """Return whether a change that was noticed was made by a program we started."""
        return edit.sender in self._own_pids()


def _takes_node_ports(address: bytes) -> bool:
    link_local = len(address) == 16 and unpack_address(address).startswith("fe80:")
    return not is_loopback(address) and not link_local
