"""Third parties on the way to Services: a note where they refuse, drift where they translate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diagnostics.drift.model import DriftReport
from tests.support.drift_faults import DATA, drift_of, said

NODE = DATA / "drift" / "nftables"
CHAIN = "table inet fw {{\n\tchain f {{\n\t\ttype filter hook forward priority 0; policy accept;\n"
FIREWALL = CHAIN + "\t\t{rule}\n\t}}\n}}\n"


def with_rule(rule: str, directory: Path) -> DriftReport:
    node = shutil.copytree(NODE, directory / "node")
    path = node / "nft-ruleset.txt"
    text = path.read_text() + FIREWALL.format(rule=rule)
    path.unlink()
    path.write_text(text)
    return drift_of(node)


@pytest.mark.parametrize(
    "rule",
    ["ip daddr 192.0.2.0/24 drop", "ct state established accept", "counter", "ct state new accept"],
)
def test_rules_that_let_calls_through_are_not_worth_a_word(rule: str, tmp_path: Path) -> None:
    report = with_rule(rule, tmp_path)
    assert report.differences == (), said(report)
    assert not [note for note in report.notes if "somebody else" in note]


def test_who_refuses_all_calls_to_a_service_is_noted(tmp_path: Path) -> None:
    report = with_rule("ip daddr 10.180.0.1 drop", tmp_path)
    assert report.differences == ()
    (note,) = [note for note in report.notes if "somebody else" in note]
    assert note.startswith("a call to ns1/svc1:p80 from external, pod")
    assert "is dropped by somebody else's rule: inet fw f" in note


def test_who_refuses_calls_to_some_endpoints_is_noted(tmp_path: Path) -> None:
    report = with_rule("ip daddr 10.180.0.4 drop", tmp_path)
    assert report.differences == ()
    (note,) = [note for note in report.notes if "somebody else" in note]
    assert note.startswith("a call to ns4/svc4:p80")
    assert "is refused on the way to some endpoints by somebody else's rule: inet fw f" in note
