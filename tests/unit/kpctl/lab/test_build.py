"""Tests of kpctl.lab.build that need no namespaces; tests/packets brings up whole labs."""

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from kpctl.lab import build, state
from kpctl.lab.state import LabError, LabRecord, process_start
from proxy.kernel.command import PIPE, spawn


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A lab of another process's that was never brought up."""
    monkeypatch.setattr(state, "STATE_DIR", tmp_path / "labs")
    return state.claim("shop", "nftables")


def owned_by(record, process):
    start = process_start(process.pid)
    return LabRecord(record.name, record.ident, process.pid, start, record.mode, record.created)


def test_other_users_than_root_are_told_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root") as raised:
        build.require_environment()
    assert raised.value.exit_code == 4


def test_all_missing_tools_are_named_with_their_packages(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(build, "find_tool", lambda _: None)
    with pytest.raises(LabError, match=r"ip and nft.*install iproute2 nftables") as raised:
        build.require_environment("nftables")
    assert raised.value.exit_code == 4


def test_with_root_and_tools_there_is_nothing_to_object_to(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(build, "find_tool", lambda _: "/usr/sbin/tool")
    build.require_environment()


def test_the_proxy_runs_on_the_labs_manifests_as_node_1(tmp_path):
    argv = build.proxy_argv(tmp_path, "nftables")
    assert argv[:4] == [sys.executable, "-m", "kpctl", "run"]
    options = dict(zip(argv[4::2], argv[5::2], strict=True))
    assert options["--manifests"] == str(tmp_path)
    assert options["--proxy-mode"] == "nftables"
    assert options["--hostname-override"] == "node-1"
    assert options["--cluster-cidr"] == "10.244.0.0/16,fd02::/16"


def test_programs_in_the_lab_know_it_and_no_cluster(record, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/root/.kube/config")
    monkeypatch.setenv("PATH", "/usr/bin")
    environment = build.environment(record)
    assert environment["KPCTL_LAB"] == "shop"
    assert environment["KPCTL_LAB_DIR"] == str(record.directory)
    assert "KUBECONFIG" not in environment
    assert environment["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"


def test_an_unknown_host_is_answered_by_the_known_ones(record, monkeypatch, tmp_path):
    for role in ("client", "node-1"):
        (tmp_path / f"{record.prefix}{role}").touch()
    monkeypatch.setattr("kpctl.lab.netns.NETNS_DIR", tmp_path)
    with pytest.raises(LabError, match="no host 'web-7'; it has: client, node-1") as raised:
        build.enter(record, "web-7")
    assert raised.value.exit_code == 2


@contextmanager
def shell(script):
    """A shell that has run *script* up to its "ready"; killed at the end."""
    with spawn(["sh", "-c", script], stdout=PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_a_running_lab_is_asked_to_end(record):
    with shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done") as process:
        build.stop(owned_by(record, process))
        assert process.wait(10) == 7
    assert state.records() == ()


def test_a_lab_that_does_not_end_is_killed(record):
    with shell("trap '' TERM; echo ready; while :; do sleep 0.01; done") as process:
        build.stop(owned_by(record, process), timeout_s=0.1)
        assert process.wait(10) == -signal.SIGKILL
    assert state.records() == ()


def test_a_recycled_process_id_is_spared(record):
    with spawn(["sleep", "60"]) as process:
        other = owned_by(record, process)
        build.stop(
            LabRecord(other.name, other.ident, other.pid, other.started - 1, other.mode, 0.0)
        )
        assert process.poll() is None
        process.kill()
    assert state.records() == ()


def test_a_lab_whose_process_has_ended_is_removed(record):
    process = spawn(["true"])
    ended = owned_by(record, process) if process_start(process.pid) else record
    process.wait()
    build.stop(ended)
    assert state.records() == ()
