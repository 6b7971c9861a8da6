"""
From command line to configuration, in kube-proxy's order.

1. defaults of an empty file; 2. flags; 3. with ``--config`` the file replaces all of that, except
for the logging flags; 4. platform defaults; 5. ``--hostname-override``; 6. validation. Unlike
kube-proxy, every flag that step 3 discards is reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from proxy.config import types
from proxy.config.convert import replace_attribute, split_cluster_cidr
from proxy.config.defaults import append_port, default_config, with_platform_defaults
from proxy.config.file import LoadedFile, load_file
from proxy.config.flag_table import FLAG_BY_NAME, FLAGS
from proxy.config.flag_types import Group
from proxy.config.flags import ParsedFlags
from proxy.config.gates import gate_problems
from proxy.config.problems import FlagError, Problem
from proxy.config.schema import FIELD_BY_PATH
from proxy.config.validation import validate_config


@dataclass(frozen=True, slots=True)
class Resolution:
    """
    What a command line amounts to.

    Args:
        config: The effective configuration, complete with platform defaults.
        warnings: What should be told but does not stop the proxy.
        errors: Complaints of the validation; the proxy must not start unless this is empty.
        config_file: Path given to --config, or "".
    """

    config: types.ProxyConfig
    warnings: tuple[Problem, ...]
    errors: tuple[Problem, ...]
    config_file: str


def resolve(flags: ParsedFlags, load: Callable[[str], LoadedFile] = load_file) -> Resolution:
    """
    Return the configuration *flags* ask for.

    Raises:
        FlagError: A blank --hostname-override.
        UnreadableFile, InvalidConfiguration: The file of --config cannot be used at all.
    """
    path = flags.text("config")
    warnings = flags.warnings
    if path:
        loaded = load(path)
        config = _with_logging_flags(loaded.config, flags)
        warnings += loaded.warnings + _ignored_flags(flags, path)
    else:
        config = config_from_flags(flags)
        warnings += tuple(gate_problems(config.feature_gates, path="--feature-gates"))
    config = _with_hostname(with_platform_defaults(config), flags)
    return Resolution(config, warnings, validate_config(config), path)


def config_from_flags(flags: ParsedFlags) -> types.ProxyConfig:
    """Return the configuration of a command line without --config, before platform defaults."""
    config = default_config()
    for name, value in flags.given.items():
        flag = FLAG_BY_NAME[name]
        if not flag.field or flag.deprecated or name == "hostname-override":
            continue
        attribute = FIELD_BY_PATH[flag.field].attribute
        is_address = flag.field in ("bindAddress", "healthzBindAddress", "metricsBindAddress")
        if attribute and (value != "" or not is_address):  # an empty address keeps the default
            config = replace_attribute(config, attribute, value)
    return _with_port_flags(_with_shared_fields(config, flags), flags)


def _with_shared_fields(config: types.ProxyConfig, flags: ParsedFlags) -> types.ProxyConfig:
    """Lay flags over the fields that have one value for all modes, or another shape in files."""
    periods = "ipvs" if config.mode == types.IPVS else "iptables"  # nftables has no own flags
    for name, attribute in (
        ("masquerade-all", "masquerade_all"),
        (f"{periods}-sync-period", "sync_period_s"),
        (f"{periods}-min-sync-period", "min_sync_period_s"),
    ):
        if flags.changed(name):
            config = replace_attribute(config, attribute, flags[name])
    if flags.changed("cluster-cidr"):
        cidrs = split_cluster_cidr(flags.text("cluster-cidr"))
        config = replace_attribute(config, "detect_local.cluster_cidrs", cidrs)
    return config


def _with_port_flags(config: types.ProxyConfig, flags: ParsedFlags) -> types.ProxyConfig:
    healthz = _with_port(config.healthz_bind_address, flags["healthz-port"])
    metrics = _with_port(config.metrics_bind_address, flags["metrics-port"])
    return dataclasses.replace(config, healthz_bind_address=healthz, metrics_bind_address=metrics)


def _with_port(address: str, port: object) -> str:
    return append_port(address, cast("int", port)) if port != 0 else ""


def _with_logging_flags(config: types.ProxyConfig, flags: ParsedFlags) -> types.ProxyConfig:
    for name, value in flags.given.items():
        flag = FLAG_BY_NAME[name]
        if flag.group is not Group.LOGGING:
            continue
        if name == "vmodule":  # the only one that adds to the file instead of replacing it
            value = cast("tuple[Any, ...]", value) + config.logging.vmodule
        config = replace_attribute(config, FIELD_BY_PATH[flag.field].attribute, value)
    return config


def _with_hostname(config: types.ProxyConfig, flags: ParsedFlags) -> types.ProxyConfig:
    given = flags.text("hostname-override")
    if not given:
        return config
    name = given.strip().lower()
    if not name:
        message = "is blank; give the Node's name or leave the flag out"
        raise FlagError([Problem("--hostname-override", message, "non-empty", given)])
    return dataclasses.replace(config, hostname_override=name)


def _ignored_flags(flags: ParsedFlags, path: str) -> tuple[Problem, ...]:
    return tuple(
        Problem(
            f"--{flag.name}",
            f"ignored because --config is given; set {flag.field} in {path} instead",
            "ignored-flag",
            flags[flag.name],
        )
        for flag in FLAGS
        if flags.changed(flag.name) and not flag.with_config
    )
