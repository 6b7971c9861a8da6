"""The kernel as IPVS mode needs it."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.engine.iptables.reconciler import RulesPort
from proxy.kernel.ipset import IpsetPort
from proxy.kernel.ipvs import IpvsPort
from proxy.kernel.links import LinksPort


@dataclass(frozen=True, slots=True)
class IpvsPorts:
    """Virtual servers, ipsets, devices, and one family's iptables."""

    servers: IpvsPort
    sets: IpsetPort
    links: LinksPort
    rules: RulesPort
