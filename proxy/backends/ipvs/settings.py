"""What the IPVS data plane must know beyond what every data plane knows."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.backends.settings import Settings
from proxy.model.addresses import Network


@dataclass(frozen=True, slots=True)
class IpvsSettings(Settings):
    """
    Settings of one family's virtual servers.

    Attributes:
        scheduler: name of the kernel's scheduler, ``rr``.
        node_addresses: packed addresses of all interfaces but kube-ipvs0.
        node_port_servers: those of them that get a virtual server for each NodePort.
        exclude_cidrs: virtual servers in these networks are others' and stay.
        random_fully: iptables knows ``--random-fully`` (1.6.2).
    """

    scheduler: str = "rr"
    node_addresses: frozenset[bytes] = frozenset()
    node_port_servers: frozenset[bytes] = frozenset()
    exclude_cidrs: tuple[Network, ...] = ()
    random_fully: bool = True
