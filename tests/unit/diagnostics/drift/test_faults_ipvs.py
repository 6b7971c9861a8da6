# ruff: noqa: E501 - a fault a line reads as a table
"""Faults planted on a node whose kube-proxy is in ipvs mode are found, each as what it is."""

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

NODE = DATA / "drift" / "ipvs"
ONE, LOCAL, CLUSTER = "ns1/svc1:p80", "ns2/svc2:p80", "ns3/svc3:p80"
TWO_ENDPOINTS, RANGES, EMPTY = "ns4/svc4:p80", "ns5/svc5:p80", "ns6/svc6:p80"
SETS, RULES = "ipset-save.txt", "iptables-save.txt"
FAULTS = [
    Fault("virtual server deleted", without("-t 172.30.0.41:80"), "missing", ONE),
    Fault("load balancer's server deleted", without("-t 5.6.7.8:80"), "policy", RANGES),
    Fault("external IP's server deleted", without("-t 192.168.99.33:80"), "missing", TWO_ENDPOINTS),
    Fault("NodePort's servers deleted", without(r"-t \S+:31003 "), "missing", CLUSTER),
    Fault("NodePort's server of one address deleted", without("-t 192.168.1.2:31003 "), "missing", CLUSTER),
    Fault("empty Service's server deleted", without("-t 172.30.0.46:80"), "missing", EMPTY),
    Fault("server of a Service that is gone", swapped(r"\A", "-A -t 172.30.0.77:80 -s rr\n-a -t 172.30.0.77:80 -r 10.180.0.1:80 -m -w 1\n", 1), "stale"),
    Fault("NodePort of a Service that is gone", swapped(r"\A", "-A -t 192.168.0.2:32111 -s rr\n-a -t 192.168.0.2:32111 -r 10.180.0.1:80 -m -w 1\n", 1), "stale"),
    Fault("real server lost", without("-a -t 172.30.0.44:80 -r 10.180.0.4:80"), "endpoints", TWO_ENDPOINTS),
    Fault("real server that is gone", swapped("-a -t 172.30.0.44:80 -r 10.180.0.4:80", "-a -t 172.30.0.44:80 -r 10.180.0.44:80"), "endpoints", TWO_ENDPOINTS),
    Fault("one real server too many", before("-a -t 172.30.0.44:80 -r 10.180.0.4:80", "-a -t 172.30.0.44:80 -r 10.180.0.6:80 -m -w 1"), "endpoints", TWO_ENDPOINTS),
    Fault("real server does not drain any more", before("-a -t 172.30.0.41:80", "-a -t 172.30.0.41:80 -r 10.180.0.9:80 -m -w 1"), "endpoints", ONE),
    Fault("real server drains though it is ready", swapped("(-a -t 172.30.0.44:80 -r 10.180.0.4:80 -m -w) 1", r"\1 0"), "endpoints", TWO_ENDPOINTS),
    Fault("no real server takes connections", swapped("(-a -t 172.30.0.41:80 .* -w) 1", r"\1 0"), "policy", ONE),
    Fault("target port wrong", swapped("-r 10.180.0.1:80", "-r 10.180.0.1:8080"), "port", ONE),
    Fault("weight wrong", both(swapped("(-a -t 172.30.0.44:80 -r 10.180.0.4:80 -m -w) 1", r"\1 3"), swapped("-A -t 172.30.0.44:80 -s rr", "-A -t 172.30.0.44:80 -s wrr")), "weight", TWO_ENDPOINTS),
    Fault("another scheduler", swapped("-A -t 172.30.0.44:80 -s rr", "-A -t 172.30.0.44:80 -s lc"), "edited", TWO_ENDPOINTS),
    Fault("persistence shorter", swapped("(-A -t 172.30.0.45:80 -s rr -p) 10800", r"\1 600"), "affinity", RANGES),
    Fault("persistence lost", swapped("(-A -t 172.30.0.45:80 -s rr) -p 10800", r"\1"), "affinity", RANGES),
    Fault("persistence nobody asked for", swapped("-A -t 172.30.0.44:80 -s rr", "-A -t 172.30.0.44:80 -s rr -p 10800"), "affinity", TWO_ENDPOINTS),
    Fault("cluster IP not in its set", without("KUBE-CLUSTER-IP 172.30.0.43,tcp:80"), "masquerade", CLUSTER, SETS),
    Fault("external IP not in its set", without("KUBE-EXTERNAL-IP 192.168.99.33"), "masquerade", TWO_ENDPOINTS, SETS),
    Fault("NodePort not in its set", without("KUBE-NODE-PORT-TCP 31003"), "masquerade", CLUSTER, SETS),
    Fault("local NodePort not in its set", without("KUBE-NODE-PORT-LOCAL-TCP 31001"), "masquerade", LOCAL, SETS),
    Fault("local load balancer not in its set", without("KUBE-LOAD-BALANCER-LOCAL"), "masquerade", LOCAL, SETS),
    Fault("load balancer not in its set", without("KUBE-LOAD-BALANCER 5.6.7.8"), "masquerade", RANGES, SETS),
    Fault("hairpin not in its set", without("KUBE-LOOP-BACK"), "masquerade", TWO_ENDPOINTS, SETS),
    Fault("firewalled address not in its set", without("KUBE-LOAD-BALANCER-FW"), "policy", RANGES, SETS),
    Fault("source range widened", swapped("5.6.7.8,tcp:80,203.0.113.0/25", "5.6.7.8,tcp:80,198.51.100.0/24"), "policy", RANGES, SETS),
    Fault("source range narrowed", swapped("5.6.7.8,tcp:80,203.0.113.0/25", "5.6.7.8,tcp:80,203.0.113.64/26"), "policy", RANGES, SETS),
    Fault("source range lost", without("KUBE-LOAD-BALANCER-SOURCE-CIDR"), "policy", RANGES, SETS),
    Fault("nobody masquerades", without("-A KUBE-POSTROUTING .*requiring SNAT"), "masquerade", CLUSTER, RULES),
    Fault("mark not set", without("-A KUBE-MARK-MASQ"), "masquerade", CLUSTER, RULES),
    Fault("no way from PREROUTING", without("-A PREROUTING .*KUBE-SERVICES"), "jump", "", RULES),
    Fault("no way from POSTROUTING", without("-A POSTROUTING .*KUBE-POSTROUTING"), "jump", "", RULES),
    Fault("no way to the firewall", without("-A INPUT .*KUBE-PROXY-FIREWALL"), "jump", "", RULES),
    Fault("source ranges are not dropped", without("-A KUBE-SOURCE-RANGES-FIREWALL -j DROP"), "policy", RANGES, RULES),
    Fault("access filter edited", without("-A KUBE-IPVS-FILTER .*KUBE-EXTERNAL-IP-LOCAL"), "edited", "", RULES),
    Fault("somebody drops first", before("-A KUBE-IPVS-FILTER .*KUBE-CLUSTER-IP", "-A KUBE-IPVS-FILTER -d 172.30.0.43/32 -j DROP"), "policy", CLUSTER, RULES),
    Fault("iptables mode was here", swapped(r"(?s)(\*nat\n)(.*)(COMMIT)", "\\1:KUBE-SVC-4SW47YFZTEDKD3PK - [0:0]\n\\2-A KUBE-SVC-4SW47YFZTEDKD3PK -j KUBE-MARK-MASQ\n\\3"), "leftover", "", RULES),
    Fault("somebody translates first", before("-A PREROUTING .*KUBE-SERVICES", "-A PREROUTING -d 172.30.0.43/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 203.0.113.66:80"), "hijacked", CLUSTER, RULES),
]  # fmt: skip


def test_a_healthy_node_has_no_drift() -> None:
    report = drift_of(NODE)
    assert report.differences == ()
    assert report.compared == 6


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_is_found(fault: Fault, tmp_path: Path) -> None:
    report = planted(NODE, fault, "ipvsadm-save.txt", tmp_path)
    assert tells(report, fault), said(report)
