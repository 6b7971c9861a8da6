"""The configuration applied to this node: each family's settings, and where we are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from proxy.backends.settings import LocalTraffic, Settings
from proxy.config import node as node_config
from proxy.config.node import DetectBy, LocalDetector, NodeIPs, NodePortAddresses
from proxy.config.types import ProxyConfig
from proxy.model.addresses import (
    IPFamily,
    network_family,
    pack_address,
    parse_networks,
    unpack_address,
)
from proxy.model.node import NodeInfo
from proxy.plan.topology import Location


@dataclass(frozen=True, slots=True)
class NodeView:
    """
    What is known of this node at one moment.

    Attributes:
        info: the Node object's facts, or None before it was seen.
        addresses: packed addresses of all interfaces, by family.
        service_cidrs: ServiceCIDRs of the cluster, both families.
    """

    name: str
    info: NodeInfo | None
    addresses: Mapping[IPFamily, frozenset[bytes]]
    service_cidrs: tuple[str, ...] = ()

    @property
    def location(self) -> Location:
        """Where endpoints' hints and node names are compared with."""
        return Location(self.name, self.info.zone if self.info else "")

    def ips(self, config: ProxyConfig) -> NodeIPs:
        """Return the node's own address per family."""
        return node_config.node_ips(config.bind_address, self.info.addresses if self.info else ())

    def node_address(self, config: ProxyConfig, family: IPFamily) -> bytes | None:
        """Return the node's packed address of a family, or None when it is not known."""
        ips = self.ips(config)
        return pack_address(ips.by_family[family]) if ips.is_known(family) else None


def base_settings(
    config: ProxyConfig, view: NodeView, family: IPFamily, *, loopback: bool = False
) -> Settings:
    """Return the settings that every data plane has; NodePorts on IPv4 loopback if *loopback*."""
    pod_cidrs = view.info.pod_cidrs if view.info else ()
    detector = node_config.local_detectors(config.detect_local, pod_cidrs)[family]
    networks = parse_networks(view.service_cidrs)
    return Settings(
        family=family,
        masquerade_bit=config.masquerade_bit,
        masquerade_all=config.masquerade_all,
        local_traffic=_local_traffic(detector),
        node_port_addresses=_node_port_addresses(config, view, family, loopback),
        service_cidrs=tuple(n for n in networks if network_family(n) is family),
    )


def _local_traffic(detector: LocalDetector) -> LocalTraffic:
    if detector.by is DetectBy.CIDR:
        return LocalTraffic(network=ip_network(detector.value, strict=False))
    if detector.by is DetectBy.BRIDGE:
        return LocalTraffic(interface=detector.value)
    if detector.by is DetectBy.INTERFACE_PREFIX:
        return LocalTraffic(interface_prefix=detector.value)
    return LocalTraffic()


def _node_port_addresses(
    config: ProxyConfig, view: NodeView, family: IPFamily, loopback: bool
) -> frozenset[bytes] | None:
    """Return the packed node addresses that accept NodePorts; None for all of them."""
    wanted = node_port_restriction(config, view, family)
    if wanted.match_all:
        return None
    return frozenset(
        address
        for address in view.addresses.get(family, frozenset())
        if wanted.matches(unpack_address(address))
        and (not is_loopback(address) or (loopback and family is IPFamily.IPV4))
    )


def node_port_restriction(
    config: ProxyConfig, view: NodeView, family: IPFamily
) -> NodePortAddresses:
    """Return what nodePortAddresses means for a family on this node."""
    cidrs = node_config.expand_primary(config.node_port_addresses, view.ips(config))
    return node_config.node_port_addresses(cidrs, family)


def is_loopback(packed: bytes) -> bool:
    """Return whether a packed address is one of the loopback interface's."""
    return packed[0] == 127 if len(packed) == 4 else packed == b"\0" * 15 + b"\1"
