"""Kernel parameters, on a copy of the tree in a temporary directory."""

import logging
import os
from pathlib import Path

import pytest

from proxy.conntrack.settings import Change, SettingWrite, setting_writes
from proxy.kernel.sysctl import SysctlError, SysctlTree, apply_settings, cpu_count
from tests.support.conntrack_entries import VECTORS, conntrack_config, settings_of

MAX = "net/netfilter/nf_conntrack_max"


class ReadOnlyTree(SysctlTree):
    """Refuses every write as /proc/sys does in a network namespace of its own."""

    def write(self, name, value):
        raise SysctlError("write", Path("/proc/sys") / name, PermissionError(13, os.strerror(13)))


@pytest.fixture
def root(tmp_path):
    directory = tmp_path / "net" / "netfilter"
    directory.mkdir(parents=True)
    for name, value in {
        "nf_conntrack_max": "262144",
        "nf_conntrack_tcp_timeout_established": "432000",
        "nf_conntrack_udp_timeout": "30",
    }.items():
        (directory / name).write_text(f"{value}\n")
    return tmp_path


def test_a_value_is_read_and_written(root):
    tree = SysctlTree(root)
    assert tree.read(MAX) == "262144"
    tree.write(MAX, 131072)
    assert tree.read_int(MAX) == 131072


def test_a_missing_parameter_is_an_error_that_names_it_and_is_not_created(root):
    tree = SysctlTree(root)
    for use in (lambda: tree.read("net/absent"), lambda: tree.write("net/absent", 1)):
        with pytest.raises(SysctlError, match=r"net/absent: No such file or directory"):
            use()
    assert not (root / "net/absent").exists()


def test_text_where_a_number_belongs_is_an_error(root):
    (root / MAX).write_text("1 2 3\n")
    with pytest.raises(SysctlError, match=r"nf_conntrack_max: '1 2 3' is not a number"):
        SysctlTree(root).read_int(MAX)


def test_the_size_is_written_when_it_differs_also_downwards(root):
    write = SettingWrite(MAX, 131072, Change.IF_DIFFERENT, "")
    (outcome,) = apply_settings((write,), SysctlTree(root))
    assert (outcome.before, outcome.written, outcome.problem) == (262144, True, "")
    (again,) = apply_settings((write,), SysctlTree(root))
    assert (again.before, again.written, again.problem) == (131072, False, "")


def test_hash_buckets_are_only_ever_added(root):
    buckets = root / "hashsize"
    buckets.write_text("65536\n")
    for value, expected in ((32768, "65536"), (131072, "131072")):
        write = SettingWrite(str(buckets), value, Change.IF_SMALLER, "")
        (outcome,) = apply_settings((write,), SysctlTree(root))
        assert outcome.written == (expected == str(value))
        assert buckets.read_text().strip() == expected


def test_a_refused_size_is_explained_with_names_values_and_the_way_out(root):
    writes = setting_writes(conntrack_config(max_per_core=262144), 4)[:1]
    (outcome,) = apply_settings(writes, ReadOnlyTree(root))
    assert not outcome.written
    assert outcome.problem == (
        "cannot write /proc/sys/net/netfilter/nf_conntrack_max: Permission denied: "
        "nf_conntrack_max stays at 262144, wanted 1048576; the proxy goes on. "
        "Set it on the node, or set conntrack.maxPerCore: 0 to leave it alone."
    )


@pytest.mark.parametrize("wanted", [262144, 131072])
def test_a_read_only_size_that_suffices_is_no_problem(root, wanted):
    write = SettingWrite(MAX, wanted, Change.IF_DIFFERENT, "")
    (outcome,) = apply_settings((write,), ReadOnlyTree(root))
    assert (outcome.written, outcome.problem) == (False, "")


def test_a_read_only_time_out_suffices_only_when_it_is_equal(root):
    name = "net/netfilter/nf_conntrack_udp_timeout"
    same, other = (SettingWrite(name, value, Change.ALWAYS, "") for value in (30, 20))
    outcomes = apply_settings((same, other), ReadOnlyTree(root))
    assert outcomes[0].problem == ""
    assert "nf_conntrack_udp_timeout stays at 30, wanted 20" in outcomes[1].problem


def test_a_parameter_that_is_missing_does_not_stop_the_others(root):
    absent = SettingWrite("net/netfilter/absent", 1, Change.ALWAYS, "x: 0")
    present = SettingWrite(MAX, 1, Change.ALWAYS, "")
    outcomes = apply_settings((absent, present), SysctlTree(root))
    assert "absent stays at unknown, wanted 1" in outcomes[0].problem
    assert outcomes[1].written


@pytest.mark.parametrize("case", VECTORS["kernelSettings"], ids=lambda case: case["name"])
def test_a_failed_write_is_reported_where_kube_proxy_fails(root, case):
    tree = (ReadOnlyTree if case["writesFail"] else SysctlTree)(root)
    sysctls = [
        write
        for write in setting_writes(settings_of(case["conntrack"]), 4)
        if not write.path.startswith("/")
    ]
    outcomes = apply_settings(tuple(sysctls), tree)
    assert any(outcome.problem for outcome in outcomes) == case["error"]


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-1\n", 2), ("0-3,6,8-9\n", 7)])
def test_online_cpus_are_counted(tmp_path, text, count):
    path = tmp_path / "online"
    path.write_text(text)
    assert cpu_count(path) == count


@pytest.mark.parametrize("text", [None, "some\n"], ids=["absent", "unreadable"])
def test_without_that_list_the_systems_own_count_is_taken(tmp_path, text):
    path = tmp_path / "online"
    if text is not None:
        path.write_text(text)
    assert cpu_count(path) == os.cpu_count()


def test_writes_and_problems_are_logged_and_nothing_else(root, caplog):
    caplog.set_level(logging.INFO)
    name = "net/netfilter/nf_conntrack_udp_timeout"
    writes = (
        SettingWrite(MAX, 262144, Change.IF_DIFFERENT, ""),
        SettingWrite(name, 77, Change.ALWAYS, ""),
        SettingWrite("net/netfilter/absent", 5, Change.ALWAYS, ""),
    )
    apply_settings(writes, SysctlTree(root))
    written, failed = caplog.records
    assert (written.message, written.kv) == (
        "Set sysctl",
        {"entry": name, "value": 77, "before": 30},
    )
    assert failed.levelno == logging.WARNING
    assert "absent stays at unknown, wanted 5" in failed.message
