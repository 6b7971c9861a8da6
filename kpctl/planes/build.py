"""Builds the data plane that the configuration asks for, with what watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.config.types import IPTABLES, IPVS, ProxyConfig
from proxy.engine.cleanup.running import Running
from proxy.engine.data_plane import DataPlane
from proxy.kernel.addresses import local_addresses
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.model.addresses import IPFamily


class KernelLacks(Exception):
    """The kernel has not what the mode needs; the text says what, and what to do."""


class Monitor(Protocol):
    """Tells who else changes what is ours."""

    def edits(self) -> Iterator[ForeignEdit]:
        """Yield changes made by others, until closed."""

    def close(self) -> None:
        """Stop."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A monitor, and what may have happened before it was there."""

    monitor: Monitor
    missed: tuple[ForeignEdit, ...] = ()


@dataclass(frozen=True, slots=True)
class BuiltPlane:
    """
    A data plane together with what watches it.

    ``watch`` starts to watch; it is called after the first synchronisation, because the kernel
    would otherwise prepare a notification for each of its parts. ``running`` is what stays when
    leftovers are removed; ``addresses`` returns the node's own packed addresses, which are
    those of all devices but ``device``.
    """

    plane: DataPlane
    watch: Callable[[], Watch]
    running: Running
    addresses: Callable[[IPFamily], frozenset[bytes]] = local_addresses
    device: str = ""


def build_plane(
    config: ProxyConfig, families: Sequence[IPFamily], *, drain_limit_s: float
) -> BuiltPlane:
    """
    Return the data plane of the configured mode; only its modules are imported.

    Raises KernelLacks, OSError or CommandError for what this node lacks, FatalError for what the
    configuration asks in vain.
    """
    if config.mode == IPTABLES:
        from kpctl.planes.iptables import build_iptables

        return build_iptables(families)
    if config.mode == IPVS:
        from kpctl.planes.ipvs import build_ipvs

        return build_ipvs(config, families, drain_limit_s)
    from kpctl.planes.nftables import build_nftables

    return build_nftables(families)
