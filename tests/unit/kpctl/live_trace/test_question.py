"""Which packets are looked at, in words and in width."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from diagnostics.trace.question import Question
from kpctl.live_trace.question import PacketFilter
from proxy.model.addresses import IPFamily

_ANY = PacketFilter(IPFamily.IPV4, 6)
_HOST, _OTHER = ip_address("10.0.0.9"), ip_address("10.0.0.1")


@pytest.mark.parametrize(
    ("packets", "narrow"),
    [
        (_ANY, False),
        (PacketFilter(IPFamily.IPV4, 6, port=80), False),
        (PacketFilter(IPFamily.IPV4, 6, _HOST), False),
        (PacketFilter(IPFamily.IPV4, 6, _HOST, 80), True),
        (PacketFilter(IPFamily.IPV4, 6, _HOST, source=_OTHER), True),
        (PacketFilter(IPFamily.IPV4, 6, port=80, source=_OTHER), True),
    ],
)
def test_a_filter_is_narrow_with_a_host_and_something_else(
    packets: PacketFilter, narrow: bool
) -> None:
    assert packets.is_narrow is narrow


@pytest.mark.parametrize(
    ("packets", "text"),
    [
        (_ANY, "new TCP connections of any client to any address"),
        (
            PacketFilter(IPFamily.IPV4, 17, _HOST, 53, _OTHER, iface="eth0"),
            "UDP packets of 10.0.0.1 to 10.0.0.9:53, in by eth0",
        ),
        (
            PacketFilter(IPFamily.IPV4, 132, _HOST, iface=""),
            "SCTP packets of any client to 10.0.0.9, from this node",
        ),
        (
            PacketFilter(IPFamily.IPV4, 6, port=80),
            "new TCP connections of any client to port 80 of any address",
        ),
    ],
)
def test_a_filter_says_what_it_lets_through(packets: PacketFilter, text: str) -> None:
    assert packets.text == text


def test_a_question_becomes_a_filter_for_its_packets_or_for_all_callers() -> None:
    question = Question(ip_address("fd00::1"), ip_address("fd00::9"), 80, 6, "eth0")
    own, everybody = PacketFilter.of(question), PacketFilter.of(question, any_source=True)
    assert own.family is IPFamily.IPV6
    assert (own.destination, own.port, own.source) == (question.dst, 80, question.src)
    assert (everybody.source, everybody.iface) == (None, "eth0")
