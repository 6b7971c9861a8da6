"""
The resolved configuration: what the proxy runs with, whatever mixture of file and flags it
came from.

It is kube-proxy's internal shape: one sync period and one masqueradeAll instead of one per mode,
and clusterCIDR as a list. Durations are seconds (``*_s``). Nothing here is checked; see
`proxy.config.validation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KUBERNETES_VERSION = (1, 36)  # the kube-proxy whose configuration and metrics are reproduced

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"

IPTABLES = "iptables"
IPVS = "ipvs"
NFTABLES = "nftables"

CLUSTER_CIDR = "ClusterCIDR"
NODE_CIDR = "NodeCIDR"
BRIDGE_INTERFACE = "BridgeInterface"
INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"

PRIMARY = "primary"  # word in nodePortAddresses that stands for the node's own addresses


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """How to reach the API server."""

    kubeconfig: str  # path; "" means in-cluster unless --master is given
    accept_content_types: str
    content_type: str
    qps: float
    burst: int


@dataclass(frozen=True, slots=True)
class VModule:
    """Log verbosity for the source files that match a pattern."""

    file_pattern: str
    verbosity: int


@dataclass(frozen=True, slots=True)
class Logging:
    """The logging section."""

    format: str  # text or json
    flush_frequency_s: float  # > 0
    verbosity: int  # 0..2147483647
    vmodule: tuple[VModule, ...]
    text_split_stream: bool
    text_info_buffer_size: str  # Kubernetes quantity
    json_split_stream: bool
    json_info_buffer_size: str


@dataclass(frozen=True, slots=True)
class DetectLocal:
    """How traffic of this node's pods is recognised."""

    mode: str  # one of the four names above; "" only before platform defaults
    cluster_cidrs: tuple[str, ...]
    bridge_interface: str
    interface_name_prefix: str


@dataclass(frozen=True, slots=True)
class IPTables:
    """Settings of the iptables mode; the masquerade bit also serves ipvs."""

    masquerade_bit: int  # 0..31
    localhost_node_ports: bool


@dataclass(frozen=True, slots=True)
class IPVSSettings:
    """Settings of the ipvs mode; a timeout of 0 leaves the kernel's value."""

    scheduler: str  # "" means rr
    exclude_cidrs: tuple[str, ...]
    strict_arp: bool
    tcp_timeout_s: float
    tcp_fin_timeout_s: float
    udp_timeout_s: float


@dataclass(frozen=True, slots=True)
class NFTables:
    """Settings of the nftables mode."""

    masquerade_bit: int  # 0..31


@dataclass(frozen=True, slots=True)
class Conntrack:
    """Kernel connection tracking limits; a timeout of 0 leaves the kernel's value."""

    max_per_core: int  # 0 leaves the limit and ignores min
    min: int
    tcp_established_timeout_s: float
    tcp_close_wait_timeout_s: float
    tcp_be_liberal: bool  # False never switches it off
    udp_timeout_s: float
    udp_stream_timeout_s: float


@dataclass(frozen=True, slots=True)
class Winkernel:
    """Windows settings: kept for writing back, without effect here."""

    network_name: str
    source_vip: str
    root_hns_endpoint_name: str
    enable_dsr: bool
    forward_health_check_vip: bool


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """The whole resolved configuration."""

    feature_gates: Mapping[str, bool]  # as given; ask proxy.config.gates for effective values
    client_connection: ClientConnection
    logging: Logging
    hostname_override: str
    bind_address: str
    healthz_bind_address: str  # IP:port; "" switches the server off
    metrics_bind_address: str  # IP:port
    bind_address_hard_fail: bool
    enable_profiling: bool
    show_hidden_metrics_for_version: str
    mode: str  # iptables, ipvs or nftables; "" only before platform defaults
    iptables: IPTables
    ipvs: IPVSSettings
    nftables: NFTables
    winkernel: Winkernel
    detect_local: DetectLocal
    node_port_addresses: tuple[str, ...]  # CIDRs, or the word primary alone
    oom_score_adj: int  # -1000..1000
    conntrack: Conntrack
    config_sync_period_s: float
    sync_period_s: float
    min_sync_period_s: float
    masquerade_all: bool
    windows_run_as_service: bool
    # Lists that were given as [] instead of left out. They mean the same, but are written back
    # as they were, so that the written file does not differ from its source.
    empty_lists: frozenset[str]

    @property
    def masquerade_bit(self) -> int:
        """The bit of the packet mark that asks for masquerading in this mode."""
        return (self.nftables if self.mode == NFTABLES else self.iptables).masquerade_bit
