"""
Names of kube-proxy's chains in iptables mode, and the jumps that lead into them.

Source: kube-proxy 1.36, ``pkg/proxy/iptables``; chain names are a contract with every runbook.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode

from proxy.backends.xtables import FILTER, MANGLE, NAT, Jump, jump
from proxy.model.services import ServicePortName

SERVICES = "KUBE-SERVICES"
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
NODEPORTS = "KUBE-NODEPORTS"
POSTROUTING = "KUBE-POSTROUTING"
MARK_MASQ = "KUBE-MARK-MASQ"
FORWARD = "KUBE-FORWARD"
PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"
KUBELET_FIREWALL = "KUBE-FIREWALL"
CANARY = "KUBE-PROXY-CANARY"

SERVICE, LOCAL, EXTERNAL, FIREWALL, ENDPOINT = (
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-EXT-",
    "KUBE-FW-",
    "KUBE-SEP-",
)
SERVICE_PREFIXES = (SERVICE, LOCAL, EXTERNAL, FIREWALL, ENDPOINT)

# Chains that each synchronisation of kube-proxy declares, in its order.
FILTER_CHAINS = (SERVICES, EXTERNAL_SERVICES, FORWARD, NODEPORTS, PROXY_FIREWALL)
NAT_CHAINS = (SERVICES, NODEPORTS, POSTROUTING, MARK_MASQ)
CANARY_TABLES = (MANGLE, NAT, FILTER)

_NEW = "-m conntrack --ctstate NEW"

# In the order in which they are put on top, one after the other, of a chain without them.
JUMPS: tuple[Jump, ...] = (
    jump(FILTER, "INPUT", _NEW, "kubernetes externally-visible service portals", EXTERNAL_SERVICES),
    jump(
        FILTER, "FORWARD", _NEW, "kubernetes externally-visible service portals", EXTERNAL_SERVICES
    ),
    jump(FILTER, "INPUT", "", "kubernetes health check service ports", NODEPORTS),
    jump(FILTER, "FORWARD", _NEW, "kubernetes service portals", SERVICES),
    jump(FILTER, "OUTPUT", _NEW, "kubernetes service portals", SERVICES),
    jump(FILTER, "FORWARD", "", "kubernetes forwarding rules", FORWARD),
    jump(FILTER, "INPUT", _NEW, "kubernetes load balancer firewall", PROXY_FIREWALL),
    jump(FILTER, "OUTPUT", _NEW, "kubernetes load balancer firewall", PROXY_FIREWALL),
    jump(FILTER, "FORWARD", _NEW, "kubernetes load balancer firewall", PROXY_FIREWALL),
    jump(NAT, "OUTPUT", "", "kubernetes service portals", SERVICES),
    jump(NAT, "PREROUTING", "", "kubernetes service portals", SERVICES),
    jump(NAT, "POSTROUTING", "", "kubernetes postrouting rules", POSTROUTING),
)
# Shared with kubelet, and therefore left in place by a clean-up.
KUBELET_JUMPS: tuple[Jump, ...] = (
    jump(FILTER, "INPUT", "", "", KUBELET_FIREWALL),
    jump(FILTER, "OUTPUT", "", "", KUBELET_FIREWALL),
)


def port_hash(name: ServicePortName) -> str:
    """Return the 16 characters that the chains of a service port have in common."""
    return _hash(f"{name}{name.protocol.lower()}")


def endpoint_chain(name: ServicePortName, target: str) -> str:
    """Return the chain of an endpoint, given as ``IP:port`` or ``[IPv6]:port``."""
    return ENDPOINT + _hash(f"{name}{name.protocol.lower()}{target}")


def is_service_chain(chain: str) -> bool:
    """Return whether a chain of the nat table belongs to one service port."""
    return chain.startswith(SERVICE_PREFIXES)


def _hash(text: str) -> str:
    return b32encode(hashlib.sha256(text.encode()).digest())[:16].decode()
