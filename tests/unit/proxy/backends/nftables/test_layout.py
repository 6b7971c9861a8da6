from dataclasses import replace
from itertools import pairwise

import pytest

from proxy.backends.nftables import layout
from proxy.backends.settings import LocalTraffic, Settings
from proxy.model.addresses import IPFamily
from tests.support.plans import network

V4 = Settings(IPFamily.IPV4)


def rules_of(name, settings=V4):
    (chain,) = (c for c in layout.fixed_chains(settings) if c.name == name)
    return [rule.text for rule in chain.rules]


@pytest.mark.parametrize("family", IPFamily)
def test_every_jump_goes_to_a_chain_that_exists_before(family):
    seen = set()
    for chain in (*layout.fixed_chains(Settings(family)), *layout.base_chains()):
        for rule in chain.rules:
            words = rule.text.split()
            for word, name in pairwise(words):
                if word in ("jump", "goto"):
                    assert name in seen
                if word.startswith("@"):
                    assert word[1:] in layout.sets(family)
        seen.add(chain.name)


def test_base_chains_stand_where_kube_proxys_stand():
    hooks = {
        c.name: (c.hook.kind, c.hook.name, c.hook.priority) for c in layout.base_chains() if c.hook
    }
    assert hooks == {
        "filter-prerouting-pre-dnat": ("filter", "prerouting", -110),
        "filter-output-pre-dnat": ("filter", "output", -110),
        "filter-input": ("filter", "input", 0),
        "filter-forward": ("filter", "forward", 0),
        "filter-output": ("filter", "output", 0),
        "nat-prerouting": ("nat", "prerouting", -100),
        "nat-output": ("nat", "output", -100),
        "nat-postrouting": ("nat", "postrouting", 100),
    }


def test_sets_are_known_by_the_name_they_declare():
    for family in IPFamily:
        assert all(name == item.name for name, item in layout.sets(family).items())


def test_unallocated_cluster_ips_are_dropped_and_known_ones_rejected_first():
    cidrs = (network("172.30.0.0/16"), network("172.31.0.0/24"))
    assert rules_of("cluster-ips-check", replace(V4, service_cidrs=cidrs)) == [
        'ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"',
        'ip daddr 172.30.0.0/16 drop comment "Drop traffic to unallocated ClusterIPs"',
        'ip daddr 172.31.0.0/24 drop comment "Drop traffic to unallocated ClusterIPs"',
    ]
    assert len(rules_of("cluster-ips-check")) == 1


def test_the_mark_is_cleared_before_the_source_is_rewritten():
    assert rules_of("masquerading", replace(V4, masquerade_bit=31)) == [
        "meta mark & 0x80000000 != 0 meta mark set meta mark ^ 0x80000000 masquerade fully-random",
        "ct status dnat ip saddr . ip daddr @hairpin masquerade fully-random",
    ]


def test_without_a_way_to_tell_pods_apart_nobody_is_an_outsider():
    assert layout.masquerade_outsiders(V4) == ()
    assert [rule.text for rule in layout.short_circuit(V4, "lb-3")] == [
        'fib saddr type local meta mark set meta mark | 0x00004000 comment "masquerade local'
        ' traffic"',
        'fib saddr type local goto lb-3 comment "short-circuit local traffic"',
    ]


def test_masquerading_everything_wins_over_detection():
    local = LocalTraffic(network=network("10.0.0.0/8"))
    settings = replace(V4, local_traffic=local, masquerade_all=True)
    (rule,) = layout.masquerade_outsiders(settings)
    assert rule.text == "meta mark set meta mark | 0x00004000"
