"""
What must never be in a snapshot, redacted or not, is taken out here.

Objects keep an explicit list of fields: no annotations with data, no managedFields, no environment
or arguments of containers; objects of any other kind (Secrets, ConfigMaps) are dropped whole. From
texts everything is removed that looks like a credential.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_METADATA = (
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp",
    "deletionTimestamp", "labels",
)  # fmt: skip
# Annotations that change what a proxy does, or tell the age of a change; none holds data of users.
_ANNOTATIONS = frozenset(
    {
        "service.kubernetes.io/topology-mode",
        "service.kubernetes.io/topology-aware-hints",
        "endpoints.kubernetes.io/last-change-trigger-time",
        "endpoints.kubernetes.io/over-capacity",
    }
)
_LONGEST_ANNOTATION = 64
_FIELDS: Mapping[str, Mapping[str, tuple[str, ...] | None]] = {
    "Service": {"spec": None, "status": ("loadBalancer",)},
    "EndpointSlice": {"addressType": None, "endpoints": None, "ports": None},
    "Node": {
        "spec": ("podCIDR", "podCIDRs", "taints", "unschedulable"),
        "status": ("addresses", "nodeInfo"),
    },
    "ServiceCIDR": {"spec": ("cidrs",)},
    "Pod": {
        "spec": ("nodeName", "hostNetwork"),
        "status": ("phase", "podIP", "podIPs", "hostIP", "startTime"),
    },
}
KINDS = frozenset(_FIELDS)
_API_VERSIONS = {
    "EndpointSlice": "discovery.k8s.io/v1",
    "ServiceCIDR": "networking.k8s.io/v1",
}

# JSON Web Tokens, PEM blocks, and words that are followed by something secret.
_SECRETS = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)"
    r"|(?<=[Bb]earer )[\w.~+/=-]{8,}"
    r"|(?<=[Pp]assword[=:])\s*[^\s,;]+"
    r"|(?<=[Tt]oken[=:])\s*[^\s,;]+",
    re.DOTALL,
)
REMOVED = "REMOVED"
# Settings of the network that are keys.
_SECRET_SETTINGS = ("tcp_fastopen_key", "stable_secret")


def strip_objects(values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects of the kinds a snapshot has, reduced to what it may hold."""
    return [strip_object(value) for value in values if value.get("kind") in KINDS]


def strip_object(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return one object of ``KINDS``, reduced."""
    kind = str(value["kind"])
    metadata = _mapping(value.get("metadata"))
    kept = {name: metadata[name] for name in _METADATA if name in metadata}
    annotations = {
        name: text
        for name, text in _mapping(metadata.get("annotations")).items()
        if name in _ANNOTATIONS and isinstance(text, str) and len(text) <= _LONGEST_ANNOTATION
    }
    if annotations:
        kept["annotations"] = annotations
    found: dict[str, Any] = {
        "apiVersion": value.get("apiVersion") or _API_VERSIONS.get(kind, "v1"),
        "kind": kind,
        "metadata": kept,
    }
    for field, inner in _FIELDS[kind].items():
        if field in value:
            whole = value[field]
            found[field] = (
                whole
                if inner is None
                else {name: _mapping(whole)[name] for name in inner if name in _mapping(whole)}
            )
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def strip_text(text: str) -> str:
    """Return *text* without what looks like a token, a key or a certificate."""
    return _SECRETS.sub(REMOVED, text)


def strip_sysctl(text: str) -> str:
    """Return the settings of the network alone, without those that are keys."""
    lines = [
        line
        for line in text.splitlines()
        if line.startswith("net.") and not any(word in line for word in _SECRET_SETTINGS)
    ]
    return "".join(f"{line}\n" for line in lines)
