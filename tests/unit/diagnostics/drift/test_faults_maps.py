# ruff: noqa: E501 - a fault a line reads as a table
"""Faults planted in the maps of our own nftables layout are found, each as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.drift_faults import (
    DATA,
    Fault,
    drift_of,
    planted,
    said,
    swapped,
    tells,
    without,
)

NODE = DATA / "drift" / "maps"
WEB, FRONTEND, CART = "shop/web:http", "shop/frontend:http", "shop/cart:http"
CHECKOUT, CATALOG, SOON = "shop/checkout:http", "shop/catalog:http", "shop/soon:http"
FAULTS = [
    Fault("cluster IP deleted", without('10.96.0.10 . tcp . 80 comment "shop/web:http" : goto cluster'), "missing", WEB),
    Fault("NodePort deleted", swapped('tcp . 30080 comment "shop/frontend:http" : goto', 'tcp . 31080 comment "shop/frontend:http" : goto'), "missing", FRONTEND),
    Fault("address that is gone", swapped('10.96.0.10 . tcp . 80 comment "shop/web:http" : goto', '10.96.0.77 . tcp . 80 comment "old/gone:p" : goto cluster-ip-lb-3,\n 10.96.0.10 . tcp . 80 comment "shop/web:http" : goto'), "edited", "old/gone:p"),
    Fault("endpoint lost", without("10.96.0.10 . tcp . 80 . 0 : 10.244.1.11 . 8080"), "endpoints", WEB),
    Fault("endpoint that is gone", swapped("10.96.0.10 . tcp . 80 . 0 : 10.244.1.11", "10.96.0.10 . tcp . 80 . 0 : 10.244.1.99"), "endpoints", WEB),
    Fault("target port wrong", swapped("10.96.0.10 . tcp . 80 . 0 : 10.244.1.11 . 8080", "10.96.0.10 . tcp . 80 . 0 : 10.244.1.11 . 8081"), "port", WEB),
    Fault("an endpoint twice", swapped("10.96.0.10 . tcp . 80 . 0 : 10.244.1.11", "10.96.0.10 . tcp . 80 . 0 : 10.244.1.12"), "endpoints", WEB),
    Fault("wrong number of endpoints", swapped('(10.96.0.10 . tcp . 80 comment "shop/web:http" : goto) cluster-ip-lb-3', r"\1 cluster-ip-lb-2"), "endpoints", WEB),
    Fault("hairpin forgotten", swapped("10.244.1.11 . 10.244.1.11", "10.244.9.9 . 10.244.9.9"), "masquerade", WEB),
    Fault("session affinity lost", swapped('(10.96.0.60 . tcp . 80 comment "shop/cart:http" : goto) \\S*sticky\\S*', r"\1 cluster-ip-lb-3,"), "edited", CART),
    Fault("reject lost", swapped(r',\s*10.96.0.70 . tcp . 80 comment "shop/soon:http" : goto reject-chain', ""), "missing", SOON),
    Fault("source range lost", swapped("elements = { 198.51.100.30 . tcp . 80 . 192.0.2.100 }", ""), "policy", CHECKOUT),
    Fault("firewall lost", swapped('elements = { 198.51.100.30 . tcp . 80 comment "shop/checkout:http" : goto allowed-sources-check }', ""), "policy", CHECKOUT),
    Fault("nobody masquerades", without("masquerade fully-random"), "edited"),
    Fault("no way from prerouting", swapped(r"(chain nat-prerouting \{.*\n.*\n)\s*jump services.*\n", r"\1", 1), "edited"),
    Fault("no table", swapped(r"^table ip kube-proxy \{", "table ip other {", 1), "jump"),
    Fault("somebody drops first", swapped(r"(chain services \{.*)", "\\1\n\t\tip daddr 10.96.0.10 drop", 1), "policy", WEB),
    Fault("somebody's rule", swapped(r"(chain filter-forward \{.*\n.*\n)", "\\1\t\tip saddr 203.0.113.200 drop\n", 1), "edited"),
    Fault("policy Local lifted", swapped('(198.51.100.40 . tcp . 80 comment "shop/catalog:http" : goto) \\S+', r"\1 external-lb-3,"), "endpoints", CATALOG),
]  # fmt: skip


def test_a_healthy_node_has_no_drift() -> None:
    report = drift_of(NODE)
    assert report.differences == ()
    assert report.compared == 11


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_is_found(fault: Fault, tmp_path: Path) -> None:
    report = planted(NODE, fault, "nft-ruleset.txt", tmp_path)
    assert tells(report, fault), said(report)
