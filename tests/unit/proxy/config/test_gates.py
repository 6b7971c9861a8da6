"""Feature gates."""

import pytest

from proxy.config.convert import replace_attribute
from proxy.config.defaults import default_config
from proxy.config.gates import KNOWN_GATES, REMOVED_GATES, gate_enabled, gate_problems


@pytest.mark.parametrize(
    ("name", "value", "kind", "said"),
    [
        ("NFTablesProxyMode", False, "locked-gate", "locked to true"),
        ("TopologyAwareHints", True, "unknown-gate", "was removed from Kubernetes"),
        ("WatchListClients", True, "unknown-gate", 'did you mean "WatchListClient"?'),
        ("Foo", True, "unknown-gate", "unknown feature gate; remove it"),
    ],
)
def test_a_gate_without_effect_is_reported(name: str, value: bool, kind: str, said: str) -> None:
    (problem,) = gate_problems({name: value}, {name: 3})
    assert (problem.path, problem.kind, problem.line) == (f"featureGates.{name}", kind, 3)
    assert said in problem.message


def test_gates_with_an_effect_or_at_their_locked_value_are_not_reported() -> None:
    assert gate_problems({"NFTablesProxyMode": True, "AllowServiceExternalIPs": False}) == []


def test_a_locked_gate_keeps_its_value_and_others_follow_the_configuration() -> None:
    gates = {"NFTablesProxyMode": False, "AllowServiceExternalIPs": False, "NativeHistograms": True}
    config = replace_attribute(default_config(), "feature_gates", gates)
    assert gate_enabled(config, "NFTablesProxyMode")
    assert not gate_enabled(config, "AllowServiceExternalIPs")
    assert gate_enabled(config, "NativeHistograms")
    assert gate_enabled(config, "WatchListClient")


def test_no_gate_is_both_known_and_removed() -> None:
    assert not REMOVED_GATES & KNOWN_GATES.keys()
