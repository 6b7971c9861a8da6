"""
Feature gates of Kubernetes 1.36 that a node proxy's configuration can mention.

kube-proxy refuses to start when a locked gate is set to its other value or a gate is unknown.
Here both are reported and have no effect: files outlive gates, and a node without Services is
worse than a gate without effect.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.config.problems import Problem
from proxy.config.types import ProxyConfig


@dataclass(frozen=True, slots=True)
class Gate:
    """
    A gate: its value when it is not set, and whether that can be changed at all.

    ``stage`` is ALPHA or BETA, and empty for one that is generally available.
    """

    default: bool
    stage: str = ""
    locked: bool = False


KNOWN_GATES: Mapping[str, Gate] = {
    "AllAlpha": Gate(False, "ALPHA"),
    "AllBeta": Gate(False, "BETA"),
    "AllowServiceExternalIPs": Gate(True),
    "ComponentFlagz": Gate(True, "BETA"),
    "ComponentStatusz": Gate(True, "BETA"),
    "ContextualLogging": Gate(True, "BETA"),
    "LoggingAlphaOptions": Gate(False, "ALPHA"),
    "LoggingBetaOptions": Gate(True, "BETA"),
    "MultiCIDRServiceAllocator": Gate(True, locked=True),
    "NFTablesProxyMode": Gate(True, locked=True),
    "NativeHistograms": Gate(False, "ALPHA"),
    "PreferSameTrafficDistribution": Gate(True, locked=True),
    "WatchListClient": Gate(True, "BETA"),
    "WinDSR": Gate(True, locked=True),
    "WinOverlay": Gate(True, locked=True),
}

REMOVED_GATES = frozenset(
    {
        "CleanupStaleUDPSvcConntrack",
        "KubeProxyDrainingTerminatingNodes",
        "LoadBalancerIPMode",
        "MinimizeIPTablesRestore",
        "ProxyTerminatingEndpoints",
        "ServiceTrafficDistribution",
        "TopologyAwareHints",
    }
)


def gate_enabled(config: ProxyConfig, name: str) -> bool:
    """Return the effective value of a known gate; a locked gate keeps its value."""
    gate = KNOWN_GATES[name]
    if gate.locked:
        return gate.default
    return config.feature_gates.get(name, gate.default)


def gate_problems(
    gates: Mapping[str, bool], lines: Mapping[str, int] | None = None, path: str = "featureGates"
) -> list[Problem]:
    """
    Return a problem for each gate that has no effect.

    Args:
        gates: Gates as given.
        lines: Line of each gate in its file, as far as known.
        path: The field or flag that holds them.
    """
    found = (
        _gate_problem(name, value, f"{path}.{name}", (lines or {}).get(name))
        for name, value in gates.items()
    )
    return [problem for problem in found if problem is not None]


def _gate_problem(name: str, value: bool, path: str, line: int | None) -> Problem | None:
    gate = KNOWN_GATES.get(name)
    if gate is None:
        return Problem(path, _unknown_gate(name), "unknown-gate", value, line=line)
    if gate.locked and value != gate.default:
        held = str(gate.default).lower()
        message = f"has no effect: the gate is locked to {held}; remove it"
        return Problem(path, message, "locked-gate", value, line=line)
    return None


def _unknown_gate(name: str) -> str:
    if name in REMOVED_GATES:
        return "has no effect: the gate was removed from Kubernetes; remove it"
    close = difflib.get_close_matches(name, KNOWN_GATES, n=1, cutoff=0.8)
    hint = f'; did you mean "{close[0]}"?' if close else "; remove it"
    return f"has no effect: unknown feature gate{hint}"
