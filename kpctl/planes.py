"""Builds the data plane that the configuration asks for, with what watches it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from proxy.backends.iptables.settings import COUNTERS
from proxy.backends.ipvs.names import DEVICE
from proxy.backends.nftables.layout import TABLE
from proxy.config.types import IPTABLES, IPVS, NFTABLES, ProxyConfig
from proxy.engine.cleanup.node import Running
from proxy.engine.data_plane import DataPlane
from proxy.engine.iptables.plane import IptablesPlane, KernelFacts
from proxy.engine.ipvs.plane import DEFAULT_SCHEDULER, IpvsOptions, IpvsPlane
from proxy.engine.ipvs.ports import IpvsPorts
from proxy.engine.nftables.plane import NftablesPlane
from proxy.engine.start_gate import FatalError
from proxy.kernel.addresses import local_addresses
from proxy.kernel.capabilities import why_refused
from proxy.kernel.ipset import NetlinkIpset
from proxy.kernel.iptables import ProgramIptables, RecentPids
from proxy.kernel.ipvs import NetlinkIpvs
from proxy.kernel.ipvs_setup import write_sysctls
from proxy.kernel.links import NetlinkLinks
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
    Return the data plane of the configured mode.

    Raises OSError or CommandError for what this kernel or node lacks, FatalError for what the
    configuration asks in vain.
    """
    if config.mode == IPTABLES:
        return _iptables(families)
    if config.mode == IPVS:
        return _ipvs(config, families, drain_limit_s)
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

    return BuiltPlane(NftablesPlane(ports, why_refused), watch, Running(NFTABLES))


def _iptables(families: Sequence[IPFamily]) -> BuiltPlane:
    tables = _Tables(families)
    plane = IptablesPlane(
        tables.ports,
        tables.backend,
        KernelFacts(create_counters(COUNTERS), _is_liberal()),
        explain=tables.explain,
        own_pids=tables.pids,
    )
    return BuiltPlane(plane, tables.watch, tables.running(IPTABLES))


def _ipvs(config: ProxyConfig, families: Sequence[IPFamily], drain_limit_s: float) -> BuiltPlane:
    servers, sets, links = NetlinkIpvs(), NetlinkIpset(), NetlinkLinks()
    _prepare_ipvs(config, servers)
    tables = _Tables(families)
    ports = {family: IpvsPorts(servers, sets, links, port) for family, port in tables.ports.items()}
    plane = IpvsPlane(
        ports,
        IpvsOptions(drain_limit_s, tables.backend.random_fully),
        explain=tables.explain,
        own_pids=tables.pids,
    )
    return BuiltPlane(
        plane,
        tables.watch,
        tables.running(IPVS),
        addresses_elsewhere,
    )


def addresses_elsewhere(family: IPFamily) -> frozenset[bytes]:
    """Return the node's addresses without those that IPVS mode binds itself."""
    with contextlib.closing(NetlinkLinks()) as links:
        return links.addresses_elsewhere(DEVICE, family)


def _prepare_ipvs(config: ProxyConfig, servers: NetlinkIpvs) -> None:
    scheduler = config.ipvs.scheduler or DEFAULT_SCHEDULER
    if not servers.has_scheduler(scheduler):
        raise FatalError(
            f"ipvs.scheduler: the kernel has no scheduler {scheduler!r}; load its module with "
            f"'modprobe ip_vs_{scheduler}', or choose another one"
        )
    try:
        for name, value in write_sysctls(SysctlTree(), strict_arp=config.ipvs.strict_arp):
            log.info("Set sysctl", entry=name, value=value)
    except SysctlError as error:
        raise FatalError(f"{error}; IPVS mode does not work without it") from error
    times = (
        config.ipvs.tcp_timeout_s,
        config.ipvs.tcp_fin_timeout_s,
        config.ipvs.udp_timeout_s,
    )
    if any(times):
        servers.set_timeouts(*map(int, times))


class _Tables:
    """The iptables of this node: programs, ports and the monitor that belongs to them."""

    def __init__(self, families: Sequence[IPFamily]) -> None:
        self.backend: Backend = choose_backend()
        log.info("Using iptables backend", backend=self.backend.kind, why=self.backend.why)
        for sentence in double_rule_sets(self.backend.kind):
            log.warning("There are two rule sets on this node", what=sentence)
        self.pids = RecentPids()
        self._observer: LegacyXtablesMonitor | _Generations = (
            LegacyXtablesMonitor() if self.backend.kind == "legacy" else _Generations()
        )
        own_change = self._observer.own_change
        self.ports = {
            family: QuietIptables(family, self.backend, self.pids, own_change)
            for family in families
        }

    def explain(self, family: IPFamily) -> str:
        """Return why a family's rules cannot be written, "" when they can."""
        return self.ports[family].why_unusable()

    def watch(self) -> Watch:
        """Start to watch."""
        if isinstance(self._observer, LegacyXtablesMonitor):
            return Watch(self._observer)
        monitor = NftXtablesMonitor(self.pids)
        missed = self._observer.has_foreign()
        return Watch(monitor, tuple(map(unseen_edit, self.ports)) if missed else ())

    def running(self, mode: str) -> Running:
        """Return what stays when leftovers are removed."""
        return Running(mode, self.backend.kind, self.pids)


class QuietIptables(ProgramIptables):
    """An iptables port that tells an observer which changes are its own."""

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


class _Generations:
    """Tells whether others changed nf_tables since our last change, by the kernel's count."""

    def __init__(self) -> None:
        self._netlink = NetlinkNft(IPFamily.IPV4)
        self._last = self._netlink.generation()

    @contextlib.contextmanager
    def own_change(self) -> Iterator[None]:
        """Make a change that is ours."""
        try:
            yield
        finally:
            self._last = self._netlink.generation()

    def has_foreign(self) -> bool:
        """Return whether there was another change since the last one of ours."""
        return self._netlink.generation() != self._last


def _is_liberal() -> bool:
    try:
        liberal = SysctlTree().read_int(_BE_LIBERAL) != 0
    except SysctlError:
        return False
    if liberal:
        log.info("nf_conntrack_tcp_be_liberal set, not installing DROP rules for INVALID packets")
    return liberal
