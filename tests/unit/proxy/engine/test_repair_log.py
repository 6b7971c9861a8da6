"""Foreign changes are told at once, and a thousand of them in a few lines."""

from __future__ import annotations

import io

import pytest

from proxy.config.types import IPTABLES, IPVS, NFTABLES
from proxy.engine.repair_log import RepairLog
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.model.addresses import IPFamily
from proxy.runtime.logs import LogSettings, setup_logging
from tests.support.engine_rig import Rig, foreign_edit, many_services

V4, V6 = IPFamily.IPV4, IPFamily.IPV6


@pytest.fixture
def stream():
    made = io.StringIO()
    setup_logging(LogSettings(), made)
    yield made
    setup_logging(LogSettings())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told(stream, clock) -> RepairLog:
    return RepairLog(NFTABLES, clock)


def edit(number: int = 0, family: IPFamily = V4) -> ForeignEdit:
    return ForeignEdit(family, ("rule added: 1",), (f"chain-{number}",), "rule", f"tool[{number}]")


def lines(stream) -> list[str]:
    return stream.getvalue().splitlines()


def test_the_first_edit_is_told_at_once(told, stream) -> None:
    told.note(edit())
    (line,) = lines(stream)
    assert 'ipFamily="IPv4" by="tool[0]" changes="rule added: 1" where="chain-0" edits=1' in line
    assert told.due() == float("inf")


def test_those_that_follow_are_summed_up_after_ten_seconds(told, stream, clock) -> None:
    for number in range(1000):
        told.note(edit(number))
    assert len(lines(stream)) == 1
    assert told.due() == clock.now + 10
    clock.now += 9.9
    told.tell()
    assert len(lines(stream)) == 1
    clock.now += 0.2
    told.tell()
    assert len(lines(stream)) == 2
    assert 'where="chain-1, chain-2, chain-3, chain-4, chain-5" edits=999' in lines(stream)[1]
    told.tell()
    assert len(lines(stream)) == 2
    assert told.due() == float("inf")


def test_a_lasting_quarrel_takes_a_line_in_ten_seconds(told, stream, clock) -> None:
    for number in range(600):  # a minute
        told.note(edit(number))
        clock.now += 0.1
    assert len(lines(stream)) in (6, 7)


def test_after_ten_quiet_seconds_the_next_edit_is_told_at_once(told, stream, clock) -> None:
    told.note(edit(1))
    clock.now += 10
    told.note(edit(2))
    assert len(lines(stream)) == 2


def test_families_do_not_hide_each_other(told, stream) -> None:
    told.note(edit(1))
    told.note(edit(1, V6))
    assert len(lines(stream)) == 2


@pytest.mark.parametrize(
    ("mode", "what"),
    [(NFTABLES, "nftables table;"), (IPTABLES, "iptables rules;"), (IPVS, "virtual servers,")],
)
def test_each_mode_names_what_is_its_own(stream, clock, mode, what) -> None:
    RepairLog(mode, clock).note(edit())
    assert f"Another program changed the proxy's {what}" in stream.getvalue()


def test_the_engine_counts_every_edit_and_wakes_up_for_the_summary(stream, monkeypatch) -> None:
    rig = Rig(monkeypatch)
    rig.start(*many_services(1))
    for _ in range(50):
        rig.turn(foreign_edit("element"))
    assert rig.metrics.self_repairs.values == {("IPv4", "element"): 50}
    assert stream.getvalue().count("Another program") == 1
    assert rig.until_due() <= 10
    rig.after(10)
    assert stream.getvalue().count("Another program") == 2
    assert "edits=49" in stream.getvalue()
    assert rig.until_due() > 300
