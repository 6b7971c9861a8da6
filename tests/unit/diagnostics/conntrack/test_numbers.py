"""Counters, limits, growth, notices and advice."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from diagnostics.conntrack.assess import ERROR, INFO, WARNING, assess, span
from diagnostics.conntrack.capacity import Capacity, Demand, ProxySettings, advise
from diagnostics.conntrack.counters import MEANINGS, Counters, read_counters, read_payloads
from diagnostics.conntrack.growth import Sample, SampleError, growth_between, read_sample
from diagnostics.conntrack.limits import Limits, live_limits
from diagnostics.conntrack.survey import Survey
from proxy.config.defaults import default_config, with_platform_defaults
from proxy.netfilter.wire import u32
from tests.support.conntrack_entries import conntrack_config

PROC = """\
entries clashres found invalid chainlength insert_failed drop early_drop icmp_error search_restart
00000009  00000001 0000000a 00000003 00000002 00000010 00000001 00000004 00000000 00000012
00000009  00000001 0000000a 00000000 00000000 00000001 00000000 00000000 00000000 00000000
"""
TOOL = (
    "cpu=0   \tfound=10 invalid=3 insert_failed=16 drop=1 early_drop=4 error=0 "
    "search_restart=18 clash_resolve=1 chaintoolong=2 \n"
    "cpu=1   \tfound=10 invalid=0 insert_failed=1 drop=0 early_drop=0 error=0 "
    "search_restart=0 clash_resolve=1 chaintoolong=0 \n"
)
LIMITS = Limits(count=1000, maximum=131072, buckets=131072, memory_bytes=4 << 30, cpus=2)
DEFAULTS = ProxySettings(with_platform_defaults(default_config()).conntrack)


def test_the_file_in_proc_and_the_tool_tell_the_same() -> None:
    proc, tool = read_counters(PROC), read_counters(TOOL)
    assert proc is not None
    assert proc == tool
    assert (proc.get("insert_failed"), proc.get("clash_resolve"), proc.cpus) == (17, 2, 2)


def test_netlink_gives_one_answer_for_each_cpu() -> None:
    header = struct.pack(">BBH", 0, 0, 0)
    answers = [header + u32(9, 16) + u32(14, 1), header + u32(9, 1) + u32(14, 1)]
    found = read_payloads(answers)
    assert found == Counters({"insert_failed": 17, "clash_resolve": 2}, 2)
    assert read_payloads([]) is None


@pytest.mark.parametrize("text", ["", "nonsense", "entries found\nxyz abc\n"])
def test_what_is_neither_is_unknown(text: str) -> None:
    assert read_counters(text) is None


def test_each_counter_that_means_a_loss_is_explained() -> None:
    for name in ("insert_failed", "drop", "early_drop", "search_restart", "chaintoolong"):
        meaning = MEANINGS[name]
        assert meaning.what
        assert meaning.cause
        assert meaning.remedy


def test_limits_are_those_below_proc_and_what_is_not_there_is_unknown(tmp_path: Path) -> None:
    folder = tmp_path / "proc/sys/net/netfilter"
    folder.mkdir(parents=True)
    (folder / "nf_conntrack_max").write_text("100\n")
    (folder / "nf_conntrack_count").write_text("50\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       2048 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc/slabinfo").write_text("nf_conntrack 112 176 320 16 1 : tunables\n")
    limits = live_limits(tmp_path, 2)
    assert (limits.use, limits.buckets, limits.accounting) == (0.5, None, None)
    assert (limits.memory_bytes, limits.bytes_per_entry) == (2 << 20, 320 + 128)
    assert live_limits(tmp_path / "nowhere").use is None


def test_growth_tells_when_the_table_is_full_and_what_counters_grew() -> None:
    before = Sample(100.0, 1000, Counters({"drop": 1}))
    growth = growth_between(before, Sample(110.0, 1100, Counters({"drop": 4})), 2100)
    assert growth is not None
    assert (growth.per_second, growth.full_in_s) == (10, 100)
    assert growth.grown == Counters({"drop": 3})
    assert growth.after(60, 1100) == 1700
    shrinking = growth_between(before, Sample(110.0, 900), 2000)
    assert shrinking is not None
    assert shrinking.full_in_s is None
    assert growth_between(before, Sample(100.0, 5), 10) is None


def test_a_counter_that_was_reset_counts_from_zero() -> None:
    assert Counters({"drop": 2}).since(Counters({"drop": 9})) == Counters({"drop": 2})


def test_a_former_answer_is_a_sample_and_other_files_are_refused() -> None:
    answer = {
        "kind": "ConntrackStatus",
        "time": 5.5,
        "table": {"count": 7},
        "counters": {"drop": 1},
    }
    assert read_sample(json.dumps(answer).encode()) == Sample(5.5, 7, Counters({"drop": 1}))
    for data in (b"x", b"[]", b'{"kind":"List"}', b'{"kind":"ConntrackStatus"}'):
        with pytest.raises(SampleError):
            read_sample(data)


@pytest.mark.parametrize(("count", "level"), [(79, None), (80, WARNING), (95, ERROR), (100, ERROR)])
def test_a_table_is_judged_by_its_use(count: int, level: str | None) -> None:
    found = assess(Limits(count=count, maximum=100), None, None, None)
    assert [one.level for one in found] == ([level] if level else [])


def test_unknown_numbers_give_no_notice_and_no_limit_is_no_use() -> None:
    assert assess(Limits(), None, None, None) == ()
    assert Limits(count=5, maximum=0).use is None


@pytest.mark.parametrize(("before", "level"), [(None, WARNING), (3, ERROR), (7, INFO)])
def test_drops_are_judged_by_whether_they_still_grow(before: int | None, level: str) -> None:
    now = Counters({"drop": 7})
    growth = None
    if before is not None:
        old = Sample(0.0, 5, Counters({"drop": before}))
        growth = growth_between(old, Sample(10.0, 5, now), 100)
    (notice,) = assess(LIMITS, now, growth, None)
    assert (notice.name, notice.level) == ("drop", level)


def test_a_table_that_fills_within_a_day_is_told() -> None:
    growth = growth_between(Sample(0.0, 0), Sample(10.0, 1000), 131072)
    (notice,) = assess(LIMITS, None, growth, None)
    assert notice.name == "growth"
    assert "21m" in notice.text


def test_long_lists_are_told() -> None:
    (notice,) = assess(replace(LIMITS, buckets=100), None, None, None)
    assert (notice.name, notice.level) == ("buckets", WARNING)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0.4s"), (59, "59s"), (3600, "1h"), (90_061, "1d 1h")]
)
def test_a_span_has_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def settings(advice: Capacity) -> dict[str, int]:
    return {one.name.removeprefix("net.netfilter.nf_conntrack_"): one.value
            for one in advice.settings}  # fmt: skip


def test_room_for_twice_what_is_expected_as_a_power_of_two() -> None:
    advice = advise(LIMITS, DEFAULTS, Demand(entries=300_000))
    assert advice.advised.entries == 1 << 20
    assert settings(advice)["max"] == 1 << 20
    assert settings(advice)["buckets"] == 1 << 20
    assert settings(advice)["tcp_timeout_established"] == 86_400
    assert advice.advised.memory_bytes == (1 << 20) * (256 + 128 + 8)
    assert advice.advised.list_length == 2


def test_a_table_is_never_made_smaller() -> None:
    large = replace(LIMITS, maximum=1_000_000, buckets=2_000_000)
    advice = advise(large, DEFAULTS, Demand())
    assert (advice.advised.entries, advice.advised.buckets) == (1_000_000, 2_000_000)


def test_a_full_table_takes_at_most_a_tenth_of_the_memory() -> None:
    advice = advise(replace(LIMITS, memory_bytes=1 << 30), DEFAULTS, Demand(entries=10_000_000))
    assert advice.advised.memory_bytes <= (1 << 30) // 10
    assert any("memory" in remark for remark in advice.remarks)


def test_growth_until_a_horizon_is_made_room_for() -> None:
    growth = growth_between(Sample(0.0, 900), Sample(10.0, 1000), 131072)
    advice = advise(LIMITS, DEFAULTS, Demand(horizon_s=36_000), growth)
    assert advice.expected == 361_000


@pytest.mark.parametrize(
    ("cpus", "entries", "way"),
    [
        (2, 300_000, "conntrack.maxPerCore: 524288"),
        (3, 300_000, "conntrack.min: 1048576"),
        (64, 2_000_000, "conntrack.maxPerCore: 0"),
    ],
)
def test_advice_names_the_configuration_that_does_not_undo_it(
    cpus: int, entries: int, way: str
) -> None:
    advice = advise(replace(LIMITS, cpus=cpus, memory_bytes=None), DEFAULTS, Demand(entries))
    assert any(way in remark for remark in advice.remarks)


def test_a_proxy_that_leaves_the_limit_alone_undoes_nothing() -> None:
    advice = advise(LIMITS, ProxySettings(conntrack_config()), Demand(300_000))
    assert not any("the proxy sets" in remark for remark in advice.remarks)
    assert set(settings(advice)) == {"max", "buckets"}


def test_idle_connections_are_advised_on() -> None:
    found = Survey(total=100, kinds={(6, 3, 6): 100})
    found.left_hours.update({10: 60, 23: 40})
    limits = replace(LIMITS, timeouts_s={"nf_conntrack_tcp_timeout_established": 86_400})
    advice = advise(limits, DEFAULTS, Demand(), None, found)
    assert any("60 established" in remark and "28800" in remark for remark in advice.remarks)


def test_what_is_only_assumed_of_a_proxy_is_said_to_be() -> None:
    assumed = ProxySettings(DEFAULTS.conntrack, assumed=True)
    advice = advise(LIMITS, assumed, Demand(300_000))
    assert any("a proxy with default settings sets" in remark for remark in advice.remarks)
