"""The rules of one service port, as iptables-save prints them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.backends.iptables import names
from proxy.backends.iptables.fixed import fixed_chains, node_port_dispatch
from proxy.backends.iptables.rules import PortRules, port_rules
from proxy.backends.iptables.settings import COUNTERS, INVALID_COUNTER, IptablesSettings
from proxy.backends.settings import LocalTraffic
from proxy.model.addresses import IPFamily
from proxy.model.services import ServicePortName
from tests.support.plans import address, endpoint, network, plan, service_port

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
PLAIN = IptablesSettings(V4)
PODS = replace(PLAIN, local_traffic=LocalTraffic(network=network("10.0.0.0/8")))
NAME = ServicePortName("ns", "svc-1", "p80", "TCP")
HASH = names.port_hash(NAME)
SVC, SVL, EXT, FW = (
    f"{kind}{HASH}" for kind in ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-")
)
TO_VIP = '-d 172.30.0.1/32 -p tcp -m comment --comment "ns/svc-1:p80 cluster IP" -m tcp --dport 80'


def rules_of(*pods, settings=PODS, comments=True, port=80, **traits) -> PortRules:
    made = service_port(1, settings.family, port=port, **traits)
    return port_rules(plan(made, *pods), settings, endpoint_comments=comments)


def shared(rules: PortRules, table: str, chain: str) -> list[str]:
    return [rule for where, place, rule in rules.shared if (where, place) == (table, chain)]


def sep(number: int) -> str:
    return names.endpoint_chain(NAME, f"10.180.0.{number}:8080")


# -- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        (ServicePortName("ns1", "svc1", "p80", "TCP"), "XPGD46QRK7WJZT7O"),
        (ServicePortName("ns4", "svc4", "p80", "TCP"), "4SW47YFZTEDKD3PK"),
        (ServicePortName("default", "kubernetes", "https", "TCP"), "NPX46M4PTMTKRN6Y"),
    ],
)
def test_chains_are_named_as_every_runbook_says(name, hashed) -> None:
    assert names.port_hash(name) == hashed
    assert names.is_service_chain(f"KUBE-FW-{hashed}")
    assert not names.is_service_chain(names.SERVICES)


def test_an_endpoint_is_part_of_its_chains_name() -> None:
    name = ServicePortName("ns1", "svc1", "p80", "TCP")
    assert names.endpoint_chain(name, "10.180.0.1:80") == "KUBE-SEP-SXIVWICOYRO3J4NJ"
    assert names.endpoint_chain(name, "10.180.0.1:81") != "KUBE-SEP-SXIVWICOYRO3J4NJ"


# -- kinds of frontends ----------------------------------------------------------------------


def test_a_cluster_ip_has_one_rule_and_its_chains() -> None:
    rules = rules_of(endpoint(1), endpoint(2))
    assert rules.shared == (("nat", names.SERVICES, f"{TO_VIP} -j {SVC}"),)
    said = '-m comment --comment "ns/svc-1:p80 -> 10.180.0.{}:8080"'
    assert rules.chains[SVC] == (
        f"! -s 10.0.0.0/8 {TO_VIP} -j KUBE-MARK-MASQ",
        f"{said.format(1)} -m statistic --mode random --probability 0.5000000000 -j {sep(1)}",
        f"{said.format(2)} -j {sep(2)}",
    )
    own = '-m comment --comment "ns/svc-1:p80"'
    assert rules.chains[sep(1)] == (
        f"-s 10.180.0.1/32 {own} -j KUBE-MARK-MASQ",
        f"-p tcp {own} -m tcp -j DNAT --to-destination 10.180.0.1:8080",
    )
    assert rules.chains.keys() == {SVC, sep(1), sep(2)}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_endpoint_has_the_same_chance(count) -> None:
    rules = rules_of(*map(endpoint, range(count)), settings=PLAIN, comments=False)
    chances = [rule.partition("--probability ")[2].partition(" ")[0] for rule in rules.chains[SVC]]
    assert chances[-1] == ""
    assert chances[:-1] == [f"{1 / (count - n):.10f}" for n in range(count - 1)]


def test_ipv6_has_its_own_masks_targets_and_refusals() -> None:
    settings = IptablesSettings(V6)
    rules = rules_of(endpoint(1, V6), settings=settings, affinity_timeout_s=60)
    [rule] = shared(rules, "nat", names.SERVICES)
    assert rule.startswith("-d fd00:172:30::1/128 -p tcp ")
    chain = names.endpoint_chain(NAME, "[fd00:10:180::1]:8080")
    assert rules.chains[chain][1].endswith("-j DNAT --to-destination [fd00:10:180::1]:8080")
    assert ":".join(["--mask ffff"] + ["ffff"] * 7) in rules.chains[chain][1]
    [refusal] = shared(rules_of(settings=settings), "filter", names.SERVICES)
    assert refusal.endswith("-j REJECT --reject-with icmp6-port-unreachable")


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_every_protocol_is_matched_by_its_name(protocol) -> None:
    rules = rules_of(endpoint(1), protocol=protocol)
    low = protocol.lower()
    assert f"-p {low} " in rules.shared[0].rule
    assert f" -m {low} --dport 80 " in rules.shared[0].rule
    [chain] = [c for c in rules.chains if c.startswith("KUBE-SEP-")]
    assert f" -m {low} -j DNAT" in rules.chains[chain][1]


def test_a_service_without_endpoints_is_refused_everywhere() -> None:
    rules = rules_of(
        node_port=30001,
        external_ips=(address("external", 1),),
        has_external_ips=True,
        load_balancer_vips=(address("balancer", 1),),
    )
    assert rules.chains == {}
    assert {rule.table for rule in rules.shared} == {"filter"}
    assert all(
        rule.rule.endswith("-j REJECT --reject-with icmp-port-unreachable") for rule in rules.shared
    )
    assert len(shared(rules, "filter", names.SERVICES)) == 1
    external = shared(rules, "filter", names.EXTERNAL_SERVICES)
    assert [rule.split()[1] for rule in external] == ["192.168.0.1/32", "5.6.0.1/32", "tcp"]
    assert "-m addrtype --dst-type LOCAL -m tcp --dport 30001" in external[2]
    assert all('"ns/svc-1:p80 has no endpoints"' in rule.rule for rule in rules.shared)


def test_external_traffic_policy_cluster_masquerades_everything_from_outside() -> None:
    rules = rules_of(endpoint(1), node_port=30001)
    [rule] = shared(rules, "nat", names.NODEPORTS)
    assert rule == f'-p tcp -m comment --comment "ns/svc-1:p80" -m tcp --dport 30001 -j {EXT}'
    said = '-m comment --comment "masquerade traffic for ns/svc-1:p80 external destinations"'
    assert rules.chains[EXT] == (f"{said} -j KUBE-MARK-MASQ", f"-j {SVC}")


def test_external_traffic_policy_local_keeps_the_clients_address() -> None:
    pods = endpoint(1, local=True), endpoint(2)
    rules = rules_of(*pods, node_port=30001, external_policy_local=True)
    texts = [rule.partition("--comment ")[2] for rule in rules.chains[EXT][:3]]
    ending = "ns/svc-1:p80 external destinations"
    assert rules.chains[EXT][0].startswith("-s 10.0.0.0/8 ")
    assert texts == [
        f'"pod traffic for {ending}" -j {SVC}',
        f'"masquerade LOCAL traffic for {ending}" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ',
        f'"route LOCAL traffic for {ending}" -m addrtype --src-type LOCAL -j {SVC}',
    ]
    assert rules.chains[EXT][3] == f"-j {SVL}"
    assert [rule.rpartition(" ")[2] for rule in rules.chains[SVL]] == [sep(1)]
    assert not shared(rules, "filter", names.EXTERNAL_SERVICES)


def test_external_traffic_policy_local_without_local_endpoints_drops() -> None:
    rules = rules_of(endpoint(1), node_port=30001, external_policy_local=True)
    assert SVL not in rules.chains
    assert len(rules.chains[EXT]) == 3
    [rule] = shared(rules, "filter", names.EXTERNAL_SERVICES)
    assert '"ns/svc-1:p80 has no local endpoints"' in rule
    assert rule.endswith("--dport 30001 -j DROP")
    assert shared(rules, "nat", names.NODEPORTS)


def test_internal_traffic_policy_local_uses_the_local_chain_and_masquerades_there() -> None:
    rules = rules_of(endpoint(1, local=True), endpoint(2), internal_policy_local=True)
    assert shared(rules, "nat", names.SERVICES) == [f"{TO_VIP} -j {SVL}"]
    assert rules.chains[SVL][0].endswith("-j KUBE-MARK-MASQ")
    assert rules.chains.keys() == {SVL, sep(1)}
    rules = rules_of(endpoint(2), internal_policy_local=True)
    [refusal] = shared(rules, "filter", names.SERVICES)
    assert refusal.endswith("-j DROP")


def test_source_ranges_restrict_load_balancer_addresses_only() -> None:
    rules = rules_of(
        endpoint(1),
        node_port=30001,
        external_ips=(address("external", 1),),
        has_external_ips=True,
        load_balancer_vips=(address("balancer", 1),),
        source_ranges=(network("203.0.113.0/24"), network("198.51.100.0/24")),
    )
    leads = {
        rule.split()[1]: rule.rpartition(" ")[2] for rule in shared(rules, "nat", "KUBE-SERVICES")
    }
    assert leads == {"172.30.0.1/32": SVC, "192.168.0.1/32": EXT, "5.6.0.1/32": FW}
    assert shared(rules, "nat", names.NODEPORTS)[0].endswith(f"-j {EXT}")
    said = '-m comment --comment "ns/svc-1:p80 loadbalancer IP"'
    assert rules.chains[FW] == (
        f"-s 203.0.113.0/24 {said} -j {EXT}",
        f"-s 198.51.100.0/24 {said} -j {EXT}",
        '-m comment --comment "other traffic to ns/svc-1:p80 will be dropped by'
        ' KUBE-PROXY-FIREWALL"',
    )
    [dropped] = shared(rules, "filter", names.PROXY_FIREWALL)
    assert dropped.startswith("-d 5.6.0.1/32 -p tcp ")
    assert dropped.endswith(f'accepted by {FW}" -m tcp --dport 80 -j DROP')


def test_health_checks_are_accepted() -> None:
    rules = rules_of(
        endpoint(1, local=True),
        node_port=30001,
        external_policy_local=True,
        load_balancer_vips=(address("balancer", 1),),
        health_check_node_port=32000,
    )
    said = '-m comment --comment "ns/svc-1:p80 health check node port"'
    assert shared(rules, "filter", names.NODEPORTS) == [
        f"-p tcp {said} -m tcp --dport 32000 -j ACCEPT"
    ]


# -- affinity and comments -------------------------------------------------------------------


def test_session_affinity_looks_a_client_up_before_it_draws() -> None:
    rules = rules_of(endpoint(1), endpoint(2), affinity_timeout_s=10800, settings=PLAIN)
    recent = "-m recent --rcheck --seconds 10800 --reap --name {0} --mask 255.255.255.255 --rsource"
    targets = [rule.rpartition(" ")[2] for rule in rules.chains[SVC]]
    assert targets == [sep(1), sep(2), sep(1), sep(2)]
    for number, rule in zip((1, 2), rules.chains[SVC], strict=False):
        assert rule.endswith(f"{recent.format(sep(number))} -j {sep(number)}")
    learnt = f"-m recent --set --name {sep(1)} --mask 255.255.255.255 --rsource -m tcp -j DNAT"
    assert learnt in rules.chains[sep(1)][1]


def test_without_comments_only_what_is_about_endpoints_loses_them() -> None:
    pods = endpoint(1), endpoint(2)
    traits = {"affinity_timeout_s": 5, "node_port": 30001}
    long, short = (rules_of(*pods, comments=comments, **traits) for comments in (True, False))
    assert long.shared == short.shared
    assert long.chains[EXT] == short.chains[EXT]
    assert long.chains.keys() == short.chains.keys()
    about_endpoints = [*short.chains[SVC][1:], *short.chains[sep(1)], *short.chains[sep(2)]]
    assert not any("--comment" in rule for rule in about_endpoints)
    assert not any("  " in rule for rule in about_endpoints)


# -- which traffic is the pods' --------------------------------------------------------------

DETECTORS = {
    "cidr": (LocalTraffic(network=network("10.0.0.0/8")), "-s 10.0.0.0/8"),
    "bridge": (LocalTraffic(interface="cni0"), "-i cni0"),
    "prefix": (LocalTraffic(interface_prefix="veth"), "-i veth+"),
}


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_has_its_match_and_its_negation(detector) -> None:
    traffic, match = DETECTORS[detector]
    settings = replace(PLAIN, local_traffic=traffic)
    rules = rules_of(endpoint(1), settings=settings, node_port=30001, external_policy_local=True)
    assert rules.chains[SVC][0] == f"! {match} {TO_VIP} -j KUBE-MARK-MASQ"
    assert rules.chains[EXT][0].startswith(f"{match} ")


def test_without_a_detector_nobody_is_masqueraded_for_coming_from_outside() -> None:
    rules = rules_of(endpoint(1), settings=PLAIN, node_port=30001, external_policy_local=True)
    assert not any("MARK-MASQ" in rule for rule in rules.chains[SVC])
    assert not any("pod traffic" in rule for rule in rules.chains[EXT])


@pytest.mark.parametrize("settings", [PLAIN, PODS])
def test_masquerade_all_masquerades_pods_too(settings) -> None:
    everything = replace(settings, masquerade_all=True)
    rules = rules_of(endpoint(1), settings=everything, node_port=30001)
    assert rules.chains[SVC][0] == f"{TO_VIP} -j KUBE-MARK-MASQ"
    assert (
        rules.chains[EXT] == rules_of(endpoint(1), settings=settings, node_port=30001).chains[EXT]
    )


# -- rules of nobody in particular -----------------------------------------------------------

LOCALHOST = replace(PODS, localhost_node_ports=True)


def test_node_ports_on_localhost_are_counted_where_the_kernel_has_the_counter() -> None:
    counted = replace(LOCALHOST, counters=frozenset(COUNTERS))
    first, second = shared(
        rules_of(endpoint(1), settings=counted, node_port=30001), "nat", "KUBE-NODEPORTS"
    )
    assert first.startswith("-d 127.0.0.0/8 ")
    assert "-m nfacct --nfacct-name  localhost_nps_accepted_pkts " in first
    plain = rules_of(endpoint(1), settings=LOCALHOST, node_port=30001)
    assert shared(plain, "nat", "KUBE-NODEPORTS") == [second]
    off = replace(PODS, counters=frozenset(COUNTERS))
    assert shared(
        rules_of(endpoint(1), settings=off, node_port=30001), "nat", "KUBE-NODEPORTS"
    ) == [second]


@pytest.mark.parametrize(
    ("settings", "heads"),
    [
        (LOCALHOST, ["-m comment"]),
        (PODS, ["! -d 127.0.0.0/8 -m comment"]),
        (IptablesSettings(V6), ["! -d ::1/128 -m comment"]),
        (
            replace(PODS, node_port_addresses=frozenset({b"\xc0\0\2\2", b"\xc0\0\2\1"})),
            ["-d 192.0.2.1/32", "-d 192.0.2.2/32"],
        ),
        (replace(PODS, node_port_addresses=frozenset()), []),
    ],
)
def test_node_ports_answer_on_the_addresses_that_are_wanted(settings, heads) -> None:
    rules = node_port_dispatch(settings)
    assert len(rules) == len(heads)
    assert all(rule.startswith(head) for rule, head in zip(rules, heads, strict=True))
    wide = "-m addrtype --dst-type LOCAL"
    assert all((wide in rule) == (settings.node_port_addresses is None) for rule in rules)


@pytest.mark.parametrize("bit", [0, 14, 31])
def test_the_masquerade_bit_is_in_every_rule_that_reads_or_writes_it(bit) -> None:
    mark = f"0x{1 << bit:x}"
    chains = fixed_chains(replace(PLAIN, masquerade_bit=bit))
    assert chains["nat", names.MARK_MASQ] == (f"-j MARK --set-xmark {mark}/{mark}",)
    returns, clears, _ = chains["nat", names.POSTROUTING]
    assert returns == f"-m mark ! --mark {mark}/{mark} -j RETURN"
    assert clears == f"-j MARK --set-xmark {mark}/0x0"
    assert f"--mark {mark}/{mark} -j ACCEPT" in chains["filter", names.FORWARD][1]


def test_old_programs_are_not_asked_for_random_ports() -> None:
    chains = fixed_chains(PLAIN)
    assert chains["nat", names.POSTROUTING][2].endswith("-j MASQUERADE --random-fully")
    chains = fixed_chains(replace(PLAIN, random_fully=False))
    assert chains["nat", names.POSTROUTING][2].endswith("-j MASQUERADE")


def test_invalid_packets_are_dropped_unless_the_kernel_is_liberal() -> None:
    counted = replace(PLAIN, counters=frozenset(COUNTERS))
    assert INVALID_COUNTER in fixed_chains(counted)["filter", names.FORWARD][0]
    assert len(fixed_chains(PLAIN)["filter", names.FORWARD]) == 3
    liberal = fixed_chains(replace(counted, drop_invalid=False))
    assert len(liberal["filter", names.FORWARD]) == 2


def test_only_localhost_node_ports_need_the_kubelets_firewall() -> None:
    key = "filter", names.KUBELET_FIREWALL
    assert key not in fixed_chains(PLAIN)
    [rule] = fixed_chains(LOCALHOST)[key]
    assert rule.startswith("! -s 127.0.0.0/8 -d 127.0.0.0/8 ")
    assert rule.endswith("-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP")
