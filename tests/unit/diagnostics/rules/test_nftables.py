"""Counts and findings of nftables rules."""
# ruff: noqa: E101 - nft lists with tabs, and aligns elements with blanks

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.nftables.json_reader import read_json
from diagnostics.nftables.text_reader import read_text
from diagnostics.rules.model import Inventory, Kind
from diagnostics.rules.nftables import count_nftables

DATA = Path(__file__).parents[3] / "data" / "nft"
TABLE = """\
table ip kube-proxy {
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.9 . tcp . 80 comment "shop/web:http" : goto lb-2 }
	}
	map endpoints {
		type ipv4_addr . inet_proto . inet_service . integer : ipv4_addr . inet_service
		elements = { 10.96.0.9 . tcp . 80 . 0 : 10.0.0.1 . 8080,
			     10.96.0.9 . tcp . 80 . 1 : 10.0.0.2 . 8080 }
	}
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr . meta l4proto . th dport vmap @service-ips
	}
	chain lb-2 {
		dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints
	}
}
"""


def inventory_of(text: str) -> Inventory:
    inventory = Inventory()
    count_nftables(inventory, read_text(text), frozenset())
    return inventory


def test_elements_of_a_frontend_and_of_its_endpoints_belong_to_its_service() -> None:
    inventory = inventory_of(TABLE)
    assert not inventory.findings
    assert inventory.services == {"shop/web:http": {"elements": 3}}


def test_an_element_that_names_a_missing_chain_is_an_error() -> None:
    found = inventory_of(TABLE.replace("goto lb-2", "goto lb-3")).findings
    assert [(one.kind, one.service) for one in found] == [
        (Kind.DANGLING, "shop/web:http"),
        (Kind.ORPHAN, ""),
    ]
    assert found[0].text == '10.96.0.9 . tcp . 80 comment "shop/web:http" : goto lb-3'


def test_a_map_that_no_rule_asks_is_told_with_what_it_leads_to() -> None:
    text = TABLE.replace("\t\tip daddr . meta l4proto . th dport vmap @service-ips\n", "")
    kinds = {one.kind: one.place for one in inventory_of(text).findings}
    assert kinds == {
        Kind.ORPHAN: "ip kube-proxy lb-2",
        Kind.UNUSED_SET: "ip kube-proxy service-ips",
    }


def test_a_rule_that_asks_a_missing_map_is_an_error() -> None:
    found = inventory_of(TABLE.replace("map @endpoints", "map @gone")).findings
    assert Kind.MISSING_SET in {one.kind for one in found}


FILTER = """\
table inet firewall {
	chain input {
		type filter hook input priority filter; policy accept;
		%s
		%s
	}
}
"""


@pytest.mark.parametrize(
    ("first", "second", "shadowed"),
    [
        ("drop", "tcp dport 80 accept", True),
        ("counter accept", "drop", True),
        ("tcp dport 80 drop", "tcp dport 80 accept", True),
        ("tcp dport 80 drop", "tcp dport 80 ip saddr 10.0.0.1 accept", True),
        ("tcp dport 80 drop", "tcp dport 81 accept", False),
        ("tcp dport 80 counter", "tcp dport 80 accept", False),
        ("limit rate 5/second accept", "limit rate 5/second drop", False),
        ("meta mark set 0x1", "tcp dport 80 accept", False),
        ("tcp dport 80 jump other", "tcp dport 80 accept", False),
        ("dnat ip to ip daddr map @a", "tcp dport 80 accept", False),
    ],
)
def test_rules_behind_one_that_takes_everything_are_shadowed(
    first: str, second: str, shadowed: bool
) -> None:
    found = inventory_of(FILTER % (first, second)).findings
    assert [one.kind is Kind.SHADOWED for one in found if one.level == "warning"] == (
        [True] if shadowed else []
    )


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda path: path.stem)
def test_json_and_text_of_real_tables_count_the_same_and_have_nothing_wrong(path: Path) -> None:
    from_json, from_text = Inventory(), Inventory()
    count_nftables(from_json, read_json(path.read_bytes()), frozenset())
    text = path.with_suffix(".txt").read_text()
    count_nftables(from_text, read_text(text), frozenset())
    assert from_json.totals() == from_text.totals()
    assert from_json.services == from_text.services
    bad = {Kind.DANGLING, Kind.MISSING_SET, Kind.SHADOWED}
    if (
        path.stem == "third-parties"
    ):  # one of its chains has every statement once, accept among them
        bad -= {Kind.SHADOWED}
    assert not [one for one in from_json.findings if one.kind in bad]
