"""Conclusions from the node: addresses, node ports, local traffic."""

from typing import Any

import pytest

from proxy.config.node import (
    DetectBy,
    LocalDetector,
    expand_primary,
    local_detectors,
    node_ips,
    node_name,
    node_port_addresses,
)
from proxy.model.addresses import IPFamily
from tests.support.config_cases import cases, resolved


@pytest.mark.parametrize("case", cases("addresses", "nodeIPs"))
def test_node_addresses_and_primary_family(case: dict[str, Any]) -> None:
    ips = node_ips(case["bindAddress"], case["nodeAddresses"])
    by_family = {family.value: address for family, address in ips.by_family.items()}
    assert {"primaryFamily": ips.primary_family.value, **by_family} == case["expect"]


@pytest.mark.parametrize("case", cases("addresses", "nodePortAddresses"))
def test_addresses_that_answer_node_ports(case: dict[str, Any]) -> None:
    found = {}
    for family in IPFamily:
        restriction = node_port_addresses(case["nodePortAddresses"], family)
        local = [
            address.partition("/")[0]
            for addresses in case["interfaces"].values()
            for address in addresses
        ]
        found[family.value] = {
            "matchAll": restriction.match_all,
            "ips": list(restriction.node_addresses(local)),
        }
    assert found == case["expect"]


@pytest.mark.parametrize("case", cases("addresses", "coversIPv4Loopback"))
def test_node_ports_on_ipv4_loopback(case: dict[str, Any]) -> None:
    restriction = node_port_addresses(case["nodePortAddresses"], IPFamily.IPV4)
    assert restriction.covers_ipv4_loopback is case["expect"]


@pytest.mark.parametrize("case", cases("addresses", "localDetectors"))
def test_local_detectors(case: dict[str, Any]) -> None:
    config = resolved(
        {"detectLocalMode": case["detectLocalMode"], "detectLocal": case["detectLocal"]}
    )
    detectors = local_detectors(config.detect_local, case["nodePodCIDRs"])
    expected = {}
    for family, wanted in case["expect"].items():
        by, *value = wanted.values()
        expected[IPFamily(family)] = LocalDetector(DetectBy(by), *value)
    assert detectors == expected


@pytest.mark.parametrize(
    ("bind_address", "addresses", "expanded"),
    [
        ("", ["192.168.0.1", "fd00::1"], ("192.168.0.1/32", "fd00::1/128")),
        ("", ["fd00::1"], ("fd00::1/128",)),  # the unknown family is left out
        ("", [], ()),
        ("10.0.0.9", ["192.168.0.1"], ("10.0.0.9/32",)),
    ],
)
def test_primary_stands_for_the_known_node_addresses(
    bind_address: str, addresses: list[str], expanded: tuple[str, ...]
) -> None:
    assert expand_primary(["primary"], node_ips(bind_address, addresses)) == expanded


def test_cidrs_are_not_expanded() -> None:
    assert expand_primary(["10.0.0.0/8"], node_ips("", ["192.168.0.1"])) == ("10.0.0.0/8",)


@pytest.mark.parametrize(
    ("override", "host", "name"), [("", " Node-A\n", "node-a"), (" B ", "a", "b")]
)
def test_the_node_name_is_trimmed_and_lower_case(override: str, host: str, name: str) -> None:
    assert node_name(override, host) == name
