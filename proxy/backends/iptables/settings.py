"""What the iptables data plane must know beyond what every data plane knows."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.backends.settings import Settings

INVALID_COUNTER = "ct_state_invalid_dropped_pkts"
LOCALHOST_COUNTER = "localhost_nps_accepted_pkts"
COUNTERS = (INVALID_COUNTER, LOCALHOST_COUNTER)


@dataclass(frozen=True, slots=True)
class IptablesSettings(Settings):
    """
    Settings of one family's iptables rules.

    Attributes:
        localhost_node_ports: NodePorts answer on 127.0.0.0/8; IPv4 only.
        drop_invalid: drop packets that connection tracking calls INVALID; False where the kernel
            is liberal about TCP windows (``nf_conntrack_tcp_be_liberal``).
        random_fully: iptables knows ``--random-fully`` (1.6.2).
        counters: nfacct objects that exist in this kernel.
    """

    localhost_node_ports: bool = False
    drop_invalid: bool = True
    random_fully: bool = True
    counters: frozenset[str] = frozenset()
