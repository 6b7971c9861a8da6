"""
What the proxy concludes from the node it runs on: its name, its addresses, which of them answer
node ports, and how traffic of its pods is recognised. Pure functions.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from proxy.config import types
from proxy.config.addresses import cidrs_by_family, is_catch_all, network
from proxy.model.addresses import IPFamily, canonical_address

_LOOPBACK = {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}
_WILDCARD = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}
_EVERYTHING = {IPFamily.IPV4: "0.0.0.0/0", IPFamily.IPV6: "::/0"}
_IPV4_LOOPBACK_NETWORK = ip_network("127.0.0.0/8")


def node_name(hostname_override: str, os_hostname: str) -> str:
    """Return the Node's name: the override, else the host's name; trimmed and lower case."""
    return (hostname_override or os_hostname).strip().lower()


@dataclass(frozen=True, slots=True)
class NodeIPs:
    """The node's address per family; loopback stands for "not known"."""

    primary_family: IPFamily
    by_family: Mapping[IPFamily, str]

    def is_known(self, family: IPFamily) -> bool:
        """Whether the family's address is a real one."""
        return not ip_address(self.by_family[family]).is_loopback


def node_ips(bind_address: str, addresses: Sequence[str]) -> NodeIPs:
    """
    Return the node's addresses and its primary family.

    Args:
        bind_address: ``bindAddress``; a wildcard or "" says nothing, anything else wins over
            the Node's address of its family and makes that family primary.
        addresses: The Node's addresses, most important first; may be empty.
    """
    known = [parsed for parsed in map(canonical_address, addresses) if parsed is not None]
    primary = known[0][0] if known else IPFamily.IPV4
    by_family = dict(_LOOPBACK)
    for family, address in reversed(known):
        by_family[family] = address
    bound = canonical_address(bind_address)
    if bound is not None and bound[1] not in _WILDCARD.values():
        primary = bound[0]
        by_family[primary] = bound[1]
    return NodeIPs(primary, by_family)


def expand_primary(addresses: Sequence[str], ips: NodeIPs) -> tuple[str, ...]:
    """
    Return nodePortAddresses with the word primary replaced by the node's own addresses.

    A family whose address is unknown is left out and thereby unrestricted, as in kube-proxy.
    """
    if tuple(addresses) != (types.PRIMARY,):
        return tuple(addresses)
    ordered = sorted(IPFamily, key=lambda family: family is not IPFamily.IPV4)
    return tuple(
        f"{ips.by_family[family]}/{family.bits}" for family in ordered if ips.is_known(family)
    )


@dataclass(frozen=True, slots=True)
class NodePortAddresses:
    """Which addresses of one family answer node ports."""

    family: IPFamily
    cidrs: tuple[str, ...]  # never empty; the catch-all alone when there is no restriction

    @property
    def match_all(self) -> bool:
        """Whether every local address of the family answers."""
        return is_catch_all(self.cidrs[0])

    @property
    def covers_ipv4_loopback(self) -> bool:
        """Whether any address in 127.0.0.0/8 answers."""
        parsed = (network(cidr) for cidr in self.cidrs)
        return any(
            net is not None and net.version == 4 and net.overlaps(_IPV4_LOOPBACK_NETWORK)
            for net in parsed
        )

    def matches(self, address: str) -> bool:
        """Whether *address*, which must be an IP, would answer if the node had it."""
        parsed = ip_address(address)
        networks = (network(cidr) for cidr in self.cidrs)
        return any(net is not None and parsed in net for net in networks)

    def node_addresses(self, local: Iterable[str]) -> tuple[str, ...]:
        """Return those of the node's addresses that answer: sorted text, no duplicates."""
        return tuple(sorted({address for address in local if self.matches(address)}))


def node_port_addresses(cidrs: Sequence[str], family: IPFamily) -> NodePortAddresses:
    """
    Return the restriction that nodePortAddresses (without the word primary) means for a family.

    A family none of the CIDRs belongs to is unrestricted, and a zero-length CIDR swallows the
    others of its family.
    """
    own = cidrs_by_family(cidrs)[family]
    if not own or any(map(is_catch_all, own)):
        own = (_EVERYTHING[family],)
    return NodePortAddresses(family, own)


class DetectBy(enum.Enum):
    """By what the traffic of this node's pods is recognised."""

    NOTHING = "nothing"
    CIDR = "cidr"
    BRIDGE = "bridge"
    INTERFACE_PREFIX = "interfacePrefix"


@dataclass(frozen=True, slots=True)
class LocalDetector:
    """How one family recognises pod traffic; ``value`` is a CIDR, a name, a prefix or ""."""

    by: DetectBy
    value: str = ""


def local_detectors(
    detection: types.DetectLocal, pod_cidrs: Sequence[str]
) -> dict[IPFamily, LocalDetector]:
    """
    Return the detector of each family.

    Args:
        detection: The resolved section; its mode is not empty.
        pod_cidrs: The Node's pod networks; only used by NodeCIDR.
    """
    match detection.mode:
        case types.BRIDGE_INTERFACE:
            shared = LocalDetector(DetectBy.BRIDGE, detection.bridge_interface)
        case types.INTERFACE_NAME_PREFIX:
            shared = LocalDetector(DetectBy.INTERFACE_PREFIX, detection.interface_name_prefix)
        case types.NODE_CIDR:
            return _by_cidr(pod_cidrs)
        case _:
            return _by_cidr(detection.cluster_cidrs)
    return {family: shared for family in IPFamily}


def _by_cidr(cidrs: Sequence[str]) -> dict[IPFamily, LocalDetector]:
    return {
        family: LocalDetector(DetectBy.CIDR, found[0]) if found else LocalDetector(DetectBy.NOTHING)
        for family, found in cidrs_by_family(cidrs).items()
    }
