"""Where looking at packets could hurt it is refused, with the reason and the next step."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from kpctl.exit_codes import ENVIRONMENT, USAGE
from kpctl.live_trace import guard
from kpctl.live_trace.guard import (
    Limits,
    Reserves,
    legacy_tables,
    objections,
    read_reserves,
    require_few,
    require_harmless,
)
from kpctl.live_trace.question import LiveTraceError, PacketFilter
from proxy.model.addresses import IPFamily

_NARROW = PacketFilter(IPFamily.IPV4, 6, ip_address("10.0.0.9"), 80)
_PLENTY = Reserves(0.5, 1 << 30)


@pytest.fixture(autouse=True)
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process and a kernel that may and can."""
    monkeypatch.setattr(guard, "may_administer_network", lambda: True)
    monkeypatch.setattr(guard, "require_support", lambda family: None)


def test_a_narrow_question_on_an_idle_node_is_harmless() -> None:
    require_harmless(_NARROW, Limits(), _PLENTY)


@pytest.mark.parametrize(
    ("reserves", "why"),
    [
        (Reserves(12.5, 1 << 30), "12.5 processes run or wait for each CPU, more than 10"),
        (Reserves(0.5, 30 << 20), "only 30 MiB of memory left, less than 64 MiB"),
        (Reserves(None, 1 << 30), "cannot be read in /proc"),
        (Reserves(0.5, None), "cannot be read in /proc"),
    ],
)
def test_a_node_without_reserves_is_spared(reserves: Reserves, why: str) -> None:
    with pytest.raises(LiveTraceError, match=why) as caught:
        require_harmless(_NARROW, Limits(), reserves)
    assert caught.value.exit_code == ENVIRONMENT
    assert "ask without --probe and --watch" in caught.value.hint


def test_a_question_about_everything_is_refused_as_wrong_usage() -> None:
    with pytest.raises(LiveTraceError, match="too wide") as caught:
        require_harmless(PacketFilter(IPFamily.IPV4, 6, port=80), Limits(), _PLENTY)
    assert caught.value.exit_code == USAGE
    assert caught.value.hint == "name an address and a port, or both addresses"


def test_without_rights_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "may_administer_network", lambda: False)
    monkeypatch.delattr(guard, "require_support")
    (found,) = objections(_NARROW, Limits(), Reserves(99.0, 1))
    assert "CAP_NET_ADMIN" in str(found)
    assert found.exit_code == ENVIRONMENT


def test_all_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(family: IPFamily) -> None:
        raise LiveTraceError("this kernel cannot", "use another")

    monkeypatch.setattr(guard, "require_support", refuse)
    found = list(objections(PacketFilter(IPFamily.IPV4, 6), Limits(), Reserves(99.0, 1)))
    assert [str(one).split(":")[0].split(",")[0] for one in found] == [
        "new TCP connections of any client to any address",
        "this kernel cannot",
        "this node is too busy",
        "this node has only 0 MiB of memory left",
    ]


def test_more_packets_than_may_be_traced_are_refused() -> None:
    require_few(_NARROW, 500.0, Limits())
    with pytest.raises(LiveTraceError, match="1,200 packets a second match") as caught:
        require_few(_NARROW, 1200.4, Limits())
    assert caught.value.hint == "name one client with --src, or one device with --iface"


def test_reserves_are_read_from_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard.os, "cpu_count", lambda: 2)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("3.00 1.00 0.50 1/200 99\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert read_reserves(tmp_path) == Reserves(1.5, 2 << 20)


@pytest.mark.parametrize("load", ["", "many 1 1", None])
def test_reserves_that_cannot_be_read_are_unknown(tmp_path: Path, load: str | None) -> None:
    (tmp_path / "proc").mkdir()
    if load is not None:
        (tmp_path / "proc/loadavg").write_text(load)
    assert read_reserves(tmp_path) == Reserves(None, None)


def test_tables_of_iptables_legacy_are_listed_by_family(tmp_path: Path) -> None:
    (tmp_path / "proc/thread-self/net").mkdir(parents=True)
    (tmp_path / "proc/thread-self/net/ip_tables_names").write_text("nat\nfilter\n")
    assert legacy_tables(IPFamily.IPV4, tmp_path) == ("filter", "nat")
    assert legacy_tables(IPFamily.IPV6, tmp_path) == ()
