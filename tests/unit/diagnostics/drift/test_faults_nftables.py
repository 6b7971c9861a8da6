# ruff: noqa: E501 - a fault a line reads as a table
"""Faults planted in the table of a kube-proxy in nftables mode are found, each as what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.drift_faults import (
    DATA,
    Fault,
    both,
    drift_of,
    planted,
    said,
    swapped,
    tells,
    without,
)

NODE = DATA / "drift" / "nftables"
ONE, LOCAL, CLUSTER = "ns1/svc1:p80", "ns2/svc2:p80", "ns3/svc3:p80"
TWO_ENDPOINTS, RANGES, EMPTY = "ns4/svc4:p80", "ns5/svc5:p80", "ns6/svc6:p80"
CHAIN1 = "service-ULMVA6XW-ns1/svc1/tcp/p80"
FAULTS = [
    Fault("cluster IP deleted", without("172.30.0.41 . tcp . 80 : goto"), "missing", ONE),
    Fault("cluster IP unknown altogether", both(without("172.30.0.41 . tcp . 80 : goto"), swapped("172.30.0.41, ?", "")), "missing", ONE),
    Fault("load balancer address deleted", swapped("5.6.7.8 . tcp . 80 : goto external-[^,]*,", ""), "missing", RANGES),
    Fault("external IP deleted", without("192.168.99.33 . tcp . 80 : goto"), "missing", TWO_ENDPOINTS),
    Fault("NodePort deleted", swapped("tcp . 31003 : goto external-4AT6LBPK-ns3/svc3/tcp/p80", "tcp . 31999 : goto external-4AT6LBPK-ns3/svc3/tcp/p80"), "missing", CLUSTER),
    Fault("NodePort of a Service that is gone", swapped("tcp . 31003 : goto", "tcp . 32111 : goto external-4AT6LBPK-ns3/svc3/tcp/p80,\n tcp . 31003 : goto"), "stale", CLUSTER),
    Fault("cluster IP changed", swapped("172.30.0.43 . tcp . 80 : goto", "172.30.0.99 . tcp . 80 : goto"), "missing", CLUSTER),
    Fault("service port changed", swapped("172.30.0.43 . tcp . 80 : goto", "172.30.0.43 . tcp . 81 : goto"), "stale", CLUSTER),
    Fault("address of a Service that is gone", swapped("172.30.0.43 . tcp . 80 : goto", "172.30.0.77 . tcp . 80 : goto service-4AT6LBPK-ns3/svc3/tcp/p80,\n 172.30.0.43 . tcp . 80 : goto"), "stale", CLUSTER),
    Fault("Service leads to another one", swapped("(172.30.0.43 . tcp . 80 : goto) .*,", rf"\1 {CHAIN1},"), "endpoints", CLUSTER),
    Fault("endpoint lost", swapped(r"mod 2 map \{ 0 : 10.180.0.4 . 80, 1 : 10.180.0.5 . 80 \}", "mod 1 map { 0 : 10.180.0.5 . 80 }"), "endpoints", TWO_ENDPOINTS),
    Fault("endpoint of no number", swapped(r"0 : 10.180.0.4 . 80, 1 : 10.180.0.5 . 80", "0 : 10.180.0.4 . 80"), "endpoints", TWO_ENDPOINTS),
    Fault("endpoint that is gone", swapped("10.180.0.4 . 80", "10.180.0.44 . 80"), "endpoints", TWO_ENDPOINTS),
    Fault("one endpoint too many", swapped(r"mod 2 map \{ 0 : 10.180.0.4 . 80,", "mod 3 map { 2 : 10.180.0.6 . 80, 0 : 10.180.0.4 . 80,"), "endpoints", TWO_ENDPOINTS),
    Fault("target port wrong", swapped("10.180.0.1 . 80", "10.180.0.1 . 8080"), "port", ONE),
    Fault("shares wrong", swapped(r"mod 2 map \{ 0 : 10.180.0.4 . 80, 1", "mod 3 map { 0 : 10.180.0.4 . 80, 2 : 10.180.0.4 . 80, 1"), "weight", TWO_ENDPOINTS),
    Fault("service chain emptied", without("dnat ip to numgen random mod 2"), "missing", TWO_ENDPOINTS),
    Fault("NodePort does not masquerade", swapped(r"(chain external-LAUZTJTB\S+ \{)\n.*masquerade.*", r"\1"), "masquerade", TWO_ENDPOINTS),
    Fault("cluster IPs do not masquerade", without("masquerade clusterIP traffic"), "masquerade", ONE),
    Fault("hairpins do not masquerade", without("@hairpin-connections masquerade"), "masquerade", TWO_ENDPOINTS),
    Fault("hairpin of one endpoint forgotten", swapped("10.180.0.5 . 10.180.0.5 . tcp . 80", "10.180.0.9 . 10.180.0.9 . tcp . 80"), "masquerade", TWO_ENDPOINTS),
    Fault("other cluster CIDR", swapped("ip saddr != 10.0.0.0/8 meta mark", "ip saddr != 192.168.0.0/16 meta mark"), "masquerade", ONE),
    Fault("nobody masquerades", without("meta mark set meta mark . 0x00004000 masquerade"), "masquerade", CLUSTER),
    Fault("policy Local lifted", both(swapped('192.168.99.22 . tcp . 80 comment "ns2/svc2:p80" : drop,', ""), swapped("192.168.99.22 . tcp . 80 : goto external-42NFTM6N", "192.168.99.22 . tcp . 80 : goto service-42NFTM6N")), "policy", LOCAL),
    Fault("drop without local endpoints lost", swapped('192.168.99.22 . tcp . 80 comment "ns2/svc2:p80" : drop,', ""), "missing", LOCAL),
    Fault("reject of an empty Service lost", swapped(r',\s*172.30.0.46 . tcp . 80 comment "ns6/svc6:p80" : goto reject-chain', ""), "missing", EMPTY),
    Fault("drop instead of reject", swapped('(comment "ns6/svc6:p80" :) goto reject-chain', r"\1 drop"), "policy", EMPTY),
    Fault("source range widened", swapped("ip saddr != 203.0.113.0/25 drop", "ip saddr != 0.0.0.0/0 drop"), "policy", RANGES),
    Fault("source range narrowed", swapped("ip saddr != 203.0.113.0/25 drop", "ip saddr != 203.0.113.64/26 drop"), "policy", RANGES),
    Fault("firewall of source ranges lost", swapped("elements = { 5.6.7.8 . tcp . 80 : goto firewall.*", ""), "policy", RANGES),
    Fault("session affinity shorter", swapped("timeout 3h", "timeout 10m"), "affinity", RANGES),
    Fault("session affinity lost", without("ip saddr @affinity"), "affinity", RANGES),
    Fault("clients are not remembered", without("update @affinity"), "affinity", RANGES),
    Fault("no way from prerouting", swapped(r"(chain nat-prerouting \{\n.*\n)\s*jump services\n", r"\1", 1), "missing", TWO_ENDPOINTS),
    Fault("no way from output", swapped(r"(chain nat-output \{\n.*\n)\s*jump services\n", r"\1", 1), "missing", TWO_ENDPOINTS),
    Fault("no table", swapped(r"\Atable ip kube-proxy \{", "table ip other {", 1), "jump"),
    Fault("table sleeps", swapped(r"\Atable ip kube-proxy \{", "table ip kube-proxy {\n\tflags dormant", 1), "jump"),
    Fault("no way to the NodePorts", without("@service-nodeports"), "missing", CLUSTER),
    Fault("NodePorts on another address", swapped(r"(set nodeport-ips \{\n.*\n.*\n.*elements = \{) 192.168.0.2", r"\1 192.168.1.2"), "missing", CLUSTER),
    Fault("somebody accepts first", swapped(r"(chain services \{)", "\\1\n\t\tip daddr 172.30.0.43 accept", 1), "missing", CLUSTER),
    Fault("somebody drops first", swapped(r"(chain services \{)", "\\1\n\t\tip daddr 172.30.0.43 drop", 1), "policy", CLUSTER),
    Fault("somebody's rule that packets of Services do not meet", swapped(r"(chain filter-forward \{\n.*\n)", "\\1\t\tip saddr 203.0.113.200 drop\n", 1), "edited"),
    Fault("somebody translates first", lambda text: text + "\ntable ip other {\n\tchain early {\n\t\ttype nat hook prerouting priority -200; policy accept;\n\t\tip daddr 172.30.0.43 dnat to 203.0.113.66\n\t}\n}\n", "hijacked", CLUSTER),
]  # fmt: skip
LEFTOVER = """*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-4SW47YFZTEDKD3PK - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 172.30.0.44/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-4SW47YFZTEDKD3PK
COMMIT
"""


def test_a_healthy_node_has_no_drift() -> None:
    report = drift_of(NODE)
    assert report.differences == ()
    assert report.compared == 6


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_is_found(fault: Fault, tmp_path: Path) -> None:
    report = planted(NODE, fault, "nft-ruleset.txt", tmp_path)
    assert tells(report, fault), said(report)


def test_chains_of_the_iptables_mode_are_left_over(tmp_path: Path) -> None:
    node = tmp_path / "node"
    shutil.copytree(NODE, node)
    (node / "iptables-save.txt").write_text(LEFTOVER)
    report = drift_of(node)
    assert [one.kind.value for one in report.differences] == ["leftover"]
    assert "KUBE-SVC-4SW47YFZTEDKD3PK" in report.differences[0].actual
