"""Tests of kpctl.lab.session with a lab that only pretends."""

import asyncio
import json
import os
import signal

import pytest

from kpctl.lab import session, state
from kpctl.lab.probes import Observation, Outcome, Probe
from kpctl.lab.state import LabError, LabRecord

PODS = frozenset({"web-1", "web-2"})
PROBES = (
    Probe("shop/web", "10.96.0.10", 80, "toolbox", pods=PODS),
    Probe("shop/soon", "10.96.0.70", 80, "toolbox", outcome=Outcome.REFUSED),
)


class PretendedLab:
    """Records what is done to it."""

    def __init__(self):
        self.record = LabRecord("lab", "abc123", os.getpid(), 0, "nftables", 0.0)
        self.probes = PROBES
        self.calls = []
        self.error = ""

    def up(self):
        self.calls.append("up")

    async def ready(self):
        self.calls.append("ready")

    def down(self):
        self.calls.append("down")

    def proxy_error(self):
        return self.error


@pytest.fixture
def lab(monkeypatch, tmp_path):
    monkeypatch.setattr(state, "STATE_DIR", tmp_path)
    monkeypatch.setattr(session, "_ROUND_S", 0.02)
    return PretendedLab()


def pretend_traffic(monkeypatch, pods=("web-1", "web-2"), then=None):
    """Land on *pods* in turn; *then* is called with the number of attempts so far."""
    count = 0

    async def attempt(probe, _sender):
        nonlocal count
        await asyncio.sleep(0)
        count += 1
        if then is not None:
            then(count)
        if probe.outcome is not Outcome.LANDED:
            return Observation(probe.outcome)
        return Observation(Outcome.LANDED, pods[count % len(pods)], "a", "a")

    monkeypatch.setattr(session, "attempt", attempt)


def test_a_series_that_goes_well_ends_with_0_and_a_removed_lab(lab, monkeypatch, capsys):
    pretend_traffic(monkeypatch)
    assert session.run_once(lab, as_json=False) == 0
    assert lab.calls == ["up", "ready", "down"]
    out, err = capsys.readouterr()
    assert "web-1:" in out
    assert "refused:3" in out
    assert "ready after" in err
    assert "ready after" not in out


def test_a_series_in_json_is_nothing_else_on_stdout(lab, monkeypatch, capsys):
    pretend_traffic(monkeypatch)
    session.run_once(lab, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert [row["sent"] for row in report["probes"]] == [40, 3]


def test_a_series_that_goes_wrong_ends_with_1_and_says_why(lab, monkeypatch, capsys):
    pretend_traffic(monkeypatch, pods=("web-1",))
    assert session.run_once(lab, as_json=False) == 1
    assert "shop/web on 10.96.0.10:80 from toolbox: never reached web-2" in capsys.readouterr().err


def test_an_interrupted_series_removes_the_lab(lab, monkeypatch, capsys):
    pretend_traffic(
        monkeypatch, then=lambda n: os.kill(os.getpid(), signal.SIGINT) if n == 5 else None
    )
    assert session.run_once(lab, as_json=False) == 130
    assert lab.calls == ["up", "ready", "down"]
    assert capsys.readouterr().out == ""


def test_a_lab_that_cannot_be_brought_up_is_taken_down(lab, monkeypatch):
    def fail():
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(lab, "up", fail)
    with pytest.raises(OSError, match="Read-only"):
        session.run_once(lab, as_json=False)
    assert lab.calls == ["down"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_live_lab_runs_until_a_signal(lab, monkeypatch, capsys, number):
    pretend_traffic(monkeypatch, then=lambda n: os.kill(os.getpid(), number) if n == 60 else None)
    assert session.run_live(lab) == 0
    assert lab.calls == ["up", "ready", "down"]
    out, err = capsys.readouterr()
    assert "SERVICE" in out
    assert f"removed after {number.name}" in err
    assert "try: kpctl lab exec" in err


def test_a_live_lab_ends_with_its_proxy(lab, monkeypatch):
    def die(_count):
        lab.error = "the proxy ended with status 1"

    pretend_traffic(monkeypatch, then=die)
    with pytest.raises(ExceptionGroup) as raised:
        session.run_live(lab)
    assert raised.group_contains(LabError, match="status 1")
    assert lab.calls == ["up", "ready", "down"]


def test_a_live_lab_without_a_terminal_prints_each_change(lab, monkeypatch, capsys):
    pods = ["web-1"]

    def act(count):
        if count == 8:
            pods[0] = "dns-1"
        elif count == 16:
            os.kill(os.getpid(), signal.SIGINT)

    pretend_traffic(monkeypatch, pods=pods, then=act)
    session.run_live(lab)
    assert "shop/web on 10.96.0.10:80 from toolbox: landed on dns-1" in capsys.readouterr().out


def test_what_dead_labs_left_behind_is_swept_and_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(state, "STATE_DIR", tmp_path)
    alive = state.claim("alive", "nftables")
    dead = state.claim("dead", "nftables")
    path = dead.directory / "lab.json"
    path.write_text(path.read_text().replace(str(dead.started), str(dead.started - 1)))
    session.sweep("alive")
    assert state.records() == (alive, state.find("dead"))
    session.sweep(None)
    assert state.records() == (alive,)
    assert "lab dead" in capsys.readouterr().err
