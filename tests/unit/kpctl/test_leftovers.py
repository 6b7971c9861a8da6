"""When what other modes left goes."""

from __future__ import annotations

import threading

import pytest

from kpctl import leftovers
from kpctl.leftovers import LeftoverRemoval
from proxy.config.types import IPTABLES, IPVS, NFTABLES
from proxy.engine.cleanup.node import Running
from proxy.engine.cleanup.outcome import Outcome
from proxy.model.addresses import IPFamily
from tests.support.waiting import eventually

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


def test_both_families_go_at_once_when_both_are_served(done: list[object]) -> None:
    LeftoverRemoval(Running(NFTABLES), (), 0).start()
    eventually(lambda: done == [[V4, V6], IPVS])


def test_a_family_that_is_not_served_yet_keeps_what_serves_it(done: list[object]) -> None:
    waiting, looked = {V6}, threading.Event()

    def families() -> set[IPFamily]:
        if done:
            looked.set()
        return set(waiting)

    LeftoverRemoval(Running(IPTABLES), (), 0).start(families)
    assert looked.wait(10)
    assert done == [[V4]]
    waiting.clear()
    eventually(lambda: done == [[V4], [V6], IPVS])


def test_nothing_goes_after_the_end(done: list[object]) -> None:
    waiting, looks = {V4, V6}, []

    def families() -> set[IPFamily]:
        looks.append(None)
        return set(waiting)

    removal = LeftoverRemoval(Running(IPTABLES), (), 0)
    removal.start(families)
    eventually(lambda: len(looks) > 2)
    removal.stop()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "leftovers"])
    assert done == []


def test_ipvs_mode_keeps_what_it_has(done: list[object]) -> None:
    LeftoverRemoval(Running(IPVS), (), 0).start()
    eventually(lambda: done == [[V4, V6]])
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "leftovers"])
    assert done == [[V4, V6]]
