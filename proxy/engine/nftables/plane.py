"""The nftables mode on this node."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from proxy.backends.nftables.table import NftablesTable
from proxy.backends.settings import Settings
from proxy.config.types import NFTABLES, ProxyConfig
from proxy.engine.nftables.reconciler import NftReconciler
from proxy.engine.node_settings import NodeView, base_settings
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.kernel.nftables import NftPort
from proxy.model.addresses import IPFamily
from proxy.plan.planner import Planner


class NftablesPlane:
    """A DataPlane; *explain* says what the kernel lacks for a family, "" for nothing."""

    mode = NFTABLES

    def __init__(
        self,
        ports: Mapping[IPFamily, NftPort],
        explain: Callable[[IPFamily], str] = lambda _: "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ports = ports
        self._monotonic = monotonic
        self.explain = explain

    @property
    def families(self) -> tuple[IPFamily, ...]:
        """The IP families it serves."""
        return tuple(self._ports)

    def settings(self, config: ProxyConfig, view: NodeView, family: IPFamily) -> Settings:
        """Return the settings of one family's table."""
        return base_settings(config, view, family)

    def reconciler(self, family: IPFamily, settings: Settings, planner: Planner) -> NftReconciler:
        """Return the reconciler of one family's table."""
        del planner
        return NftReconciler(NftablesTable(settings), self._ports[family], self._monotonic)

    def is_own(self, edit: ForeignEdit) -> bool:
        """Say no: a filter on the monitor's socket keeps our own changes away."""
        del edit
        return False
