"""Whole snapshots of real nodes, in the three modes: everything is counted, nothing is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.rules.inventory import take_inventory
from diagnostics.rules.model import Kind
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.open import open_snapshot
from diagnostics.snapshot.source import MemorySource

SNAPSHOTS = Path(__file__).parents[3] / "data" / "snapshots"


@pytest.mark.parametrize("mode", ["iptables", "ipvs", "nftables"])
def test_a_real_node_is_counted_by_service_and_has_no_rule_without_effect(mode: str) -> None:
    inventory = take_inventory(open_snapshot(SNAPSHOTS / mode).node())
    assert inventory is not None
    assert inventory.services
    assert {one.kind for one in inventory.findings} <= {Kind.NO_SERVERS}
    assert inventory.totals()["rules"] > 0


def test_ipvs_mode_is_counted_by_virtual_servers_and_sets() -> None:
    snapshot = open_snapshot(SNAPSHOTS / "ipvs").node()
    inventory = take_inventory(snapshot)
    assert inventory is not None
    lines = (SNAPSHOTS / "ipvs" / "ipvsadm-save.txt").read_text().splitlines()
    assert inventory.virtual_servers == sum(line.startswith("-A ") for line in lines)
    assert inventory.real_servers == sum(line.startswith("-a ") for line in lines)
    entries = (SNAPSHOTS / "ipvs" / "ipset-save.txt").read_text().count("\nadd ")
    assert sum(one.elements for one in inventory.sets if one.backend == "ipset") == entries


def test_an_endpoint_that_the_api_does_not_have_is_found(tmp_path: Path) -> None:
    for path in (SNAPSHOTS / "iptables").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rules = tmp_path / "iptables-save.txt"
    healthy = rules.read_text()
    place = healthy.split("--to-destination ")[-1].split()[0]
    address, _, port = place.rpartition(":")
    rules.write_text(healthy.replace(f"--to-destination {place}", f"--to-destination {address}:1"))
    inventory = take_inventory(open_snapshot(tmp_path).node())
    assert inventory is not None
    found = [one for one in inventory.findings if one.kind is Kind.UNKNOWN_ENDPOINT]
    assert found
    assert all(f"{address}:1" in one.text and one.service for one in found)
    assert port != "1"


def test_a_node_of_which_nothing_is_known_has_no_inventory() -> None:
    assert take_inventory(NodeSnapshot(MemorySource({}, "nothing"))) is None
