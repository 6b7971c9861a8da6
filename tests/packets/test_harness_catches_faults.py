"""
The flow harness itself: it finds nothing wrong with right rules, and every fault in wrong ones.

The rules in tests/data/harness are loaded as they are; no proxy runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packets.flows.judge import attempts_for
from tests.packets.flows.play import Failure, play
from tests.packets.flows.scenario import Scenario, Stage, load
from tests.packets.flows.site import Site, site_for

DATA = Path(__file__).parents[1] / "data" / "harness"
RULES = (DATA / "shop.nft").read_text()

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]


@dataclass(frozen=True, slots=True)
class FixedRules:
    """A proxy that knows only one ruleset."""

    site: Site
    rules: str

    def start(self, stage: Stage) -> None:
        self.site.node.run(["nft", "-f", "-"], stdin=self.rules)

    def follow(self, stage: Stage) -> None:
        raise AssertionError(f"these rules have no stage {stage.name}")

    def evidence(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Fault:
    """A change of the rules, and how the harness must word it for flows that suffer."""

    old: str
    new: str
    told: Mapping[str, str]


_TWO = "10.180.0.1:8080 10.180.0.2:8080"

FAULTS = {
    "an endpoint is missing": Fault(
        "1 : 10.180.0.2 . 8080",
        "1 : 10.180.0.1 . 8080",
        {"pod to web": "dnat, to 10.180.0.1:8080, source kept"},
    ),
    "an endpoint too many": Fault(
        "mod 2 map { 0",
        "mod 3 map { 2 : 10.180.0.3 . 8080, 0",
        {"pod to web": f"dnat, to {_TWO} 10.180.0.3:8080, source kept"},
    ),
    "a wrong port of an endpoint": Fault(
        "10.180.0.1:5353",
        "10.180.0.1:53",
        {"pod to DNS": "dnat, to 10.180.0.1:53, source kept"},
    ),
    "a wrong address of an SCTP endpoint": Fault(
        "10.180.0.1:9999",
        "10.180.0.2:9999",
        {"pod to signalling": "dnat, to 10.180.0.2:9999, source kept"},
    ),
    "an endpoint where nobody listens": Fault(
        "1 : 10.180.0.2 . 8080",
        "1 : 10.180.0.2 . 7",
        {"pod to web": "dnat and reject, to 10.180.0.1:8080, source kept"},
    ),
    "outsiders keep their source": Fault(
        "ip saddr != 10.0.0.0/8 meta mark set 0x4000",
        "ip saddr != 10.0.0.0/8 meta mark set 0",
        {
            "outsider to web": f"dnat, to {_TWO}, source kept",
            "node to web": f"dnat, to {_TWO}, source kept",
            "outsider to signalling": "dnat, to 10.180.0.1:9999, source kept",
        },
    ),
    "pods lose their source": Fault(
        "ip saddr != 10.0.0.0/8 meta",
        "meta",
        {
            "pod to web": f"dnat, to {_TWO}, source rewritten",
            "pod to DNS": "dnat, to 10.180.0.1:5353, source rewritten",
            "pod to signalling": "dnat, to 10.180.0.1:9999, source rewritten",
        },
    ),
    "some connections lose their source": Fault(
        "ip saddr != 10.0.0.0/8 meta mark set 0x4000",
        "meta mark set numgen random mod 2 map { 0 : 0x0, 1 : 0x4000 }",
        {"pod to web": f"dnat, to {_TWO}, source kept and source rewritten"},
    ),
    "a hairpin keeps its source": Fault(
        "ip saddr 10.180.0.1 ip daddr 10.180.0.1 masquerade",
        "ip saddr 10.180.0.9 masquerade",
        {"backend to DNS, which is itself": "dnat, to 10.180.0.1:5353, source kept"},
    ),
    "a Service is not there": Fault(
        "ip daddr 172.30.0.10 tcp dport 80 dnat",
        "ip daddr 172.30.0.99 tcp dport 80 dnat",
        {"pod to web": "none, source kept"},
    ),
    "a Service is not there for SCTP": Fault(
        "sctp dport 9 dnat ip to",
        "sctp dport 99 dnat ip to",
        {"pod to signalling": "none, source kept"},
    ),
    "a node port is not there": Fault(
        "tcp dport 31080 dnat",
        "tcp dport 31082 dnat",
        {"outsider to the node port": "none, source kept"},
    ),
    "the node itself is forgotten": Fault(
        "type nat hook output priority -100\n\t\tjump services",
        "type nat hook output priority -100",
        {
            "node to its own node port": "none, source kept",
            "node to signalling": "none, source kept",
        },
    ),
    "a node port takes what is not its own": Fault(
        "tcp dport 31080 dnat",
        "tcp dport 31080-31081 dnat",
        {"outsider to another port of the node": "dnat, to 10.180.0.1:8080, source kept"},
    ),
    "pods cannot reach each other": Fault(
        "ip daddr 172.30.0.12 drop",
        "ip daddr { 172.30.0.12, 10.0.0.3 } drop",
        {"pod to another pod": "drop"},
    ),
    "dropped instead of refused": Fault(
        "172.30.0.11 reject",
        "172.30.0.11 drop",
        {
            f"{source} to a Service without backends, {protocol}": "drop"
            for source in ("pod", "outsider", "node")
            for protocol in ("TCP", "UDP", "SCTP")
        },
    ),
    "forwarded instead of refused": Fault(
        "ip daddr 172.30.0.11 reject",
        "ip daddr 172.30.0.99 reject",
        {
            f"{source} to a Service without backends, {protocol}": "none, source kept"
            for source in ("pod", "outsider", "node")
            for protocol in ("TCP", "UDP", "SCTP")
        },
    ),
    "refused instead of dropped": Fault(
        "172.30.0.12 drop",
        "172.30.0.12 reject",
        {
            f"{source} to a Service without local backends, {protocol}": "reject"
            for source in ("pod", "node")
            for protocol in ("TCP", "UDP", "SCTP")
        },
    ),
    "forwarded instead of dropped": Fault(
        "ip daddr 172.30.0.12 drop",
        "ip daddr 172.30.0.99 drop",
        {
            f"{source} to a Service without local backends, {protocol}": "none, source kept"
            for source in ("pod", "node")
            for protocol in ("TCP", "UDP", "SCTP")
        },
    ),
    "answers are lost": Fault(
        "ip daddr 172.30.0.11 reject",
        "ip saddr 10.180.0.1 udp sport 5353 drop",
        {
            "pod to DNS": "dnat, to 10.180.0.1:5353, source kept,"
            " some answers did not find their way back"
        },
    ),
}
FAULTS_IPV6 = {
    "wrong endpoints": Fault(
        "[fd00:10:180::1]:8080",
        "[fd00:10:180::2]:8080",
        {"pod to web": "dnat, to [fd00:10:180::2]:8080, source kept"},
    ),
    "a wrong SCTP port": Fault(
        "[fd00:10:180::1]:9999",
        "[fd00:10:180::1]:99",
        {"pod to signalling": "dnat, to [fd00:10:180::1]:99, source kept"},
    ),
    "pods lose their source": Fault(
        "meta mark 0x4000 masquerade",
        "ip6 saddr fd00:10::2 masquerade",
        {"pod to DNS": "dnat, to [fd00:10:180::1]:5353, source rewritten"},
    ),
    "dropped instead of refused": Fault(
        "fd00:172:30::11 reject",
        "fd00:172:30::11 drop",
        {
            f"{source} to a Service without backends, {protocol}": "drop"
            for source in ("pod", "node")
            for protocol in ("TCP", "UDP", "SCTP")
        },
    ),
    "refused instead of dropped": Fault(
        "fd00:172:30::12 drop",
        "fd00:172:30::12 reject",
        {
            f"pod to a Service without local backends, {protocol}": "reject"
            for protocol in ("TCP", "UDP", "SCTP")
        },
    ),
}


@pytest.mark.parametrize("name", ["shop", "shop-ipv6"])
def test_right_rules_pass(name: str) -> None:
    scenario = load(name, "nftables", DATA)
    assert [str(failure) for failure in _play(scenario, RULES)] == []


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_found_and_told(fault: Fault) -> None:
    _assert_found("shop", fault)


@pytest.mark.parametrize("fault", FAULTS_IPV6.values(), ids=FAULTS_IPV6.keys())
def test_a_fault_in_ipv6_is_found_and_told(fault: Fault) -> None:
    _assert_found("shop-ipv6", fault)


@pytest.mark.parametrize("name", ["shop", "shop-ipv6"])
def test_without_any_rules_only_untouched_flows_pass(name: str) -> None:
    scenario = load(name, "nftables", DATA)
    failed = {failure.flow.name for failure in _play(scenario, "")}
    assert failed == {flow.name for flow in scenario.flows if flow.expect.verdict != "none"}


def test_a_failure_names_scenario_stage_flow_packet_and_rules() -> None:
    scenario = load("shop", "nftables", DATA)
    broken = RULES.replace("172.30.0.12 drop", "172.30.0.12 reject")
    first_line, *rules = str(_play(scenario, broken)[0]).splitlines()
    assert first_line == (
        "shop | at start | pod to a Service without local backends, TCP"
        " (10.0.0.2 -> 172.30.0.12:80/TCP) | expected drop | observed reject"
    )
    assert "    ip daddr 172.30.0.12 reject with icmp port-unreachable" in rules


def test_enough_connections_are_sent_to_see_every_endpoint() -> None:
    flow = next(iter(load("shop", "nftables", DATA).flows))
    choices, attempts = len(flow.expect.endpoints) + 1, attempts_for(flow)
    assert choices * (1 - 1 / choices) ** attempts < 1e-6


def _assert_found(name: str, fault: Fault) -> None:
    assert fault.old in RULES
    scenario = load(name, "nftables", DATA)
    failures = _play(scenario, RULES.replace(fault.old, fault.new))
    told = {failure.flow.name: str(failure.seen) for failure in failures}
    assert {flow: told.get(flow) for flow in fault.told} == fault.told


def _play(scenario: Scenario, rules: str) -> list[Failure]:
    with site_for(scenario) as site:
        return play(scenario, site, FixedRules(site, rules), settle_s=0)
