"""
Every field of KubeProxyConfiguration v1alpha1: its type, its default, and where it goes.

Decoding, defaulting, conversion to `ProxyConfig` and writing back are all driven by this one
table. A decoded file is a `Values`: a flat mapping from field path to value with only the
fields that were given.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

Values = Mapping[str, object]


class Kind(enum.Enum):
    """Type of a field; the value is how an error message describes it."""

    STRING = "a string"
    BOOL = "true or false"
    INT32 = "an integer"
    UINT32 = "an integer of at least 0"
    FLOAT = "a number"
    DURATION = 'a duration such as "30s"'
    DURATION_OR_NANOSECONDS = 'a duration such as "5s", or an integer of nanoseconds'
    QUANTITY = 'a quantity such as "64Ki"'
    STRINGS = "a list of strings"
    GATES = "a mapping of gate names to true or false"
    VMODULE = "a list of {filePattern, verbosity}"


ZERO: Mapping[Kind, object] = {
    Kind.STRING: "",
    Kind.BOOL: False,
    Kind.INT32: 0,
    Kind.UINT32: 0,
    Kind.FLOAT: 0.0,
    Kind.DURATION: 0.0,
    Kind.DURATION_OR_NANOSECONDS: 0.0,
    Kind.QUANTITY: "0",
    Kind.STRINGS: (),
    Kind.GATES: {},
    Kind.VMODULE: (),
}


@dataclass(frozen=True, slots=True)
class Field:
    """
    One field of the file.

    Args:
        path: Dotted path in the file.
        kind: Its type.
        attribute: Dotted attribute of `ProxyConfig`; "" when several fields share one
            (see `proxy.config.convert`) or nobody uses it.
        default: Value when it is left out; None means the zero value of the kind.
        zero_is_unset: An explicit zero or "" gets the default too.
        omit_empty: Not written back while it is zero.
    """

    path: str
    kind: Kind
    attribute: str = ""
    default: object = None
    zero_is_unset: bool = False
    omit_empty: bool = False

    @property
    def zero(self) -> object:
        """The zero value."""
        return ZERO[self.kind]


_TEXT = "logging.options.text"
_JSON = "logging.options.json"
_CLIENT = "client_connection"

FIELDS: tuple[Field, ...] = (
    Field("featureGates", Kind.GATES, "feature_gates", omit_empty=True),
    Field("clientConnection.kubeconfig", Kind.STRING, f"{_CLIENT}.kubeconfig"),
    Field("clientConnection.acceptContentTypes", Kind.STRING, f"{_CLIENT}.accept_content_types"),
    Field(
        "clientConnection.contentType",
        Kind.STRING,
        f"{_CLIENT}.content_type",
        "application/vnd.kubernetes.protobuf",
        True,
    ),
    Field("clientConnection.qps", Kind.FLOAT, f"{_CLIENT}.qps", 5.0, True),
    Field("clientConnection.burst", Kind.INT32, f"{_CLIENT}.burst", 10, True),
    Field("logging.format", Kind.STRING, "logging.format", "text", True),
    Field(
        "logging.flushFrequency",
        Kind.DURATION_OR_NANOSECONDS,
        "logging.flush_frequency_s",
        5.0,
        True,
    ),
    Field("logging.verbosity", Kind.UINT32, "logging.verbosity"),
    Field("logging.vmodule", Kind.VMODULE, "logging.vmodule", omit_empty=True),
    Field(f"{_TEXT}.splitStream", Kind.BOOL, "logging.text_split_stream", omit_empty=True),
    Field(f"{_TEXT}.infoBufferSize", Kind.QUANTITY, "logging.text_info_buffer_size"),
    Field(f"{_JSON}.splitStream", Kind.BOOL, "logging.json_split_stream", omit_empty=True),
    Field(f"{_JSON}.infoBufferSize", Kind.QUANTITY, "logging.json_info_buffer_size"),
    Field("hostnameOverride", Kind.STRING, "hostname_override"),
    Field("bindAddress", Kind.STRING, "bind_address", "0.0.0.0", True),
    Field("healthzBindAddress", Kind.STRING, "healthz_bind_address"),
    Field("metricsBindAddress", Kind.STRING, "metrics_bind_address"),
    Field("bindAddressHardFail", Kind.BOOL, "bind_address_hard_fail"),
    Field("enableProfiling", Kind.BOOL, "enable_profiling"),
    Field("showHiddenMetricsForVersion", Kind.STRING, "show_hidden_metrics_for_version"),
    Field("mode", Kind.STRING, "mode"),
    Field("iptables.masqueradeBit", Kind.INT32, "iptables.masquerade_bit", 14),
    Field("iptables.masqueradeAll", Kind.BOOL),
    Field("iptables.localhostNodePorts", Kind.BOOL, "iptables.localhost_node_ports", True),
    Field("iptables.syncPeriod", Kind.DURATION, "", 30.0, True),
    Field("iptables.minSyncPeriod", Kind.DURATION, "", 1.0, True),
    Field("ipvs.syncPeriod", Kind.DURATION, "", 30.0, True),
    Field("ipvs.minSyncPeriod", Kind.DURATION),
    Field("ipvs.scheduler", Kind.STRING, "ipvs.scheduler"),
    Field("ipvs.excludeCIDRs", Kind.STRINGS, "ipvs.exclude_cidrs"),
    Field("ipvs.strictARP", Kind.BOOL, "ipvs.strict_arp"),
    Field("ipvs.tcpTimeout", Kind.DURATION, "ipvs.tcp_timeout_s"),
    Field("ipvs.tcpFinTimeout", Kind.DURATION, "ipvs.tcp_fin_timeout_s"),
    Field("ipvs.udpTimeout", Kind.DURATION, "ipvs.udp_timeout_s"),
    Field("nftables.masqueradeBit", Kind.INT32, "nftables.masquerade_bit", 14),
    Field("nftables.masqueradeAll", Kind.BOOL),
    Field("nftables.syncPeriod", Kind.DURATION, "", 30.0, True),
    Field("nftables.minSyncPeriod", Kind.DURATION, "", 1.0, True),
    Field("winkernel.networkName", Kind.STRING, "winkernel.network_name"),
    Field("winkernel.sourceVip", Kind.STRING, "winkernel.source_vip"),
    Field("winkernel.rootHnsEndpointName", Kind.STRING, "winkernel.root_hns_endpoint_name"),
    Field("winkernel.enableDSR", Kind.BOOL, "winkernel.enable_dsr"),
    Field("winkernel.forwardHealthCheckVip", Kind.BOOL, "winkernel.forward_health_check_vip"),
    Field("detectLocalMode", Kind.STRING, "detect_local.mode"),
    Field("detectLocal.bridgeInterface", Kind.STRING, "detect_local.bridge_interface"),
    Field("detectLocal.interfaceNamePrefix", Kind.STRING, "detect_local.interface_name_prefix"),
    Field("clusterCIDR", Kind.STRING),
    Field("nodePortAddresses", Kind.STRINGS, "node_port_addresses"),
    Field("oomScoreAdj", Kind.INT32, "oom_score_adj", -999),
    Field("conntrack.maxPerCore", Kind.INT32, "conntrack.max_per_core", 32768),
    Field("conntrack.min", Kind.INT32, "conntrack.min", 131072),
    Field(
        "conntrack.tcpEstablishedTimeout",
        Kind.DURATION,
        "conntrack.tcp_established_timeout_s",
        86400.0,
    ),
    Field(
        "conntrack.tcpCloseWaitTimeout", Kind.DURATION, "conntrack.tcp_close_wait_timeout_s", 3600.0
    ),
    Field("conntrack.tcpBeLiberal", Kind.BOOL, "conntrack.tcp_be_liberal"),
    Field("conntrack.udpTimeout", Kind.DURATION, "conntrack.udp_timeout_s"),
    Field("conntrack.udpStreamTimeout", Kind.DURATION, "conntrack.udp_stream_timeout_s"),
    Field("configSyncPeriod", Kind.DURATION, "config_sync_period_s", 900.0, True),
    Field("portRange", Kind.STRING),
    Field("windowsRunAsService", Kind.BOOL, "windows_run_as_service", omit_empty=True),
)

FIELD_BY_PATH: Mapping[str, Field] = {field.path: field for field in FIELDS}

# The file as a tree: a section is a mapping, a leaf its Field.
Tree = Mapping[str, "Tree | Field"]


def _tree() -> Tree:
    root: dict[str, object] = {}
    for field in FIELDS:
        *sections, leaf = field.path.split(".")
        node = root
        for section in sections:
            child = node.setdefault(section, {})
            assert isinstance(child, dict)
            node = child
        node[leaf] = field
    return root  # type: ignore[return-value]  # built above as exactly this


TREE: Tree = _tree()
