"""
The rules a resolved configuration must keep before the proxy starts.

Every rule reports the field as it is written in a file, so that the message can be acted on;
complaints come in the order kube-proxy makes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.config import types
from proxy.config.addresses import is_cidr
from proxy.config.convert import period_section
from proxy.config.decode import show
from proxy.config.durations import format_duration
from proxy.config.gates import gate_enabled
from proxy.config.problems import Problem
from proxy.config.types import ProxyConfig
from proxy.model.addresses import pack_address

LINUX = "linux"
WINDOWS = "windows"
PROXY_MODES = {
    LINUX: (types.IPTABLES, types.IPVS, types.NFTABLES, ""),
    WINDOWS: ("kernelspace", ""),
}
_DETECT_LOCAL_MODES = (
    types.CLUSTER_CIDR,
    types.NODE_CIDR,
    types.BRIDGE_INTERFACE,
    types.INTERFACE_NAME_PREFIX,
    "",
)
_LOG_FORMATS = ("text", "json")
_MAX_VERBOSITY = 2**31 - 1

Problems = Iterator[Problem]


def validate_config(config: ProxyConfig, *, platform: str = LINUX) -> tuple[Problem, ...]:
    """Return all complaints about *config*; empty when it is valid. Never raises."""
    return (
        *_bit("iptables.masqueradeBit", config.iptables.masquerade_bit),
        *_mode_section(config),
        *_linux(config),
        *validate_mode(config.mode, platform=platform),
        *_at_least_0("clientConnection.burst", config.client_connection.burst),
        *_periods(config),
        *_ip("bindAddress", config.bind_address),
        *_servers(config),
        *_detect_local(config),
        *validate_node_port_addresses(config.node_port_addresses),
        *_hidden_metrics(config.show_hidden_metrics_for_version),
        *_logging(config),
    )


def validate_mode(mode: str, *, platform: str = LINUX) -> Problems:
    """Complain about a mode the platform does not have."""
    yield from _one_of("mode", mode, PROXY_MODES[platform])


def validate_node_port_addresses(addresses: Sequence[str]) -> Problems:
    """Complain about entries that are no CIDR; the word primary must stand alone."""
    for index, address in enumerate(addresses):
        path = f"nodePortAddresses[{index}]"
        if address == types.PRIMARY:
            if len(addresses) > 1:
                message = f'can\'t use both "{types.PRIMARY}" and CIDRs'
                yield Problem(path, message, "primary-mixed-with-cidrs", address)
            return
        yield from _cidr(path, address)


def validate_cidr_pair(path: str, cidrs: Sequence[str]) -> Problems:
    """Complain unless *cidrs* is one CIDR, or one of each family."""
    invalid = [
        problem for index, cidr in enumerate(cidrs) for problem in _cidr(f"{path}[{index}]", cidr)
    ]
    if not cidrs:
        yield Problem(path, "must have at least one CIDR", "at-least-one-cidr", [])
    elif invalid:
        yield from invalid
    elif len(cidrs) > 2 or len({":" in cidr for cidr in cidrs}) != len(cidrs):
        message = "must be a single CIDR, or one IPv4 and one IPv6 CIDR"
        message += f", got {', '.join(cidrs)}"
        yield Problem(path, message, "one-cidr-or-one-per-family", list(cidrs))


def validate_host_port(path: str, address: str) -> Problems:
    """Complain unless *address* is ``IP:port`` with a port from 1 to 65535."""
    host, port = split_host_port(address)
    if host is None or port is None:
        yield _invalid(path, address, "must be IP:port", "ip-and-port")
        return
    yield from _ip(path, host)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        yield _invalid(path, port, "must be a port from 1 to 65535", "port")


def split_host_port(address: str) -> tuple[str, str] | tuple[None, None]:
    """Return host and port of ``1.2.3.4:5`` or ``[::1]:5``; (None, None) for anything else."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return None, None
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], port
    if ":" in host or "[" in host or "]" in host:
        return None, None
    return host, port


def _mode_section(config: ProxyConfig) -> Problems:
    if config.mode == types.NFTABLES:
        yield from _bit("nftables.masqueradeBit", config.nftables.masquerade_bit)
    if config.mode == types.IPVS:
        yield from validate_ipvs(config.ipvs)


def validate_ipvs(ipvs: types.IPVSSettings) -> Problems:
    """Complain about the ipvs section."""
    yield from _duration_at_least_0("ipvs.tcpTimeout", ipvs.tcp_timeout_s)
    yield from _duration_at_least_0("ipvs.tcpFinTimeout", ipvs.tcp_fin_timeout_s)
    yield from _duration_at_least_0("ipvs.udpTimeout", ipvs.udp_timeout_s)
    for index, cidr in enumerate(ipvs.exclude_cidrs):
        yield from _cidr(f"ipvs.excludeCIDRs[{index}]", cidr)


def _linux(config: ProxyConfig) -> Problems:
    conntrack = config.conntrack
    yield from _at_least_0("conntrack.maxPerCore", conntrack.max_per_core)
    yield from _at_least_0("conntrack.min", conntrack.min)
    for name, seconds in (
        ("tcpEstablishedTimeout", conntrack.tcp_established_timeout_s),
        ("tcpCloseWaitTimeout", conntrack.tcp_close_wait_timeout_s),
        ("udpTimeout", conntrack.udp_timeout_s),
        ("udpStreamTimeout", conntrack.udp_stream_timeout_s),
    ):
        yield from _duration_at_least_0(f"conntrack.{name}", seconds)
    yield from _range("oomScoreAdj", config.oom_score_adj, -1000, 1000)


def _periods(config: ProxyConfig) -> Problems:
    section = period_section(config.mode)
    sync, minimum = f"{section}.syncPeriod", f"{section}.minSyncPeriod"
    yield from _more_than_0(sync, config.sync_period_s)
    yield from _duration_at_least_0(minimum, config.min_sync_period_s)
    yield from _more_than_0("configSyncPeriod", config.config_sync_period_s)
    if config.min_sync_period_s > config.sync_period_s:
        shown = format_duration(config.min_sync_period_s)
        message = f"must be greater than or equal to {minimum}, which is {shown}"
        limits = {"field": minimum}
        yield Problem(sync, message, "at-least-field", shown, limits=limits)


def _servers(config: ProxyConfig) -> Problems:
    if config.healthz_bind_address:  # "" switches the health server off
        yield from validate_host_port("healthzBindAddress", config.healthz_bind_address)
    yield from validate_host_port("metricsBindAddress", config.metrics_bind_address)


def _detect_local(config: ProxyConfig) -> Problems:
    detection = config.detect_local
    yield from _one_of("detectLocalMode", detection.mode, _DETECT_LOCAL_MODES)
    if detection.mode == types.CLUSTER_CIDR and detection.cluster_cidrs:
        yield from validate_cidr_pair("clusterCIDR", detection.cluster_cidrs)
    for mode, name, value in (
        (types.BRIDGE_INTERFACE, "bridgeInterface", detection.bridge_interface),
        (types.INTERFACE_NAME_PREFIX, "interfaceNamePrefix", detection.interface_name_prefix),
    ):
        if detection.mode == mode and not value:
            message = f"must not be empty with detectLocalMode {mode}"
            yield Problem(f"detectLocal.{name}", message, "non-empty", value)


def _hidden_metrics(version: str) -> Problems:
    major, minor = types.KUBERNETES_VERSION
    previous = f"{major}.{minor - 1}"
    if version not in ("", previous):
        message = f"must be left out or {previous}, the previous minor version"
        yield _invalid(
            "showHiddenMetricsForVersion", version, message, "not-one-of", [previous, ""]
        )


def _logging(config: ProxyConfig) -> Problems:
    logging = config.logging
    yield from _log_format(config)
    if logging.flush_frequency_s <= 0:
        yield from _more_than_0("logging.flushFrequency", logging.flush_frequency_s)
    if logging.verbosity > _MAX_VERBOSITY:
        message = f"must be at most {_MAX_VERBOSITY}"
        yield _invalid("logging.verbosity", logging.verbosity, message, "range")
    yield from _vmodule(logging)
    if not gate_enabled(config, "LoggingAlphaOptions"):
        yield from _alpha_options(logging)


def _log_format(config: ProxyConfig) -> Problems:
    chosen = config.logging.format
    if chosen not in _LOG_FORMATS:
        message = f"must be one of {', '.join(_LOG_FORMATS)}"
        yield _invalid("logging.format", chosen, message, "log-format")
    elif chosen == "json" and not gate_enabled(config, "LoggingBetaOptions"):
        message = "needs the feature gate LoggingBetaOptions"
        yield _invalid("logging.format", chosen, message, "forbidden")


def _vmodule(logging: types.Logging) -> Problems:
    if logging.vmodule and logging.format != "text":
        message = "is only supported with logging.format text"
        yield Problem("logging.vmodule", message, "forbidden")
    for index, module in enumerate(logging.vmodule):
        path = f"logging.vmodule[{index}].filePattern"
        if not module.file_pattern:
            yield Problem(path, "must not be empty", "non-empty", "")
        elif "=" in module.file_pattern or "," in module.file_pattern:
            yield _invalid(path, module.file_pattern, 'must not contain "=" or ","', "pattern")


def _alpha_options(logging: types.Logging) -> Problems:
    for path, value, default in (
        ("text.splitStream", logging.text_split_stream, False),
        ("text.infoBufferSize", logging.text_info_buffer_size, "0"),
        ("json.splitStream", logging.json_split_stream, False),
        ("json.infoBufferSize", logging.json_info_buffer_size, "0"),
    ):
        if value != default:
            message = "needs the feature gate LoggingAlphaOptions"
            yield Problem(f"logging.options.{path}", message, "forbidden", value)


def _invalid(
    path: str, value: object, message: str, kind: str, allowed: Sequence[str] = ()
) -> Problem:
    limits = {"allowed": list(allowed)} if allowed else {}
    return Problem(path, f"{message}, got {show(value)}", kind, value, limits=limits)


def _one_of(path: str, value: str, allowed: Sequence[str]) -> Problems:
    if value not in allowed:
        named = ", ".join(choice for choice in allowed if choice)
        yield _invalid(path, value, f"must be one of {named} or left out", "not-one-of", allowed)


def _range(path: str, value: int, low: int, high: int) -> Problems:
    if not low <= value <= high:
        message = f"must be within the range [{low}, {high}], got {value}"
        yield Problem(path, message, "range", value, limits={"min": low, "max": high})


def _bit(path: str, value: int) -> Problems:
    yield from _range(path, value, 0, 31)


def _at_least_0(path: str, value: int | float, shown: object = None) -> Problems:
    if value < 0:
        shown = value if shown is None else shown
        message = f"must be greater than or equal to 0, got {shown}"
        yield Problem(path, message, "at-least", shown, limits={"min": 0})


def _duration_at_least_0(path: str, seconds: float) -> Problems:
    yield from _at_least_0(path, seconds, format_duration(seconds))


def _more_than_0(path: str, seconds: float) -> Problems:
    if seconds <= 0:
        shown = format_duration(seconds)
        message = f"must be greater than 0, got {shown}"
        yield Problem(path, message, "more-than", shown, limits={"min": 0})


def _ip(path: str, address: str) -> Problems:
    if pack_address(address) is None:
        yield _invalid(path, address, "must be an IP address", "ip")


def _cidr(path: str, cidr: str) -> Problems:
    if not is_cidr(cidr):
        example = "must be a CIDR such as 10.0.0.0/8 or fd00::/64"
        yield _invalid(path, cidr, example, "cidr")
