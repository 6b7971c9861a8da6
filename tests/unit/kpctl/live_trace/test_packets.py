"""Messages become packets again, though the kernel uses their numbers twice."""

from __future__ import annotations

from kpctl.live_trace.own_table import TABLE
from kpctl.live_trace.packets import QUIET_S, Assembler
from proxy.netfilter.trace_messages import Headers
from tests.support.nft_traces import recorded, told

_OWN = f"ip {TABLE} from-node"
_SENT = Headers("10.0.0.1", "10.0.0.9", 6, 1000, 80)


def begun(packet_id: int = 1, headers: Headers = _SENT, oif: int = 2):  # type: ignore[no-untyped-def]
    return told(_OWN, headers=headers, devices=(0, oif), packet_id=packet_id)


def test_a_packet_is_through_when_nothing_more_is_heard() -> None:
    assembler = Assembler()
    assembler.add(begun(), 1.0)
    assembler.add(told("ip t c"), 1.1)
    assert list(assembler.through(1.1 + QUIET_S - 0.01)) == []
    (packet,) = assembler.through(1.1 + QUIET_S)
    assert (packet.at_s, len(packet.messages)) == (1.0, 2)
    assert list(assembler.rest()) == []


def test_packets_underway_at_once_are_kept_apart_and_given_oldest_first() -> None:
    assembler = Assembler()
    for at_s, packet_id in ((1.0, 7), (1.1, 5)):
        assembler.add(begun(packet_id), at_s)
    assembler.add(told("ip t c", packet_id=7), 1.2)
    packets = list(assembler.rest())
    assert [(packet.at_s, len(packet.messages)) for packet in packets] == [(1.0, 2), (1.1, 1)]


def test_a_number_that_is_used_again_begins_another_packet() -> None:
    assembler = Assembler()
    assembler.add(begun(), 1.0)
    assembler.add(begun(), 1.05)
    first, second = assembler.rest()
    assert (first.at_s, second.at_s) == (1.0, 1.05)


def test_the_kernels_message_at_the_end_of_our_chain_begins_nothing() -> None:
    assembler = Assembler()
    assembler.add(begun(), 1.0)
    assembler.add(told(_OWN, handle=0), 1.0)
    (packet,) = assembler.rest()
    assert len(packet.messages) == 2


def test_a_packet_that_comes_back_on_the_loopback_device_stays_one() -> None:
    assembler = Assembler()
    messages = recorded("nftables-loopback")
    assert len({message.packet_id for message in messages}) == 2
    for message in messages:
        assembler.add(message, 1.0)
    (packet,) = assembler.rest()
    assert packet.messages == tuple(messages)


def test_another_packet_on_the_loopback_device_is_another() -> None:
    assembler = Assembler()
    assembler.add(begun(oif=1), 1.0)
    other = Headers("10.0.0.1", "10.0.0.9", 6, 1001, 80)
    assembler.add(told("ip t c", headers=other, devices=(1, 0), packet_id=2), 1.0)
    assert len(list(assembler.rest())) == 2
