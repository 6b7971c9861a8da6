"""Builds the data plane that the configuration asks for, with what watches it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from proxy.backends.iptables.settings import COUNTERS
from proxy.backends.nftables.layout import TABLE
from proxy.config.types import IPTABLES, ProxyConfig
from proxy.engine.data_plane import DataPlane
from proxy.engine.iptables.plane import IptablesPlane, KernelFacts
from proxy.engine.nftables.plane import NftablesPlane
from proxy.kernel.capabilities import why_refused
from proxy.kernel.iptables import ProgramIptables, RecentPids
from proxy.kernel.nfacct import create_counters
from proxy.kernel.nft_monitor import ForeignEdit, NftMonitor, unseen_edit
from proxy.kernel.nftables import NetlinkNft
from proxy.kernel.sysctl import SysctlError, SysctlTree
from proxy.kernel.xtables_backend import Backend, choose_backend, double_rule_sets
from proxy.kernel.xtables_monitor import LegacyXtablesMonitor, NftXtablesMonitor
from proxy.model.addresses import IPFamily
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

_BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"


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
    would otherwise prepare a notification for each of its parts.
    """

    plane: DataPlane
    watch: Callable[[], Watch]


def build_plane(config: ProxyConfig, families: Sequence[IPFamily]) -> BuiltPlane:
    """Return the data plane of the configured mode; raises OSError or CommandError."""
    if config.mode == IPTABLES:
        return _iptables(families)
    return _nftables(families)


def _nftables(families: Sequence[IPFamily]) -> BuiltPlane:
    ports = {family: NetlinkNft(family) for family in families}

    def watch() -> Watch:
        port = next(iter(ports.values()))
        generation = port.generation()
        monitor = NftMonitor(TABLE, frozenset(port.portid for port in ports.values()))
        if port.generation() != generation:
            return Watch(monitor, tuple(map(unseen_edit, families)))
        return Watch(monitor)

    return BuiltPlane(NftablesPlane(ports, why_refused), watch)


def _iptables(families: Sequence[IPFamily]) -> BuiltPlane:
    backend = choose_backend()
    log.info("Using iptables backend", backend=backend.kind, why=backend.why)
    for sentence in double_rule_sets(backend.kind):
        log.warning("There are two rule sets on this node", what=sentence)
    pids = RecentPids()
    legacy = LegacyXtablesMonitor() if backend.kind == "legacy" else None
    ports = {
        family: QuietIptables(family, backend, pids, legacy.own_change if legacy else _unwatched)
        for family in families
    }
    facts = KernelFacts(create_counters(COUNTERS), _is_liberal())
    plane = IptablesPlane(
        ports,
        backend,
        facts,
        explain=lambda family: ports[family].why_unusable(),
        own_pids=pids,
    )
    return BuiltPlane(plane, lambda: Watch(legacy or NftXtablesMonitor(pids)))


class QuietIptables(ProgramIptables):
    """An iptables port whose own changes are not reported by a monitor that compares extents."""

    def __init__(
        self,
        family: IPFamily,
        backend: Backend,
        pids: RecentPids,
        own_change: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(family, backend, pids=pids)
        self._own_change = own_change

    def restore(self, text: str) -> float:
        """Feed iptables-restore; see IptablesPort."""
        with self._own_change():
            return super().restore(text)


def _unwatched() -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def _is_liberal() -> bool:
    try:
        liberal = SysctlTree().read_int(_BE_LIBERAL) != 0
    except SysctlError:
        return False
    if liberal:
        log.info("nf_conntrack_tcp_be_liberal set, not installing DROP rules for INVALID packets")
    return liberal
