"""`kpctl config`."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from kpctl.commands import config as config_command
from kpctl.commands.config import app
from tests.support.config_cases import DATA, HEADER

EXAMPLE = str(DATA / "kubeadm-complete.yaml")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.conf"
    path.write_text(f"{HEADER}mode: nftables\n")
    return path


def test_a_usable_file_is_valid(file: Path) -> None:
    result = run("validate", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{file}: valid\n")


def test_warnings_pass_unless_strict() -> None:
    relaxed, strict = run("validate", EXAMPLE), run("validate", "--strict", EXAMPLE)
    assert (relaxed.exit_code, strict.exit_code) == (0, 1)
    assert "warning: logging.sanitization: unknown field" in relaxed.stdout
    assert "error: logging.sanitization: unknown field" in strict.stdout
    assert "not valid, 2 errors, 0 warnings" in strict.stdout


def test_findings_name_path_and_line(file: Path) -> None:
    file.write_text(f"{HEADER}ipvs:\n  syncPeriod: 30\nMode: x\n")
    result = run("validate", str(file))
    assert result.exit_code == 1
    assert 'ipvs.syncPeriod: expected a duration such as "30s", got 30 (line 4)' in result.stdout
    assert 'warning: Mode: unknown field, ignored; did you mean "mode"? (line 5)' in result.stdout


def test_a_terminal_gets_a_table(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f"{HEADER}Mode: x\n")
    monkeypatch.setattr(config_command, "stdout_is_terminal", lambda: True)
    header, row, summary = run("validate", str(file)).stdout.splitlines()
    assert header.split() == ["SEVERITY", "LINE", "FIELD", "MESSAGE"]
    assert row.split()[:4] == ["warning", "3", "Mode", "unknown"]
    assert summary.endswith("valid, 0 errors, 1 warning")


def test_values_are_validated_too(file: Path) -> None:
    file.write_text(f"{HEADER}iptables: {{masqueradeBit: 99}}\n")
    result = run("validate", "-o", "json", str(file))
    report = json.loads(result.stdout)
    assert (result.exit_code, report["kind"], report["valid"]) == (1, "ConfigReport", False)
    (finding,) = report["findings"]
    assert (finding["severity"], finding["path"]) == ("error", "iptables.masqueradeBit")
    assert (finding["kind"], finding["value"]) == ("range", 99)


def test_a_windows_file_is_judged_by_windows_modes(file: Path) -> None:
    file.write_text(f"{HEADER}mode: kernelspace\n")
    assert run("validate", str(file)).exit_code == 1
    assert run("validate", "--os", "windows", str(file)).exit_code == 0


@pytest.mark.parametrize("command", ["validate", "view"])
def test_an_unreadable_file_is_the_environments_fault(command: str, tmp_path: Path) -> None:
    result = run(command, str(tmp_path / "absent"))
    assert (result.exit_code, result.stdout) == (4, "")
    assert "error: cannot read" in result.stderr


def test_view_shows_the_effective_configuration(file: Path) -> None:
    result = run("view", str(file), "-v=3")
    shown = yaml.safe_load(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (shown["mode"], shown["nodePortAddresses"]) == ("nftables", ["primary"])
    assert shown["logging"]["verbosity"] == 3


def test_view_takes_flags_alone_and_prints_json() -> None:
    result = run("view", "--proxy-mode", "ipvs", "--ipvs-sync-period=7s", "-o", "json")
    assert json.loads(result.stdout)["ipvs"]["syncPeriod"] == "7s"


def test_view_names_ignored_flags_on_stderr(file: Path) -> None:
    result = run("view", str(file), "--proxy-mode=ipvs")
    assert result.exit_code == 0
    assert "warning: --proxy-mode: ignored because --config is given" in result.stderr


def test_view_shows_an_invalid_configuration_with_its_errors() -> None:
    result = run("view", "--proxy-mode=foo")
    assert (result.exit_code, yaml.safe_load(result.stdout)["mode"]) == (1, "foo")
    assert "error: mode: must be one of" in result.stderr


def test_view_of_an_undecodable_file_is_a_finding(file: Path) -> None:
    file.write_text(f"{HEADER}mode: 1\nnonsense: 1\n")
    result = run("view", str(file))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: mode: expected a string" in result.stderr
    assert "warning: nonsense: unknown field" in result.stderr


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--v", "x"], ["a", "b"]])
def test_view_with_a_wrong_command_line_is_a_usage_error(arguments: list[str]) -> None:
    assert run("view", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("mode", "addresses"), [("nftables", ["primary"]), ("iptables", None), ("ipvs", None)]
)
def test_defaults_of_a_mode(mode: str, addresses: list[str] | None) -> None:
    shown = yaml.safe_load(run("defaults", "--mode", mode).stdout)
    assert (shown["mode"], shown["nodePortAddresses"]) == (mode, addresses)
    assert shown[mode]["syncPeriod"] == "30s"


def test_printed_defaults_are_a_valid_file(file: Path) -> None:
    file.write_text(run("defaults", "-o", "json").stdout)
    assert run("validate", "--strict", str(file)).exit_code == 0
