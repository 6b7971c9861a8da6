"""The kernel's trace messages, as recorded from Linux 6.18."""

from __future__ import annotations

import struct

import pytest

from proxy.netfilter.trace_messages import Headers, TraceKind, read_trace_message
from proxy.netfilter.wire import NFGENMSG, attr, nested, string, u32
from tests.support.nft_traces import recorded


def test_a_rule_is_told_with_its_handle_and_verdict() -> None:
    rules = [
        (m.table, m.chain, m.handle, m.verdict)
        for m in recorded("nftables-pod-cluster-ip")
        if m.kind is TraceKind.RULE and m.handle
    ]
    assert rules[0][:2] == ("kpctl-trace", "from-network")
    assert ("kube-proxy", "services", 48, "goto cluster-ip-lb-3") in rules
    assert ("kube-proxy", "lb-3", 72, "accept") in rules


def test_a_policy_is_told_without_a_handle() -> None:
    last = recorded("nftables-pod-cluster-ip")[-1]
    assert (last.kind, last.chain, last.handle, last.verdict) == (
        TraceKind.POLICY,
        "seen-postrouting",
        0,
        "accept",
    )


def test_the_headers_show_the_translation_from_one_base_chain_to_the_next() -> None:
    seen = [m.headers for m in recorded("iptables-cluster-ip") if m.headers]
    first, last = seen[0], seen[-1]
    assert (first.source, first.destination, first.destination_port) == (
        "192.0.2.11",
        "10.96.0.10",
        80,
    )
    assert (last.source, last.destination, last.destination_port) == (
        "10.244.1.1",
        "10.244.1.11",
        8080,
    )
    assert first.protocol == last.protocol == 6


def test_ipv6_headers_are_read() -> None:
    messages = recorded("nftables-ipv6")
    assert messages[0].family == "ip6"
    assert messages[0].headers is not None
    assert messages[0].headers.source == "fd02:1::9"
    assert messages[0].headers.destination == "fd03::10"


def test_a_reject_is_told_as_a_drop() -> None:
    assert recorded("nftables-reject")[-1].verdict == "drop"


def test_all_messages_of_a_packet_have_one_number() -> None:
    assert len({m.packet_id for m in recorded("nftables-pod-cluster-ip")}) == 1


def message(*attributes: bytes, family: int = 2) -> bytes:
    names = string(1, "t") + string(2, "c")
    return NFGENMSG.pack(family, 0, 0) + names + b"".join(attributes)


def network(protocol: int, size: int = 20) -> bytes:
    return (bytes([0x45] + [0] * 8 + [protocol, 0, 0]) + bytes(range(1, 9)))[:size]


@pytest.mark.parametrize(
    ("protocol", "transport", "ports"),
    [(17, "00350036", (53, 54)), (1, "08000000", (0, 0)), (6, "0035", (0, 0))],
)
def test_ports_are_read_where_a_protocol_has_them(
    protocol: int, transport: str, ports: tuple[int, int]
) -> None:
    headers = attr(8, network(protocol)) + attr(9, bytes.fromhex(transport))
    read = read_trace_message(message(u32(4, 3), u32(6, 7), headers))
    assert read is not None
    assert read.headers == Headers("1.2.3.4", "5.6.7.8", protocol, *ports)


@pytest.mark.parametrize("header", [b"", network(6, 19), b"\x60" + bytes(38), b"\x20" + bytes(50)])
def test_a_header_that_is_cut_is_none(header: bytes) -> None:
    read = read_trace_message(message(u32(4, 3), u32(6, 7), attr(8, header)))
    assert read is not None
    assert read.headers is None


def test_behind_extension_headers_the_protocol_is_unknown() -> None:
    header = b"\x60" + bytes(5) + b"\x2c" + bytes(33)
    read = read_trace_message(message(u32(4, 3), u32(6, 7), attr(8, header), attr(9, bytes(20))))
    assert read is not None
    assert read.headers == Headers("::", "::", 0)


@pytest.mark.parametrize(
    ("code", "word"),
    [(-1, "continue"), (-5, "return"), (2, "stolen"), (0x10003, "queue"), (-9, "-9"), (77, "77")],
)
def test_verdicts_have_nfts_words(code: int, word: str) -> None:
    verdict = nested(5, attr(1, struct.pack(">i", code)))
    read = read_trace_message(message(u32(4, 3), u32(6, 7), verdict))
    assert read is not None
    assert read.verdict == word


def test_without_a_verdict_there_is_no_word_and_a_family_without_name_is_a_number() -> None:
    read = read_trace_message(message(u32(4, 2), u32(6, 7), family=99))
    assert read is not None
    assert (read.kind, read.verdict, read.family) == (TraceKind.RETURN, "", "99")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x02",
        message(u32(6, 7)),
        message(u32(4, 9), u32(6, 7)),
        message(u32(4, 3)),
        NFGENMSG.pack(2, 0, 0) + u32(4, 3) + u32(6, 7),
    ],
)
def test_a_damaged_message_is_none(payload: bytes) -> None:
    assert read_trace_message(payload) is None
