# ruff: noqa: E501 - a fault a line reads as a table
"""Faults planted in the rules of a kube-proxy in iptables mode are found, each as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.drift_faults import (
    DATA,
    Fault,
    before,
    both,
    drift_of,
    planted,
    said,
    swapped,
    tells,
    without,
)

NODE = DATA / "snapshots" / "iptables"
ONE, LOCAL, CLUSTER = "ns1/svc1:p80", "ns2/svc2:p80", "ns3/svc3:p80"
TWO_ENDPOINTS, RANGES, EMPTY = "ns4/svc4:p80", "ns5/svc5:p80", "ns6/svc6:p80"
SVC4, SEP4, EXT4 = (
    "KUBE-SVC-4SW47YFZTEDKD3PK",
    "KUBE-SEP-UKSFD7AGPMPPLUHC",
    "KUBE-EXT-4SW47YFZTEDKD3PK",
)
SVC1 = "KUBE-SVC-XPGD46QRK7WJZT7O"
FAULTS = [
    Fault("cluster IP rule deleted", without(r"-A KUBE-SERVICES .*svc1:p80 cluster IP"), "missing", ONE),
    Fault("load balancer rule deleted", without(r"-A KUBE-SERVICES .*svc5:p80 loadbalancer"), "policy", RANGES),
    Fault("external IP rule deleted", without(r"-A KUBE-SERVICES .*svc4:p80 external IP"), "missing", TWO_ENDPOINTS),
    Fault("NodePort rule deleted", without(r"-A KUBE-NODEPORTS .*svc3:p80.*-j KUBE-EXT"), "missing", CLUSTER),
    Fault("cluster IP changed", swapped("-d 172.30.0.43/32", "-d 172.30.0.99/32"), "missing", CLUSTER),
    Fault("service port changed", swapped(r"(svc1:p80 cluster IP.*--dport) 80", r"\1 81"), "missing", ONE),
    Fault("NodePort changed", swapped("--dport 31003", "--dport 31999"), "stale", CLUSTER),
    Fault("rule of a Service that is gone", before(r"-A KUBE-SERVICES .*svc1", f'-A KUBE-SERVICES -d 172.30.0.77/32 -p tcp -m comment --comment "old/gone:p cluster IP" -m tcp --dport 80 -j {SVC1}'), "stale", "old/gone:p"),
    Fault("NodePort of a Service that is gone", before(r"-A KUBE-NODEPORTS .*svc3", f'-A KUBE-NODEPORTS -p tcp -m comment --comment "old/gone:p" -m tcp --dport 32111 -j {SVC1}'), "stale", "old/gone:p"),
    Fault("endpoint lost", without(f"-A {SVC4} .*10.180.0.4:80"), "endpoints", TWO_ENDPOINTS),
    Fault("endpoint that is gone", swapped("--to-destination 10.180.0.4:80", "--to-destination 10.180.0.44:80"), "endpoints", TWO_ENDPOINTS),
    Fault("endpoint of another Service", swapped("--to-destination 10.180.0.1:80", "--to-destination 10.180.0.2:80"), "endpoints", ONE),
    Fault("target port wrong", swapped("--to-destination 10.180.0.1:80", "--to-destination 10.180.0.1:8080"), "port", ONE),
    Fault("probability wrong", swapped("--probability 0.5[0-9]*", "--probability 0.2500000000"), "weight", TWO_ENDPOINTS),
    Fault("first endpoint takes all", swapped(r"-m statistic --mode random --probability \S+ ", ""), "endpoints", TWO_ENDPOINTS),
    Fault("endpoint chain emptied", without(f"-A {SEP4} .*DNAT"), "endpoints", TWO_ENDPOINTS),
    Fault("NodePort does not masquerade", without(f"-A {EXT4} .*KUBE-MARK-MASQ"), "masquerade", TWO_ENDPOINTS),
    Fault("cluster IP does not masquerade", without(f"-A {SVC1} .*KUBE-MARK-MASQ"), "masquerade", ONE),
    Fault("hairpin does not masquerade", without("-A KUBE-SEP-C6EBXVWJJZMIWKLZ -s 10.180.0.5/32"), "masquerade", TWO_ENDPOINTS),
    Fault("other cluster CIDR", swapped(r"(?m)^(-A KUBE-SVC-\S+ ! -s) 10.0.0.0/8", r"\1 192.168.0.0/16"), "masquerade", ONE),
    Fault("mark not set", without("-A KUBE-MARK-MASQ -j MARK"), "masquerade", CLUSTER),
    Fault("nobody masquerades", without("-A KUBE-POSTROUTING .*MASQUERADE"), "masquerade", CLUSTER),
    Fault("policy Local lifted", both(without(r"-A KUBE-EXTERNAL-SERVICES .*svc2:p80 has no local"), swapped("-A KUBE-EXT-GNZBNJ2PO5MGZ6GT -m comment --comment \"masquerade LOCAL traffic.*", "-A KUBE-EXT-GNZBNJ2PO5MGZ6GT -j KUBE-SVC-GNZBNJ2PO5MGZ6GT", 1)), "policy", LOCAL),
    Fault("drop without local endpoints lost", without("-A KUBE-EXTERNAL-SERVICES -d 1.2.3.4/32"), "missing", LOCAL),
    Fault("reject of an empty Service lost", without(r"-A KUBE-SERVICES .*svc6:p80 has no endpoints"), "missing", EMPTY),
    Fault("Service refused though it has endpoints", before(r"-A KUBE-SERVICES .*svc1", '-A KUBE-SERVICES -d 172.30.0.41/32 -p tcp -m comment --comment "ns1/svc1:p80 has no endpoints" -m tcp --dport 80 -j DROP'), "policy", ONE),
    Fault("source range widened", swapped("-s 203.0.113.0/25", "-s 0.0.0.0/0"), "policy", RANGES),
    Fault("source range narrowed", swapped("-s 203.0.113.0/25", "-s 203.0.113.64/26"), "policy", RANGES),
    Fault("firewall of source ranges lost", without("-A KUBE-PROXY-FIREWALL .*5.6.7.8"), "missing", RANGES),
    Fault("session affinity shorter", swapped("--seconds 10800", "--seconds 600"), "affinity", RANGES),
    Fault("session affinity lost", without("--rcheck"), "affinity", RANGES),
    Fault("no way from PREROUTING", without("-A PREROUTING .*KUBE-SERVICES"), "jump"),
    Fault("no way from OUTPUT", without(r"-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES"), "jump"),
    Fault("no way from POSTROUTING", without("-A POSTROUTING .*KUBE-POSTROUTING"), "jump"),
    Fault("no way from INPUT to refusals", without("-A INPUT .*KUBE-EXTERNAL-SERVICES"), "jump"),
    Fault("no way to the NodePorts", without("-A KUBE-SERVICES .*-j KUBE-NODEPORTS"), "missing", CLUSTER),
    Fault("somebody accepts first", before(r"-A KUBE-SERVICES .*svc1", "-A KUBE-SERVICES -d 172.30.0.43/32 -j ACCEPT"), "missing", CLUSTER),
    Fault("somebody returns first", before(f"-A {SVC4} ", f"-A {SVC4} -j RETURN"), "missing", TWO_ENDPOINTS),
    Fault("somebody drops marked packets", before("-A KUBE-FORWARD .*ACCEPT", "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j DROP"), "policy", CLUSTER),
    Fault("invalid packets are not dropped", without("-A KUBE-FORWARD .*INVALID"), "edited"),
    Fault("a rule that only counts", before(f"-A {SVC4} ", f"-A {SVC4} -s 203.0.113.200/32"), "edited", TWO_ENDPOINTS),
    Fault("IPVS was here", swapped(r"^(:KUBE-SERVICES - .*)$", "\\1\n:KUBE-LOAD-BALANCER - [0:0]\n-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ"), "leftover"),
    Fault("somebody translates first", before("-A PREROUTING .*KUBE-SERVICES", "-A PREROUTING -d 172.30.0.43/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 203.0.113.66:80"), "hijacked", CLUSTER),
]  # fmt: skip


def test_a_healthy_node_has_no_drift() -> None:
    report = drift_of(NODE)
    assert report.differences == ()
    assert report.compared == 6


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_is_found(fault: Fault, tmp_path: Path) -> None:
    report = planted(NODE, fault, "iptables-save.txt", tmp_path)
    assert tells(report, fault), said(report)
