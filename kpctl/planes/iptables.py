"""Mode iptables on this node."""

from __future__ import annotations

from collections.abc import Sequence

from kpctl.planes.build import BuiltPlane
from kpctl.planes.tables import Tables
from proxy.backends.iptables.settings import COUNTERS
from proxy.config.types import IPTABLES
from proxy.engine.iptables.plane import IptablesPlane, KernelFacts
from proxy.kernel.nfacct import create_counters
from proxy.kernel.sysctl import SysctlError, SysctlTree
from proxy.model.addresses import IPFamily
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

_BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"


def build_iptables(families: Sequence[IPFamily]) -> BuiltPlane:
    """Return the iptables mode."""
    tables = Tables(families)
    plane = IptablesPlane(
        tables.ports,
        tables.backend,
        KernelFacts(create_counters(COUNTERS), _is_liberal()),
        explain=tables.explain,
        own_pids=tables.pids,
    )
    return BuiltPlane(plane, tables.watch, tables.running(IPTABLES))


def _is_liberal() -> bool:
    try:
        liberal = SysctlTree().read_int(_BE_LIBERAL) != 0
    except SysctlError:
        return False
    if liberal:
        log.info("nf_conntrack_tcp_be_liberal set, not installing DROP rules for INVALID packets")
    return liberal
