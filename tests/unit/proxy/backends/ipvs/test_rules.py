"""The iptables rules around the virtual servers; the recorded ones are in tests/ipvs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.backends.ipvs import names
from proxy.backends.ipvs.rules import chains
from proxy.backends.ipvs.settings import IpvsSettings
from proxy.backends.settings import LocalTraffic
from proxy.model.addresses import IPFamily, pack_address
from proxy.netfilter.ipvs import ServerKey
from tests.support.plans import network

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
PLAIN = IpvsSettings(V4)
CLUSTER = '-m comment --comment "Kubernetes service cluster ip + port for masquerade purpose"'


def rules(settings=PLAIN, *filled: names.SetKind, unanswered=()) -> dict[str, tuple[str, ...]]:
    """Rules by table and chain."""
    return {"/".join(key): r for key, r in chains(settings, filled, unanswered).items()}


def test_a_node_without_services_has_the_fixed_rules() -> None:
    assert rules() == {
        "nat/KUBE-SERVICES": (
            "-s 127.0.0.0/8 -j RETURN",
            "-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT",
        ),
        "nat/KUBE-POSTROUTING": (
            "-m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-j MARK --set-xmark 0x4000/0x0",
            '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE'
            " --random-fully",
        ),
        "nat/KUBE-NODE-PORT": (),
        "nat/KUBE-LOAD-BALANCER": ("-j KUBE-MARK-MASQ",),
        "nat/KUBE-MARK-MASQ": ("-j MARK --set-xmark 0x4000/0x4000",),
        "filter/KUBE-FORWARD": (
            '-m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000'
            " -j ACCEPT",
            '-m comment --comment "kubernetes forwarding conntrack rule" -m conntrack'
            " --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ),
        "filter/KUBE-NODE-PORT": (
            '-m comment --comment "Kubernetes health check node port"'
            " -m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j ACCEPT",
        ),
        "filter/KUBE-PROXY-FIREWALL": (),
        "filter/KUBE-SOURCE-RANGES-FIREWALL": ("-j DROP",),
        "filter/KUBE-IPVS-FILTER": (
            "-m set --match-set KUBE-LOAD-BALANCER dst,dst -j RETURN",
            "-m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN",
            "-m set --match-set KUBE-EXTERNAL-IP dst,dst -j RETURN",
            "-m set --match-set KUBE-EXTERNAL-IP-LOCAL dst,dst -j RETURN",
            "-m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j RETURN",
            "-m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst"
            " -j REJECT --reject-with icmp-port-unreachable",
        ),
        "filter/KUBE-IPVS-OUT-FILTER": (),
    }


def test_ipv6_has_its_own_sets_loopback_and_refusal() -> None:
    made = rules(IpvsSettings(V6), *names.SETS)
    assert made["nat/KUBE-SERVICES"][0] == "-s ::1/128 -j RETURN"
    assert made["filter/KUBE-IPVS-FILTER"][-1].endswith("--reject-with icmp6-port-unreachable")
    said = " ".join(rule for found in made.values() for rule in found)
    assert said.count("--match-set") == said.count("--match-set KUBE-6-") > 20


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        (
            {"masquerade_all": True, "local_traffic": LocalTraffic(network("10.0.0.0/8"))},
            f"{CLUSTER} -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ",
        ),
        (
            {"local_traffic": LocalTraffic(network("10.0.0.0/8"))},
            f"! -s 10.0.0.0/8 {CLUSTER} -m set --match-set KUBE-CLUSTER-IP dst,dst"
            " -j KUBE-MARK-MASQ",
        ),
        (
            {"local_traffic": LocalTraffic(interface="cni0")},
            f"! -i cni0 {CLUSTER} -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ",
        ),
        (
            {"local_traffic": LocalTraffic(interface_prefix="veth")},
            f"! -i veth+ {CLUSTER} -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ",
        ),
        ({}, f"{CLUSTER} -m set --match-set KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ"),
    ],
    ids=["masqueradeAll", "ClusterCIDR", "BridgeInterface", "InterfaceNamePrefix", "nothing"],
)
def test_who_is_masqueraded_to_a_cluster_ip(changed, rule) -> None:
    made = rules(replace(PLAIN, **changed), names.CLUSTER_IP)["nat/KUBE-SERVICES"]
    assert made[1] == rule
    assert made[-1] == "-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT"


def test_external_ips_are_accepted_from_outside_and_on_the_node() -> None:
    made = rules(PLAIN, names.EXTERNAL_IP, names.EXTERNAL_IP_LOCAL)["nat/KUBE-SERVICES"]
    ends = [rule.partition("--match-set KUBE-")[2] for rule in made[1:-1]]
    outside = "-m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT"
    on_node = "-m addrtype --dst-type LOCAL -j ACCEPT"
    assert ends == [
        "EXTERNAL-IP dst,dst -j KUBE-MARK-MASQ",
        f"EXTERNAL-IP dst,dst {outside}",
        f"EXTERNAL-IP dst,dst {on_node}",
        f"EXTERNAL-IP-LOCAL dst,dst {outside}",
        f"EXTERNAL-IP-LOCAL dst,dst {on_node}",
    ]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (names.LOOP_BACK, "nat/KUBE-POSTROUTING"),
        (names.LOAD_BALANCER, "nat/KUBE-SERVICES"),
        (names.LOAD_BALANCER_LOCAL, "nat/KUBE-LOAD-BALANCER"),
        (names.LOAD_BALANCER_FW, "filter/KUBE-PROXY-FIREWALL"),
        (names.LOAD_BALANCER_SOURCE_CIDR, "filter/KUBE-SOURCE-RANGES-FIREWALL"),
        (names.LOAD_BALANCER_SOURCE_IP, "filter/KUBE-SOURCE-RANGES-FIREWALL"),
        (names.NODE_PORT_TCP, "nat/KUBE-NODE-PORT"),
        (names.NODE_PORT_LOCAL_TCP, "nat/KUBE-NODE-PORT"),
        (names.NODE_PORT_UDP, "nat/KUBE-NODE-PORT"),
        (names.NODE_PORT_LOCAL_UDP, "nat/KUBE-NODE-PORT"),
        (names.NODE_PORT_SCTP, "nat/KUBE-NODE-PORT"),
        (names.NODE_PORT_LOCAL_SCTP, "nat/KUBE-NODE-PORT"),
    ],
    ids=lambda value: getattr(value, "base", value),
)
def test_an_empty_set_is_asked_by_no_rule(kind, place) -> None:
    empty, filled = rules(), rules(PLAIN, kind)
    changed = {key for key in filled if filled[key] != empty[key]}
    assert changed == {place}
    assert set(empty[place]) < set(filled[place])
    added = set(filled[place]) - set(empty[place])
    assert all(f"--match-set {kind.base} " in rule for rule in added)


def test_local_node_ports_return_before_others_are_masqueraded() -> None:
    made = rules(PLAIN, *names.SETS)["nat/KUBE-NODE-PORT"]
    short = [(rule.split()[1], rule.split()[-1]) for rule in made]
    assert short == [
        (protocol, target)
        for protocol in ("tcp", "udp", "sctp")
        for target in ("RETURN", "KUBE-MARK-MASQ")
    ]
    assert [rule.split()[-3] for rule in made] == ["dst"] * 4 + ["dst,dst"] * 2


def test_answers_of_restricted_addresses_to_the_node_itself_are_dropped() -> None:
    packed = [pack_address(text) for text in ("5.6.0.1", "fd00:5:6::1")]
    for settings, address, text in zip(
        (PLAIN, IpvsSettings(V6)), packed, ("5.6.0.1/32", "fd00:5:6::1/128"), strict=True
    ):
        assert address is not None
        made = rules(settings, unanswered=[ServerKey(address, 443, 17)])
        vip = text.partition("/")[0]
        assert made["filter/KUBE-IPVS-OUT-FILTER"] == (
            f"-s {text} -m ipvs --vproto 17 --vaddr {vip} --vport 443 -j DROP",
        )


def test_the_mark_and_old_iptables_are_respected() -> None:
    made = rules(replace(PLAIN, masquerade_bit=3, random_fully=False))
    assert made["nat/KUBE-MARK-MASQ"] == ("-j MARK --set-xmark 0x8/0x8",)
    assert not any("--random-fully" in rule for rule in made["nat/KUBE-POSTROUTING"])
