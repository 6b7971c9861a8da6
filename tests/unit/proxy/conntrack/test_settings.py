"""The conntrack settings of a starting proxy, against the cases known from kube-proxy."""

import re

import pytest

from proxy.config.types import Conntrack
from proxy.conntrack.settings import (
    HASHSIZE,
    NF_CONNTRACK_MAX,
    Change,
    setting_writes,
    table_size,
)
from tests.support.conntrack_entries import VECTORS, conntrack_config, settings_of


@pytest.mark.parametrize("case", VECTORS["tableSize"], ids=lambda case: case["name"])
def test_table_size_is_that_of_kube_proxy(case):
    assert table_size(case["maxPerCore"], case["min"], case["cpus"]) == case["expect"]


@pytest.mark.parametrize("case", VECTORS["kernelSettings"], ids=lambda case: case["name"])
def test_the_written_settings_are_those_of_kube_proxy(case):
    settings = settings_of(case["conntrack"])
    # The hash buckets follow the size and are not a sysctl.
    written = {
        write.name: write.value for write in setting_writes(settings, 4) if write.path != HASHSIZE
    }
    expected = {
        name: table_size(settings.max_per_core, settings.min, 4)
        if value == "computed as in tableSize"
        else value
        for name, value in case["writes"].items()
    }
    assert written == expected


def test_a_minimum_above_the_cap_wins_while_the_scaled_size_is_below_it():
    assert table_size(1000, 2_000_000, 4) == 2_000_000
    assert table_size(1_048_576, 2_000_000, 2) == 1_048_576


def test_settings_come_in_kube_proxys_order_with_the_size_first():
    everything = Conntrack(32768, 131072, 86400.9, 3600, True, 30, 120)
    writes = setting_writes(everything, 2)
    assert [(write.path, write.value) for write in writes] == [
        (NF_CONNTRACK_MAX, 131072),
        (HASHSIZE, 32768),
        ("net/netfilter/nf_conntrack_tcp_timeout_established", 86400),
        ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", 3600),
        ("net/netfilter/nf_conntrack_tcp_be_liberal", 1),
        ("net/netfilter/nf_conntrack_udp_timeout", 30),
        ("net/netfilter/nf_conntrack_udp_timeout_stream", 120),
    ]
    assert [write.change for write in writes[:3]] == [
        Change.IF_DIFFERENT,
        Change.IF_SMALLER,
        Change.ALWAYS,
    ]


def test_every_write_names_a_configuration_that_avoids_it():
    everything = Conntrack(1, 0, 1, 1, True, 1, 1)
    for write in setting_writes(everything, 1):
        assert re.fullmatch(r"conntrack\.\w+: (0|0s|false)", write.way_out)


def test_a_time_out_below_one_second_is_not_written():
    assert setting_writes(conntrack_config(udp_timeout_s=0.9), 4) == ()
