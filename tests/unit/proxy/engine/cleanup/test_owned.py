"""Whose a chain or a jump is, and what is a leftover beside a running mode."""

from __future__ import annotations

import pytest

from proxy.backends.iptables import names as iptables_names
from proxy.backends.ipvs import names as ipvs_names
from proxy.backends.xtables import FILTER, MANGLE, NAT
from proxy.engine.cleanup.owned import IPTABLES, IPVS, NOTHING, Leftovers, ProxyRules, target_of

ALL = Leftovers(NOTHING)
BESIDE_IPTABLES = Leftovers(IPTABLES)
BESIDE_IPVS = Leftovers(IPVS)


@pytest.mark.parametrize(
    ("table", "chain"),
    [
        (NAT, "KUBE-SERVICES"),
        (NAT, "KUBE-NODE-PORT"),
        (NAT, "KUBE-SVC-ABCDEFGHIJKLMNOP"),
        (NAT, "KUBE-XLB-ABCDEFGHIJKLMNOP"),
        (FILTER, "KUBE-EXTERNAL-SERVICES"),
        (FILTER, "KUBE-IPVS-OUT-FILTER"),
        (MANGLE, "KUBE-PROXY-CANARY"),
    ],
)
def test_chains_of_both_modes_are_leftovers_when_nothing_runs(table: str, chain: str) -> None:
    assert ALL.has_chain(table, chain)


@pytest.mark.parametrize(
    ("table", "chain"),
    [
        (FILTER, "KUBE-FIREWALL"),
        (NAT, "KUBE-MARK-DROP"),
        (MANGLE, "KUBE-KUBELET-CANARY"),
        (MANGLE, "KUBE-IPTABLES-HINT"),
        (FILTER, "KUBE-ROUTER-INPUT"),
        (FILTER, "KUBE-POD-FW-ABCDEFGHIJKLMNOP"),
        (FILTER, "KUBE-NWPLCY-ABCDEFGHIJKLMNOP"),
        (FILTER, "KUBE-SVC-ABCDEFGHIJKLMNOP"),
        (MANGLE, "KUBE-SERVICES"),
        (NAT, "CNI-HOSTPORT-DNAT"),
        (NAT, "PREROUTING"),
    ],
)
def test_chains_of_others_never_are(table: str, chain: str) -> None:
    assert not ALL.has_chain(table, chain)


@pytest.mark.parametrize("table", [NAT, FILTER])
def test_shared_chains_stay_beside_either_mode(table: str) -> None:
    shared = {c for t, c in IPTABLES.chains & IPVS.chains if t == table}
    assert shared
    for chain in shared:
        assert not BESIDE_IPTABLES.has_chain(table, chain)
        assert not BESIDE_IPVS.has_chain(table, chain)


def test_a_mode_leaves_what_the_other_has_alone_of_its_own() -> None:
    assert BESIDE_IPVS.has_chain(NAT, "KUBE-SEP-ABCDEFGHIJKLMNOP")
    assert BESIDE_IPVS.has_chain(FILTER, "KUBE-PROXY-CANARY")
    assert not BESIDE_IPTABLES.has_chain(NAT, "KUBE-SEP-ABCDEFGHIJKLMNOP")
    assert BESIDE_IPTABLES.has_chain(FILTER, "KUBE-SOURCE-RANGES-FIREWALL")


@pytest.mark.parametrize(
    ("running", "other"), [(IPTABLES, ipvs_names.JUMPS), (IPVS, iptables_names.JUMPS)]
)
def test_jumps_of_the_running_mode_stay_and_those_of_the_other_go(
    running: ProxyRules, other: tuple[object, ...]
) -> None:
    leftovers = Leftovers(running)
    assert not any(leftovers.has_jump(*jump) for jump in running.jumps)
    gone = {jump for jump in (*IPTABLES.jumps, *IPVS.jumps) if leftovers.has_jump(*jump)}
    assert gone == set(other) - set(running.jumps)


def test_a_jump_to_a_shared_chain_in_a_form_of_neither_mode_stays() -> None:
    rule = "-i eth1 -j KUBE-PROXY-FIREWALL"
    assert not BESIDE_IPTABLES.has_jump(FILTER, "INPUT", rule)
    assert ALL.has_jump(FILTER, "INPUT", rule)


@pytest.mark.parametrize(
    "rule",
    [
        '-m comment --comment "-j KUBE-SERVICES"',
        '-m comment --comment "-j KUBE-SERVICES" -j DOCKER',
        '-j LOG --log-prefix "-j KUBE-SERVICES"',
        '-m comment --comment "kubernetes service portals" -j ACCEPT',
        '-m comment --comment "a quote that does not end -j KUBE-SERVICES',
        "-p tcp",
        "",
    ],
)
def test_rules_that_only_mention_a_chain_are_of_others(rule: str) -> None:
    assert not ALL.has_jump(NAT, "PREROUTING", rule)


def test_goto_leads_to_a_chain_as_jump_does() -> None:
    assert target_of(("-i", "eth0", "-g", "KUBE-SERVICES")) == "KUBE-SERVICES"
    assert target_of(("-j", "KUBE-SERVICES")) == "KUBE-SERVICES"
    assert target_of(("KUBE-SERVICES",)) == ""
