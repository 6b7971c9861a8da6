"""What the engine needs to know of a data plane before it writes anything."""

from __future__ import annotations

from typing import Any, Protocol

from proxy.backends.settings import Settings
from proxy.config.types import ProxyConfig
from proxy.engine.node_settings import NodeView
from proxy.engine.reconciler import Reconciler
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.model.addresses import IPFamily
from proxy.plan.planner import Planner


class DataPlane(Protocol):
    """One mode on this node."""

    @property
    def mode(self) -> str:
        """The mode's name in the configuration, by which logs and metrics speak of it."""

    @property
    def families(self) -> tuple[IPFamily, ...]:
        """The IP families it serves."""

    def settings(self, config: ProxyConfig, view: NodeView, family: IPFamily) -> Settings:
        """Return the configuration applied to what is known of the node."""

    def reconciler(self, family: IPFamily, settings: Any, planner: Planner) -> Reconciler:
        """Return what keeps a family's part of the kernel equal to the plans."""

    def is_own(self, edit: ForeignEdit) -> bool:
        """Return whether a change that was noticed in the kernel was made by this process."""

    def explain(self, family: IPFamily) -> str:
        """Return what the kernel lacks for this mode, "" for nothing."""
