"""The launcher of user-mode Linux tells what happened inside, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from tests.uml.run import CHECKOUT, NO_STATUS, NOT_INSTALLED, main

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="user-mode Linux is started by root"),
]


def _launcher(directory: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.uml.run", *words],
        cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _processes_of(directory: Path) -> list[str]:
    """The command lines that name the directory: every process of a machine has its kernel's."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in lines.splitlines() if str(directory) in line]


def _assert_nothing_left(directory: Path) -> None:
    eventually(lambda: not _processes_of(directory))
    assert list(directory.iterdir()) == []


def test_output_and_status_are_the_commands_and_the_host_keeps_no_trace(tmp_path: Path) -> None:
    made = CHECKOUT / f"written-inside-{uuid.uuid4()}"
    script = f"touch {made.name} && ls {made.name} && uname -n && echo to stderr >&2; exit 7"
    guest = _launcher(tmp_path, "--", "sh", "-c", script)
    output, errors = guest.communicate(timeout=120)
    assert (guest.returncode, output) == (7, f"{made.name}\numl\nto stderr\n"), errors
    assert not made.exists()
    _assert_nothing_left(tmp_path)


def test_a_kernel_that_stops_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    crash = "echo before; echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60"
    guest = _launcher(tmp_path, "--", "sh", "-c", crash)
    _, errors = guest.communicate(timeout=120)
    assert guest.returncode == NO_STATUS
    assert "Kernel panic" in errors
    assert "the kernel stopped before the command had ended" in errors
    _assert_nothing_left(tmp_path)


def test_a_command_that_hangs_is_a_failure(tmp_path: Path) -> None:
    guest = _launcher(tmp_path, "--timeout-s", "5", "--", "sleep", "600")
    _, errors = guest.communicate(timeout=120)
    assert guest.returncode == NO_STATUS
    assert "the time was up before the command had ended" in errors
    _assert_nothing_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_takes_the_machine_with_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    guest = _launcher(tmp_path, "--", "sh", "-c", "echo ready; exec sleep 600")
    assert guest.stdout is not None
    assert guest.stdout.readline() == "ready\n"
    guest.send_signal(number)
    guest.communicate(timeout=60)
    assert guest.returncode == 128 + number
    _assert_nothing_left(tmp_path)


def test_a_killed_launcher_takes_the_machine_with_it(tmp_path: Path) -> None:
    guest = _launcher(tmp_path, "--", "sh", "-c", "echo ready; exec sleep 600")
    assert guest.stdout is not None
    assert guest.stdout.readline() == "ready\n"
    guest.kill()
    guest.communicate(timeout=60)
    eventually(lambda: not _processes_of(tmp_path))


def test_a_missing_kernel_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tests.uml.run.MODULES", tmp_path / "none")
    assert main(["--", "true"]) == NOT_INSTALLED
    assert "apt-get install user-mode-linux" in capsys.readouterr().err
