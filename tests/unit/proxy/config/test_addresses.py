"""CIDR and address lists by family."""

from typing import Any

import pytest

from proxy.config.addresses import cidrs_by_family, ips_by_family, is_catch_all, is_cidr
from proxy.model.addresses import IPFamily
from tests.support.config_cases import cases


def split(found: dict[IPFamily, tuple[str, ...]], wanted: str) -> dict[str, list[str]]:
    family = IPFamily(wanted)
    (other,) = set(IPFamily) - {family}
    return {"wanted": list(found[family]), "other": list(found[other])}


@pytest.mark.parametrize("case", cases("addresses", "ipsByFamily"))
def test_addresses_are_split_by_family_in_order(case: dict[str, Any]) -> None:
    assert split(ips_by_family(case["input"]), case["wanted"]) == case["expect"]


@pytest.mark.parametrize("case", cases("addresses", "cidrsByFamily"))
def test_cidrs_are_split_by_family_in_order(case: dict[str, Any]) -> None:
    assert split(cidrs_by_family(case["input"]), case["wanted"]) == case["expect"]


@pytest.mark.parametrize("case", cases("addresses", "isCatchAll"))
def test_a_catch_all_has_no_prefix(case: dict[str, Any]) -> None:
    assert is_catch_all(case["input"]) is case["expect"]


def test_what_is_neither_is_left_out() -> None:
    assert not any(ips_by_family(["", "x", "1.2.3.4/8"]).values())
    assert not any(cidrs_by_family(["", "x", "1.2.3.4"]).values())


@pytest.mark.parametrize("text", ["10.0.0.0/255.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/"])
def test_only_prefix_lengths_make_a_cidr(text: str) -> None:
    assert not is_cidr(text)
