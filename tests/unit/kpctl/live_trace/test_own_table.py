"""The rules that switch tracing on match no more than they must, and end by themselves."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from kpctl.live_trace.own_table import rules
from kpctl.live_trace.question import PacketFilter
from proxy.model.addresses import IPFamily
from proxy.netfilter.tracing import COUNTER

_CALL = "ip daddr 10.0.0.9 th dport 80"


def texts(packets: PacketFilter) -> dict[str, str]:
    return {chain.name: rule.text for chain, rule in rules(packets, (COUNTER,))}


def packets(iface: str | None, protocol: int = 17) -> PacketFilter:
    return PacketFilter(IPFamily.IPV4, protocol, ip_address("10.0.0.9"), 80, iface=iface)


@pytest.mark.parametrize(
    ("iface", "expected"),
    [
        (
            None,
            {
                "from-network": f"meta l4proto udp {_CALL} counter",
                "from-node": f"meta l4proto udp {_CALL} counter",
            },
        ),
        ("", {"from-node": f"meta l4proto udp {_CALL} counter"}),
        ("eth0", {"from-network": f'iifname "eth0" meta l4proto udp {_CALL} counter'}),
    ],
)
def test_packets_are_looked_for_where_they_may_come_from(
    iface: str | None, expected: dict[str, str]
) -> None:
    assert texts(packets(iface)) == expected


def test_of_tcp_only_what_opens_a_connection_matches() -> None:
    (text,) = texts(packets("", 6)).values()
    assert "tcp flags & (fin | syn | rst | ack) == syn" in text


def test_a_caller_and_its_port_narrow_the_rule() -> None:
    one = PacketFilter(IPFamily.IPV6, 17, source=ip_address("fd00::1"), source_port=4000, iface="")
    assert texts(one) == {"from-node": "meta l4proto udp ip6 saddr fd00::1 th sport 4000 counter"}
