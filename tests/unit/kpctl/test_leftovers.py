"""When what other modes left goes."""

from __future__ import annotations

import threading

import pytest

from kpctl import leftovers
from kpctl.leftovers import LeftoverRemoval
from proxy.config.types import IPTABLES, IPVS, NFTABLES
from proxy.engine.cleanup.outcome import Outcome
from proxy.engine.cleanup.running import Running
from proxy.model.addresses import IPFamily

V4, V6 = IPFamily.IPV4, IPFamily.IPV6


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was cleaned: families of tables, or IPVS."""
    calls: list[object] = []

    def clean_tables(_: Running, families: list[IPFamily]) -> Outcome:
        calls.append(families)
        return Outcome()

    def clean_ipvs(*_: object, **__: object) -> Outcome:
        calls.append(IPVS)
        return Outcome()

    monkeypatch.setattr(leftovers, "clean_tables", clean_tables)
    monkeypatch.setattr(leftovers, "clean_ipvs", clean_ipvs)
    monkeypatch.setattr(leftovers, "_SERVED_LOOK_S", 0.001)
    return calls


def removal(mode: str, stopping: threading.Event | None = None) -> LeftoverRemoval:
    return LeftoverRemoval(Running(mode), (), 0, stopping or threading.Event())


def test_both_families_go_at_once_when_both_are_served(done: list[object]) -> None:
    removal(NFTABLES).run()
    assert done == [[V4, V6], IPVS]


def test_a_family_that_is_not_served_yet_keeps_what_serves_it(done: list[object]) -> None:
    answers = iter([{V6}, {V6}, set()])

    def waiting() -> set[IPFamily]:
        unserved = next(answers)
        assert done == ([] if not done else [[V4]])
        return unserved

    removal(IPTABLES).run(waiting)
    assert done == [[V4], [V6], IPVS]


def test_nothing_goes_after_the_end(done: list[object]) -> None:
    stopping, looks = threading.Event(), []

    def waiting() -> set[IPFamily]:
        looks.append(None)
        if len(looks) == 3:
            stopping.set()
        return {V4, V6}

    removal(IPTABLES, stopping).run(waiting)
    assert len(looks) == 3
    assert done == []


def test_ipvs_mode_keeps_what_it_has(done: list[object]) -> None:
    removal(IPVS).run()
    assert done == [[V4, V6]]
