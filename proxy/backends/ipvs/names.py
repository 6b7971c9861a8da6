"""
Names of what the IPVS data plane keeps in the kernel: device, ipsets, chains and jumps.

Source: kube-proxy 1.36, ``pkg/proxy/ipvs``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from proxy.backends.iptables.names import FORWARD, MARK_MASQ, POSTROUTING, PROXY_FIREWALL, SERVICES
from proxy.backends.xtables import FILTER, NAT, Jump, jump
from proxy.model.addresses import IPFamily

DEVICE = "kube-ipvs0"

NODE_PORT = "KUBE-NODE-PORT"
LOAD_BALANCER_CHAIN = "KUBE-LOAD-BALANCER"
SOURCE_RANGES = "KUBE-SOURCE-RANGES-FIREWALL"
IPVS_FILTER = "KUBE-IPVS-FILTER"
IPVS_OUT_FILTER = "KUBE-IPVS-OUT-FILTER"

# In the order in which kube-proxy declares them.
NAT_CHAINS = (SERVICES, POSTROUTING, NODE_PORT, LOAD_BALANCER_CHAIN, MARK_MASQ)
FILTER_CHAINS = (
    FORWARD,
    NODE_PORT,
    PROXY_FIREWALL,
    SOURCE_RANGES,
    IPVS_FILTER,
    IPVS_OUT_FILTER,
)
# In the order in which they are put on top, one after the other, of a chain without them.
JUMPS: tuple[Jump, ...] = (
    jump(NAT, "OUTPUT", "", "kubernetes service portals", SERVICES),
    jump(NAT, "PREROUTING", "", "kubernetes service portals", SERVICES),
    jump(NAT, "POSTROUTING", "", "kubernetes postrouting rules", POSTROUTING),
    jump(FILTER, "FORWARD", "", "kubernetes forwarding rules", FORWARD),
    jump(FILTER, "INPUT", "", "kubernetes health check rules", NODE_PORT),
    jump(FILTER, "INPUT", "", "kube-proxy firewall rules", PROXY_FIREWALL),
    jump(FILTER, "FORWARD", "", "kube-proxy firewall rules", PROXY_FIREWALL),
    jump(FILTER, "INPUT", "", "kubernetes ipvs access filter", IPVS_FILTER),
    jump(FILTER, "OUTPUT", "", "kubernetes ipvs access filter", IPVS_OUT_FILTER),
)


class SetType(enum.Enum):
    """Types of ipset(8) in use."""

    IP = "hash:ip"
    IP_PORT = "hash:ip,port"
    IP_PORT_IP = "hash:ip,port,ip"
    IP_PORT_NET = "hash:ip,port,net"
    PORT = "bitmap:port"


@dataclass(frozen=True, slots=True)
class SetKind:
    """One of the ipsets: its IPv4 name, type, and the comment of the rules that look into it."""

    base: str
    type: SetType
    comment: str

    def name(self, family: IPFamily) -> str:
        """Return the name in a family: at most 31 characters, which is all ipset takes."""
        if family is IPFamily.IPV4:
            return self.base
        return self.base.replace("KUBE-", "KUBE-6-", 1)[:31]


LOOP_BACK = SetKind(
    "KUBE-LOOP-BACK",
    SetType.IP_PORT_IP,
    "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose",
)
CLUSTER_IP = SetKind(
    "KUBE-CLUSTER-IP",
    SetType.IP_PORT,
    "Kubernetes service cluster ip + port for masquerade purpose",
)
EXTERNAL_IP = SetKind(
    "KUBE-EXTERNAL-IP",
    SetType.IP_PORT,
    "Kubernetes service external ip + port for masquerade and filter purpose",
)
EXTERNAL_IP_LOCAL = SetKind(
    "KUBE-EXTERNAL-IP-LOCAL",
    SetType.IP_PORT,
    "Kubernetes service external ip + port with externalTrafficPolicy=local",
)
LOAD_BALANCER = SetKind("KUBE-LOAD-BALANCER", SetType.IP_PORT, "Kubernetes service lb portal")
LOAD_BALANCER_LOCAL = SetKind(
    "KUBE-LOAD-BALANCER-LOCAL",
    SetType.IP_PORT,
    "Kubernetes service load balancer ip + port with externalTrafficPolicy=local",
)
LOAD_BALANCER_FW = SetKind(
    "KUBE-LOAD-BALANCER-FW",
    SetType.IP_PORT,
    "Kubernetes service load balancer ip + port for load balancer with sourceRange",
)
LOAD_BALANCER_SOURCE_IP = SetKind(
    "KUBE-LOAD-BALANCER-SOURCE-IP",
    SetType.IP_PORT_IP,
    "Kubernetes service load balancer ip + port + source IP for packet filter purpose",
)
LOAD_BALANCER_SOURCE_CIDR = SetKind(
    "KUBE-LOAD-BALANCER-SOURCE-CIDR",
    SetType.IP_PORT_NET,
    "Kubernetes service load balancer ip + port + source cidr for packet filter purpose",
)
NODE_PORT_TCP = SetKind(
    "KUBE-NODE-PORT-TCP", SetType.PORT, "Kubernetes nodeport TCP port for masquerade purpose"
)
NODE_PORT_LOCAL_TCP = SetKind(
    "KUBE-NODE-PORT-LOCAL-TCP",
    SetType.PORT,
    "Kubernetes nodeport TCP port with externalTrafficPolicy=local",
)
NODE_PORT_UDP = SetKind(
    "KUBE-NODE-PORT-UDP", SetType.PORT, "Kubernetes nodeport UDP port for masquerade purpose"
)
NODE_PORT_LOCAL_UDP = SetKind(
    "KUBE-NODE-PORT-LOCAL-UDP",
    SetType.PORT,
    "Kubernetes nodeport UDP port with externalTrafficPolicy=local",
)
NODE_PORT_SCTP = SetKind(
    "KUBE-NODE-PORT-SCTP-HASH",
    SetType.IP_PORT,
    "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'",
)
NODE_PORT_LOCAL_SCTP = SetKind(
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
    SetType.IP_PORT,
    "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'",
)
HEALTH_CHECK_NODE_PORT = SetKind(
    "KUBE-HEALTH-CHECK-NODE-PORT", SetType.PORT, "Kubernetes health check node port"
)
IPVS_IPS = SetKind("KUBE-IPVS-IPS", SetType.IP, "Addresses on the ipvs interface")

SETS: tuple[SetKind, ...] = (
    LOOP_BACK,
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_IP_LOCAL,
    LOAD_BALANCER,
    LOAD_BALANCER_LOCAL,
    LOAD_BALANCER_FW,
    LOAD_BALANCER_SOURCE_IP,
    LOAD_BALANCER_SOURCE_CIDR,
    NODE_PORT_TCP,
    NODE_PORT_LOCAL_TCP,
    NODE_PORT_UDP,
    NODE_PORT_LOCAL_UDP,
    NODE_PORT_SCTP,
    NODE_PORT_LOCAL_SCTP,
    HEALTH_CHECK_NODE_PORT,
    IPVS_IPS,
)
