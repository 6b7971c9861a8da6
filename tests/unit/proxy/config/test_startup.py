"""Settings that are valid but do not fit the node's families."""

from typing import Any

import pytest

from proxy.config.startup import family_mismatches, node_port_warnings
from proxy.model.addresses import IPFamily
from tests.support.config_cases import cases, resolved


@pytest.mark.parametrize("case", cases("startup", "startupWarnings"))
def test_odd_node_port_addresses_are_reported(case: dict[str, Any]) -> None:
    warnings = node_port_warnings(resolved(case["internal"]), IPFamily(case["primaryFamily"]), ())
    assert bool(warnings) is case["expect"]["reported"]


@pytest.mark.parametrize("stack", ["singleStack", "dualStack"])
@pytest.mark.parametrize("case", cases("startup", "startupFamilyCheck"))
def test_family_mismatches_are_reported(case: dict[str, Any], stack: str) -> None:
    found = family_mismatches(
        resolved(case["internal"]),
        IPFamily(case["primaryFamily"]),
        case["nodePodCIDRs"],
        dual_stack=stack == "dualStack",
    )
    result = {"reported": bool(found), "fatal": any(mismatch.fatal for mismatch in found)}
    assert result == case["expect"][stack]


def test_unset_node_port_addresses_are_reported_with_the_remedy() -> None:
    (warning,) = node_port_warnings(resolved({}), IPFamily.IPV4, ())
    assert "--nodeport-addresses primary" in warning


def test_the_word_primary_is_never_odd() -> None:
    config = resolved({"nodePortAddresses": ["primary"]})
    assert node_port_warnings(config, IPFamily.IPV6, ("10.0.0.0/8", "fd00::/64")) == ()


def test_dual_stack_pod_networks_make_the_cluster_dual_stack() -> None:
    config = resolved({"nodePortAddresses": ["10.0.0.0/8"]})
    (warning,) = node_port_warnings(config, IPFamily.IPV4, ("10.1.0.0/24", "fd00::/64"))
    assert "appears to be dual-stack but nodePortAddresses contains only IPv4" in warning


@pytest.mark.parametrize("name", ["healthzBindAddress", "metricsBindAddress"])
def test_servers_of_the_other_family_are_reported_on_single_stack(name: str) -> None:
    config = resolved({name: "[2001:db8::1]:9999"})
    (mismatch,) = family_mismatches(config, IPFamily.IPV4, (), dual_stack=False)
    assert mismatch.message == f"cluster is IPv4-only but {name} is IPv6"
    assert family_mismatches(config, IPFamily.IPV4, (), dual_stack=True) == ()
