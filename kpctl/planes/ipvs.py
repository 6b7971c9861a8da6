"""Mode ipvs on this node."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from kpctl.planes.build import BuiltPlane, KernelLacks
from kpctl.planes.tables import Tables
from proxy.backends.ipvs.names import DEVICE
from proxy.config.types import IPVS, ProxyConfig
from proxy.engine.ipvs.plane import DEFAULT_SCHEDULER, IpvsOptions, IpvsPlane
from proxy.engine.ipvs.ports import IpvsPorts
from proxy.engine.start_gate import FatalError
from proxy.kernel.ipset import IpsetMissing, NetlinkIpset
from proxy.kernel.ipvs import IpvsMissing, NetlinkIpvs
from proxy.kernel.ipvs_setup import write_sysctls
from proxy.kernel.links import NetlinkLinks
from proxy.kernel.sysctl import SysctlError, SysctlTree
from proxy.model.addresses import IPFamily
from proxy.runtime.logs import get_logger

log = get_logger(__name__)


def build_ipvs(
    config: ProxyConfig, families: Sequence[IPFamily], drain_limit_s: float
) -> BuiltPlane:
    """Return the IPVS mode."""
    try:
        servers, sets, links = NetlinkIpvs(), NetlinkIpset(), NetlinkLinks()
    except (IpvsMissing, IpsetMissing) as error:
        raise KernelLacks(str(error)) from error
    _prepare_ipvs(config, servers)
    tables = Tables(families)
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
        DEVICE,
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
