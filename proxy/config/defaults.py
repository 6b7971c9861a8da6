"""
Defaults, in the two rounds kube-proxy has: of the file format, then of the platform.

The command line is laid over the file defaults of an empty file, so its defaults are those of
the iptables mode and of IPv4, whatever other flags say.
"""

from __future__ import annotations

import dataclasses

from proxy.config import types
from proxy.config.convert import config_from_values
from proxy.config.schema import FIELDS, Values
from proxy.model.addresses import pack_address

HEALTHZ_PORT = 10256
METRICS_PORT = 10249


def append_port(address: str, port: int) -> str:
    """Return *address* with ``:port`` added if it is a bare IP; anything else is unchanged."""
    if pack_address(address) is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def with_defaults(values: Values) -> dict[str, object]:
    """Return decoded file fields with the defaults of the v1alpha1 format filled in."""
    result = dict(values)
    for field in FIELDS:
        given = result.get(field.path)
        if field.default is None or not (given is None or field.zero_is_unset):
            continue
        if given is None or given == field.zero:
            result[field.path] = field.default
    any_address, loopback = _server_defaults(str(result["bindAddress"]))
    healthz = str(result.get("healthzBindAddress") or any_address)
    metrics = str(result.get("metricsBindAddress") or loopback)
    result["healthzBindAddress"] = append_port(healthz, HEALTHZ_PORT)
    result["metricsBindAddress"] = append_port(metrics, METRICS_PORT)
    return result


def _server_defaults(bind_address: str) -> tuple[str, str]:
    packed = pack_address(bind_address)
    if packed is not None and len(packed) == 4:
        return "0.0.0.0", "127.0.0.1"
    return "::", "::1"


def default_config() -> types.ProxyConfig:
    """Return what kube-proxy starts from without file and flags, before platform defaults."""
    return config_from_values(with_defaults({}))


def with_platform_defaults(config: types.ProxyConfig) -> types.ProxyConfig:
    """
    Return *config* with the Linux defaults for what is still empty.

    The mode becomes iptables, local detection ClusterCIDR, and the nftables mode answers node
    ports only on the node's primary addresses.
    """
    mode = config.mode or types.IPTABLES
    addresses = config.node_port_addresses
    if mode == types.NFTABLES and not addresses:
        addresses = (types.PRIMARY,)
    detection = config.detect_local
    return dataclasses.replace(
        config,
        mode=mode,
        node_port_addresses=addresses,
        detect_local=dataclasses.replace(detection, mode=detection.mode or types.CLUSTER_CIDR),
    )
