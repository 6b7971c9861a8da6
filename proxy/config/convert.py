"""
From file fields to the resolved configuration and back.

kube-proxy has one sync period, one minimum and one masqueradeAll; the file has them once per
mode. Reading takes the section of the configured mode, writing fills only that section.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import yaml

from proxy.config import types
from proxy.config.durations import format_duration
from proxy.config.schema import FIELD_BY_PATH, FIELDS, Field, Kind, Values

_SECTIONS: Mapping[str, type] = {
    "client_connection": types.ClientConnection,
    "logging": types.Logging,
    "iptables": types.IPTables,
    "ipvs": types.IPVSSettings,
    "nftables": types.NFTables,
    "winkernel": types.Winkernel,
    "detect_local": types.DetectLocal,
    "conntrack": types.Conntrack,
}


def period_section(mode: str) -> str:
    """Return the section that holds the sync periods of *mode*; unknown modes use iptables'."""
    return mode if mode in (types.IPVS, types.NFTABLES) else types.IPTABLES


def masquerade_all_section(mode: str) -> str:
    """Return the section that holds masqueradeAll of *mode*; ipvs uses iptables'."""
    return types.NFTABLES if mode == types.NFTABLES else types.IPTABLES


def config_from_values(values: Values) -> types.ProxyConfig:
    """
    Return the configuration for decoded file fields; a field left out is zero.

    Give it the result of `proxy.config.defaults.with_defaults` for what kube-proxy would run.
    """
    attributes = {
        field.attribute: values.get(field.path, field.zero) for field in FIELDS if field.attribute
    }
    mode = str(attributes["mode"])
    periods = period_section(mode)
    attributes["sync_period_s"] = _value(values, f"{periods}.syncPeriod")
    attributes["min_sync_period_s"] = _value(values, f"{periods}.minSyncPeriod")
    masquerade = f"{masquerade_all_section(mode)}.masqueradeAll"
    attributes["masquerade_all"] = _value(values, masquerade)
    attributes["detect_local.cluster_cidrs"] = split_cluster_cidr(
        str(_value(values, "clusterCIDR"))
    )
    attributes["empty_lists"] = frozenset(path for path, value in values.items() if value == ())
    return _build(attributes)


def split_cluster_cidr(text: str) -> tuple[str, ...]:
    """Return the parts of a comma list, untrimmed as kube-proxy leaves them; () for ""."""
    return tuple(text.split(",")) if text else ()


def replace_attribute(
    config: types.ProxyConfig, attribute: str, value: object
) -> types.ProxyConfig:
    """Return *config* with one dotted attribute replaced."""
    section, _, name = attribute.rpartition(".")
    if section:
        part = getattr(config, section)
        return dataclasses.replace(config, **{section: dataclasses.replace(part, **{name: value})})
    return dataclasses.replace(config, **{name: cast("Any", value)})


def _value(values: Values, path: str) -> object:
    return values.get(path, FIELD_BY_PATH[path].zero)


def _build(attributes: Mapping[str, object]) -> types.ProxyConfig:
    sections: dict[str, dict[str, object]] = {}
    top: dict[str, object] = {}
    for attribute, value in attributes.items():
        section, _, name = attribute.rpartition(".")
        (sections.setdefault(section, {}) if section else top)[name] = value
    top.update({name: _SECTIONS[name](**fields) for name, fields in sections.items()})
    return types.ProxyConfig(**cast("dict[str, Any]", top))


def to_v1alpha1(config: types.ProxyConfig) -> dict[str, object]:
    """
    Return *config* as a v1alpha1 object, keys sorted, complete with zero values.

    Periods and masqueradeAll appear in the section of the mode; the other sections have 0s and
    false, as ``--write-config-to`` and ``/configz`` of kube-proxy print them.
    """
    document: dict[str, Any] = {"apiVersion": types.API_VERSION, "kind": types.KIND}
    values = _file_values(config)
    for field in FIELDS:
        value = values[field.path]
        if field.omit_empty and value == field.zero:
            continue
        *sections, leaf = field.path.split(".")
        node = document
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = _plain(field, value, keep_empty=field.path in config.empty_lists)
    return _sorted(document)


def _file_values(config: types.ProxyConfig) -> dict[str, object]:
    values = {
        field.path: _attribute(config, field.attribute) if field.attribute else field.zero
        for field in FIELDS
    }
    periods = period_section(config.mode)
    values[f"{periods}.syncPeriod"] = config.sync_period_s
    values[f"{periods}.minSyncPeriod"] = config.min_sync_period_s
    values[f"{masquerade_all_section(config.mode)}.masqueradeAll"] = config.masquerade_all
    values["clusterCIDR"] = ",".join(config.detect_local.cluster_cidrs)
    return values


def _attribute(config: types.ProxyConfig, attribute: str) -> object:
    value: object = config
    for name in attribute.split("."):
        value = getattr(value, name)
    return value


def _plain(field: Field, value: Any, *, keep_empty: bool) -> object:
    """Return *value* as JSON types, the way the file spells it."""
    match field.kind:
        case Kind.DURATION | Kind.DURATION_OR_NANOSECONDS:
            return format_duration(value)
        case Kind.STRINGS:
            return list(value) if value or keep_empty else None
        case Kind.GATES:
            return dict(value)
        case Kind.VMODULE:
            return [{"filePattern": m.file_pattern, "verbosity": m.verbosity} for m in value]
        case Kind.FLOAT:
            return int(value) if float(value).is_integer() else value
        case _:
            return value


def _sorted(node: dict[str, Any]) -> dict[str, object]:
    return {
        key: _sorted(value) if isinstance(value, dict) else value
        for key, value in sorted(node.items())
    }


def render_yaml(config: types.ProxyConfig) -> str:
    """Return *config* as the YAML text of a v1alpha1 file."""
    return yaml.safe_dump(to_v1alpha1(config), sort_keys=True, default_flow_style=False)
