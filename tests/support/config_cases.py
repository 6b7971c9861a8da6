"""The cases in tests/data/config, and their partial configurations as ProxyConfig."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from proxy.config.convert import config_from_values, replace_attribute
from proxy.config.durations import parse_duration
from proxy.config.schema import FIELDS, Kind
from proxy.config.types import ProxyConfig, VModule

DATA = Path(__file__).parents[1] / "data" / "config"
HEADER = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

# Where the resolved shape differs from the file; everything else has the same path in both.
_MOVED = {
    "linux.masqueradeAll": ("masquerade_all", Kind.BOOL),
    "syncPeriod": ("sync_period_s", Kind.DURATION),
    "minSyncPeriod": ("min_sync_period_s", Kind.DURATION),
    "detectLocal.clusterCIDRs": ("detect_local.cluster_cidrs", Kind.STRINGS),
}


@cache
def _document(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def cases(name: str, group: str) -> list[Any]:
    """Return the cases of one group as pytest parameters named after them."""
    return [pytest.param(case, id=case["name"]) for case in _document(name)[group]["cases"]]


def resolved(internal: Mapping[str, Any], base: ProxyConfig | None = None) -> ProxyConfig:
    """Return *internal*, laid over *base* or over all-zero fields."""
    by_path = {field.path: (field.attribute, field.kind) for field in FIELDS}
    config = config_from_values({}) if base is None else base
    for path, value in _leaves(internal, ""):
        attribute, kind = _MOVED.get(path) or by_path[path.removeprefix("linux.")]
        config = replace_attribute(config, attribute, _value(kind, value))
    return config


def _leaves(node: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found = []
    for key, value in node.items():
        is_section = isinstance(value, dict)
        found += _leaves(value, f"{prefix}{key}.") if is_section else [(prefix + key, value)]
    return found


def _value(kind: Kind, value: Any) -> Any:
    if kind in (Kind.DURATION, Kind.DURATION_OR_NANOSECONDS):
        return parse_duration(value)
    if kind is Kind.VMODULE:
        return tuple(VModule(item["filePattern"], item["verbosity"]) for item in value)
    return tuple(value) if kind is Kind.STRINGS else value


def non_zero(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested mapping without empty and zero leaves."""
    pruned = {
        key: non_zero(value) if isinstance(value, dict) else value
        for key, value in document.items()
    }
    return {k: v for k, v in pruned.items() if v not in ("", "0", "0s", 0, None, [], {}, False)}
