"""What becomes of a child's answer, and how long the pids of children are remembered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.kernel import iptables
from proxy.kernel.command import CommandError, Denied, TimedOut, ToolMissing
from proxy.kernel.iptables import ProgramIptables, RecentPids, RestoreRejected
from proxy.kernel.xtables_backend import Backend
from proxy.model.addresses import IPFamily

SAVED = "*nat\nCOMMIT\n"


class Installed:
    """Puts a script in place of ip6tables-restore."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def script(self, text: str) -> ProgramIptables:
        path = self.folder / "ip6tables-fake-restore"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return ProgramIptables(IPFamily.IPV6, Backend("nft", "", variant="-fake"))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    monkeypatch.setenv("PATH", os.pathsep.join((str(tmp_path), os.environ["PATH"])))
    return Installed(tmp_path)


def test_the_input_is_fed_with_the_arguments_that_keep_and_wait(installed: Installed) -> None:
    port = installed.script('echo "$@" > $(dirname $0)/said; cat >> $(dirname $0)/said')
    assert port.restore(SAVED) > 0
    said = (installed.folder / "said").read_text()
    assert said == f"-w 5 --noflush --counters\n{SAVED}"
    assert len(port.own_pids()) == 1


def test_a_missing_program_is_one_clear_error() -> None:
    port = ProgramIptables(IPFamily.IPV6, Backend("nft", "", variant="-none"))
    with pytest.raises(ToolMissing, match="ip6tables-none-restore is not installed"):
        port.restore(SAVED)


def test_a_kernel_without_ipv6_makes_its_family_unusable(installed: Installed) -> None:
    port = installed.script(
        "echo \"ip6tables-restore v1.8.9 (legacy): unable to initialize table 'nat'\" >&2\n"
        'echo "Error occurred at line: 1" >&2; exit 2'
    )
    assert "unable to initialize table 'nat'" in port.why_unusable()


def test_missing_rights_are_told_as_such(installed: Installed) -> None:
    port = installed.script(
        'echo "Could not fetch rule set generation id: Permission denied (you must be root)" >&2\n'
        "exit 4"
    )
    with pytest.raises(Denied, match="run as root"):
        port.restore(SAVED)


def test_a_refusal_without_a_line_keeps_the_programs_words(installed: Installed) -> None:
    port = installed.script('echo "ip6tables-restore: something new" >&2; exit 3')
    with pytest.raises(RestoreRejected) as refused:
        port.restore(SAVED)
    assert refused.value.message == "ip6tables-restore: something new"
    assert (refused.value.line, refused.value.transient) == (None, False)


def test_a_program_that_is_killed_says_nothing_and_is_told_so(installed: Installed) -> None:
    port = installed.script("kill -9 $$")
    with pytest.raises(CommandError, match="was killed by signal 9"):
        port.restore(SAVED)


def test_a_program_that_does_not_end_is_stopped(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iptables, "_RESTORE_LIMIT_S", 0.1)
    port = installed.script("exec sleep 60")
    with pytest.raises(TimedOut, match="did not end within"):
        port.restore(SAVED)


class Clock:
    """A time that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_no_more_than_the_latest_64_pids_are_remembered() -> None:
    pids = RecentPids(Clock())
    for pid in range(1, 101):
        pids.add(pid)
    assert pids() == frozenset(range(37, 101))


def test_a_pid_is_forgotten_after_two_minutes() -> None:
    clock = Clock()
    pids = RecentPids(clock)
    pids.add(7)
    clock.now += 60
    pids.add(8)
    assert pids() == {7, 8}
    clock.now += 61
    assert pids() == {8}
    clock.now += 60
    assert pids() == frozenset()


def test_a_pid_that_is_used_again_counts_from_then() -> None:
    clock = Clock()
    pids = RecentPids(clock)
    pids.add(7)
    clock.now += 100
    pids.add(7)
    clock.now += 100
    assert pids() == {7}
