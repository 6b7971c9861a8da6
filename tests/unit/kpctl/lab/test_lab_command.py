"""Tests of ``kpctl lab``: usage, exit codes and messages; tests/packets runs whole labs."""

import json
import os

import pytest
from typer.testing import CliRunner

from kpctl.commands.lab import app
from kpctl.lab import build, session, state
from kpctl.lab.state import LabError
from proxy.kernel.command import ToolMissing


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "STATE_DIR", tmp_path / "labs")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(build, "find_tool", lambda name: f"/usr/sbin/{name}")


def kpctl_lab(*args):
    return CliRunner().invoke(app, list(args))


def test_help_lists_the_commands():
    output = kpctl_lab("--help").output
    assert all(command in output for command in ("run", "exec", "status", "down"))


@pytest.mark.parametrize("command", [["run"], ["down"], ["exec", "--", "true"]])
def test_other_users_than_root_get_one_message_and_exit_4(monkeypatch, command):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = kpctl_lab(*command)
    assert result.exit_code == 4
    assert result.stderr.startswith("error: the lab makes network namespaces and needs root")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ["run", "-o", "json"],
        ["run", "--mode", "nosuch"],
        ["run", "--services", "50001"],
        ["run", "--name", "No"],
        ["down", "--all", "--name", "a"],
        ["exec"],
    ],
)
def test_usage_errors_exit_with_2(args):
    result = kpctl_lab(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", [["down"], ["exec", "--", "true"]])
def test_without_a_lab_the_next_step_is_told(command):
    result = kpctl_lab(*command)
    assert result.exit_code == 1
    assert "kpctl lab run" in result.stderr


def test_status_without_a_lab_is_no_error():
    assert kpctl_lab("status").exit_code == 0
    assert json.loads(kpctl_lab("status", "-o", "json").stdout) == []


def test_status_shows_running_and_dead_labs():
    state.claim("alive", "nftables")
    dead = state.claim("dead", "nftables")
    (dead.directory / "lab.json").write_text("{}")
    rows = json.loads(kpctl_lab("status", "-o", "json").stdout)
    assert [(row["name"], row["state"]) for row in rows] == [("alive", "running"), ("dead", "dead")]
    result = kpctl_lab("status")
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:]] == [
        ["alive", "running"],
        ["dead", "dead"],
    ]
    assert "kpctl lab down --name dead" in result.stderr
    assert json.loads(kpctl_lab("status", "--name", "dead", "-o", "json").stdout) == rows[1:]


def test_down_removes_one_lab_and_down_all_every_lab():
    for name in ("a", "b", "c"):
        state.claim(name, "nftables")
    assert kpctl_lab("down", "--name", "b").exit_code == 0
    assert [record.name for record in state.records()] == ["a", "c"]
    result = kpctl_lab("down", "--all")
    assert result.exit_code == 0
    assert result.stderr == "lab a: removed\nlab c: removed\n"
    assert state.records() == ()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (LabError("not ready"), 1, "error: not ready\n"),
        (OSError(30, "Read-only file system", "/proc/sys/x"), 4, "/proc/sys/x"),
        (
            ToolMissing(["nft"], "nft is not installed", hint="install nftables"),
            4,
            "install nftables",
        ),
        (ExceptionGroup("tasks", [LabError("the proxy ended")]), 1, "error: the proxy ended\n"),
        (ExceptionGroup("tasks", [OSError(24, "Too many open files")]), 4, "Too many open files"),
    ],
)
def test_what_goes_wrong_in_a_lab_is_one_message(monkeypatch, error, code, text):
    def fail(_lab):
        raise error

    monkeypatch.setattr(session, "run_live", fail)
    result = kpctl_lab("run")
    assert result.exit_code == code
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_options_of_run_reach_the_lab(monkeypatch):
    seen = []
    monkeypatch.setattr(session, "run_once", lambda lab, as_json: seen.append((lab, as_json)) or 7)
    assert kpctl_lab("run", "--once", "--name", "x", "--services", "3", "-o", "json").exit_code == 7
    ((lab, as_json),) = seen
    assert lab.record.name == "x"
    assert lab.probes[-1].service == "bulk/svc-00003"
    assert as_json is True


def test_exec_replaces_the_process_inside_the_namespace(monkeypatch):
    record = state.claim("x", "nftables")
    seen = []
    monkeypatch.setattr(build, "enter", lambda *args: seen.append(args))
    monkeypatch.setattr(os, "execvpe", lambda *args: seen.append(args))
    kpctl_lab("exec", "--in", "client", "--", "curl", "-s", "--name")
    assert seen[0] == (record, "client")
    assert seen[1][:2] == ("curl", ["curl", "-s", "--name"])
    assert seen[1][2]["KPCTL_LAB"] == "x"


def test_exec_of_an_unknown_program_exits_as_a_shell_would(monkeypatch):
    state.claim("x", "nftables")
    monkeypatch.setattr(build, "enter", lambda *_: None)
    result = kpctl_lab("exec", "--", "no-such-program")
    assert result.exit_code == 127
    assert result.stderr == "error: no-such-program: No such file or directory\n"
