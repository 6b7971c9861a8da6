"""Mode nftables on this node."""

from __future__ import annotations

from collections.abc import Sequence

from kpctl.planes.build import BuiltPlane, Watch
from proxy.backends.nftables.layout import TABLE
from proxy.config.types import NFTABLES
from proxy.engine.cleanup.running import Running
from proxy.engine.nftables.plane import NftablesPlane
from proxy.kernel.capabilities import why_refused
from proxy.kernel.nft_monitor import NftMonitor, unseen_edit
from proxy.kernel.nftables import NetlinkNft
from proxy.model.addresses import IPFamily


def build_nftables(families: Sequence[IPFamily]) -> BuiltPlane:
    """Return the nftables mode."""
    ports = {family: NetlinkNft(family) for family in families}

    def watch() -> Watch:
        port = next(iter(ports.values()))
        generation = port.generation()
        monitor = NftMonitor(TABLE, frozenset(port.portid for port in ports.values()))
        if port.generation() != generation:
            return Watch(monitor, tuple(map(unseen_edit, families)))
        return Watch(monitor)

    return BuiltPlane(NftablesPlane(ports, why_refused), watch, Running(NFTABLES))
