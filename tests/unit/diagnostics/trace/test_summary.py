"""One sentence with its certainty, and what the client notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.trace.summary import client_sees, sentence
from tests.support.traces import CLUSTER_CLIENT, OUTSIDER, recorded, traced, write_rules


@pytest.mark.parametrize(
    ("mode", "src", "dst", "said"),
    [
        (
            "iptables", OUTSIDER, "172.30.0.44",
            "Certain: the packet goes to one of 2 endpoints of ns4/svc4:p80 by iptables, "
            "1/2 each, with its source address rewritten.",
        ),
        (
            "iptables", CLUSTER_CLIENT, "172.30.0.45",
            "Certain: the packet goes to the only endpoint of ns5/svc5:p80 by iptables, "
            "with its own source address.",
        ),
        (
            "iptables", CLUSTER_CLIENT, "172.30.0.46",
            "Certain: the packet to ns6/svc6:p80 is rejected by iptables.",
        ),
        (
            "ipvs", OUTSIDER, "172.30.20.1",
            "Certain: the packet goes to one of 3 endpoints of ns1/svc1 by ipvs, "
            "1/3 each, with its own source address.",
        ),
    ],
)  # fmt: skip
def test_the_verdict_is_one_sentence(mode: str, src: str, dst: str, said: str) -> None:
    assert sentence(*recorded(mode, src, dst)) == said


def test_without_rules_nothing_is_certain(tmp_path: Path) -> None:
    (tmp_path / "ip-addr.json").write_text("[]")
    found, around = traced(tmp_path, OUTSIDER, "10.96.0.10")
    assert sentence(found, around).startswith("Unknown, because there were no rules to follow")


def test_a_maybe_says_what_else_may_happen(tmp_path: Path) -> None:
    write_rules(tmp_path, "-A FORWARD -m string --string x --algo bm -j DROP")
    found, around = traced(tmp_path, OUTSIDER, "10.96.0.10")
    assert sentence(found, around).startswith("Maybe, because a match on the way")


@pytest.mark.parametrize(
    ("target", "protocol", "noticed"),
    [
        ("DROP", "TCP", "gives up with a time-out"),
        ("DROP", "UDP", "no answer, and no error"),
        ("REJECT --reject-with icmp-port-unreachable", "TCP", "refused (ECONNREFUSED), by ICMP"),
        ("REJECT --reject-with icmp-port-unreachable", "UDP", "a connected socket reports"),
        ("REJECT --reject-with icmp-host-prohibited", "TCP", "(EHOSTUNREACH)"),
        ("REJECT --reject-with icmp-net-unreachable", "TCP", "(ENETUNREACH)"),
        ("REJECT --reject-with tcp-reset", "TCP", "refused (ECONNREFUSED), by a TCP RST"),
        ("REJECT --reject-with icmp6-adm-prohibited", "TCP", "(EACCES), by ICMPv6 adm prohibited"),
    ],
)
def test_a_refusal_says_what_the_client_notices(
    tmp_path: Path, target: str, protocol: str, noticed: str
) -> None:
    addresses = ("2001:db8::9", "2001:db8::10") if "icmp6" in target else (OUTSIDER, "10.96.0.10")
    write_rules(tmp_path, f"-A FORWARD -p {protocol.lower()} -j {target}")
    found, _ = traced(tmp_path, *addresses, protocol=protocol)
    assert noticed in client_sees(found)


def test_a_packet_that_nobody_touches_reaches_whoever_has_the_address() -> None:
    found, _ = recorded("iptables", OUTSIDER, "192.0.2.77")
    assert client_sees(found).startswith("The client reaches whoever has 192.0.2.77")


def test_a_port_of_the_node_that_is_no_service_is_its_own_process() -> None:
    found, _ = recorded("iptables", OUTSIDER, "192.168.0.2")
    assert client_sees(found) == (
        "The client reaches the process of this node that listens on 192.168.0.2:80; "
        "if none does: connection refused (ECONNREFUSED)."
    )
