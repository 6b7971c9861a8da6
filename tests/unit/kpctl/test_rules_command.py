"""``kpctl rules``: counts, findings, predictions, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from kpctl.commands.rules import rules

DATA = Path(__file__).parents[2] / "data" / "nft" / "every-service-kind.json"
ORPHAN = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\nCOMMIT\n"
DANGLING = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n"


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(rules)
    return CliRunner().invoke(app, list(arguments))


def test_the_table_and_json_tell_the_same_totals(tmp_path: Path) -> None:
    (tmp_path / "nft-ruleset.json").write_text(DATA.read_text())
    report = json.loads(run("--from", str(tmp_path), "-o", "json").stdout)
    assert (report["apiVersion"], report["kind"]) == ("kpctl.io/v1", "RulesReport")
    assert report["totals"]["chains"] == len(report["chains"])
    assert "ns1/svc1:p80" in {one["service"] for one in report["services"]}
    table = run("--from", str(tmp_path))
    assert table.exit_code == 0
    assert f"{report['totals']['rules']} rules" in table.stdout
    assert "service-*" in table.stdout


def test_warnings_fail_the_command_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "iptables-save.txt").write_text(ORPHAN)
    result = run("--from", str(tmp_path))
    assert result.exit_code == 0
    assert "orphan-chain" in result.stdout
    assert run("--from", str(tmp_path), "--fail-on", "warning").exit_code == 1


def test_errors_fail_the_command(tmp_path: Path) -> None:
    (tmp_path / "iptables-save.txt").write_text(DANGLING)
    result = run("--from", str(tmp_path))
    assert result.exit_code == 1
    assert "ip nat PREROUTING rule 1" in result.stdout


def test_a_dump_without_rules_is_undetermined(tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text('{"kind":"ServiceList","apiVersion":"v1","items":[]}')
    result = run("--from", str(tmp_path))
    assert result.exit_code == 3
    assert "no rules to count" in result.stderr


def test_a_prediction_needs_no_node_when_the_size_is_given() -> None:
    asked = ("--predict", "--services", "1000", "--growth", "10%/month", "--months", "2")
    report = json.loads(run(*asked, "-o", "json").stdout)
    assert [one["services"] for one in report["months"]] == [1000, 1100, 1210]
    now = report["months"][0]
    assert now["ruleOfThumb"]["rules"] == 13000
    assert all(mode["source"] for mode in now["exact"])
    assert all(cost["source"] and cost["basis"] for cost in now["costs"])
    table = run(*asked)
    assert table.exit_code == 0
    assert "13,000" in table.stdout
    assert "measured at 1,000 Services" in table.stdout


def test_a_prediction_without_objects_is_undetermined(tmp_path: Path) -> None:
    (tmp_path / "iptables-save.txt").write_text(ORPHAN)
    result = run("--predict", "--from", str(tmp_path))
    assert result.exit_code == 3
    assert "--services N" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--services", "5"],
        ["--predict", "--growth", "ten"],
        ["--predict", "--services", "1000", "--growth", "900%", "--months", "100"],
        ["--predict", "--services", "-1"],
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2
