"""Entries from netlink and from text: both readers of each must say the same."""

from __future__ import annotations

import gzip
import struct

import pytest

from diagnostics.conntrack.dumps import is_table_alone
from diagnostics.conntrack.model import ASSURED, SEEN_REPLY, UNKNOWN_S
from diagnostics.conntrack.text import TextTable, entry_of, read_detail, read_line
from diagnostics.conntrack.wire import entry_reader
from diagnostics.conntrack.wire import read_detail as read_payload
from proxy.conntrack.stale import place
from proxy.model.addresses import pack_address
from proxy.netfilter.wire import attr, nested, u32
from tests.support import conntrack_dump as dump
from tests.support.conntrack_entries import encode_tuple

# A TCP entry with counters and a timestamp as Linux 6.18 listed it.
RECORDED = bytes.fromhex(
    "02000000"
    "34000180" "14000180080001007f000001080002007f000001"
    "1c000280050001000600000006000200b6e4000006000300270f0000"
    "34000280" "14000180080001007f000001080002007f000001"
    "1c000280050001000600000006000200270f000006000300b6e40000"
    "080003000000018e" "0800080000000000" "08000c00ee0907ca" "08000b0000000001" "080007000006977f"
    "30000480" "2c0001800500010003000000050002000a000000050003000a000000"
    "06000400230000000600050023000000"
    "1c000980" "0c00010000000000000000020c0002000000000000000070"
    "1c000a80" "0c00010000000000000000010c000200000000000000003c"
    "10001480" "0c00010018ea9442e63dc2a2"
)  # fmt: skip


def listed(*parts: bytes, family: int = 2) -> bytes:
    return struct.pack(">BBH", family, 0, 0) + b"".join(parts)


def usual(status: int = SEEN_REPLY | ASSURED, *others: bytes, protocol: str = "UDP") -> bytes:
    ends = ("10.244.0.9", 4001, dump.DNS, 53)
    reply = ("10.244.0.2", 5353, "10.244.0.9", 4001)
    return listed(
        encode_tuple(1, protocol, ends),
        encode_tuple(2, protocol, reply),
        u32(3, status),
        u32(8, 0),
        u32(12, 77),
        u32(11, 1),
        u32(7, 25),
        *others,
    )


def test_a_recorded_tcp_entry_is_counted_and_read_in_full() -> None:
    entry = entry_reader()(memoryview(RECORDED))
    assert entry is not None
    assert (entry.protocol, entry.client) == (6, pack_address("127.0.0.1"))
    assert (entry.called, entry.target) == (place("127.0.0.1", 9999),) * 2
    assert (entry.state, entry.left_s) == (3, 431999)
    assert entry.status & (SEEN_REPLY | ASSURED) == SEEN_REPLY | ASSURED
    start_s = 0x18EA9442E63DC2A2 / 1e9
    detail = read_payload(RECORDED, now=start_s + 4)
    assert detail is not None
    assert detail.flow.state == "ESTABLISHED"
    assert (detail.bytes, detail.flow.original.packets) == (0x70 + 0x3C, 2)
    assert detail.age_s == pytest.approx(4, abs=0.01)
    assert detail.rate == pytest.approx((0x70 + 0x3C) / 4, rel=0.01)
    assert detail.flow.identity == 0xEE0907CA


def test_an_entry_in_a_zone_is_walked_and_says_the_same() -> None:
    plain = entry_reader()(memoryview(usual()))
    zoned = usual()
    zoned = zoned[:108] + attr(18, struct.pack(">H", 5)) + zoned[108:]
    walked = entry_reader()(memoryview(zoned))
    assert plain is not None
    assert walked is not None
    assert plain[:-1] == walked[:-1]
    detail = read_payload(zoned)
    assert detail is not None
    assert detail.flow.zone == 5


def test_ipv6_has_its_own_usual_layout() -> None:
    ends, reply = ("fd00::2", 7, "fd00::a", 53), ("fd01::2", 5353, "fd00::2", 7)
    payload = listed(
        encode_tuple(1, "UDP", ends),
        encode_tuple(2, "UDP", reply),
        u32(3, 0),
        u32(12, 1),
        u32(11, 1),
        u32(7, 30),
        family=10,
    )
    entry = entry_reader()(memoryview(payload))
    assert entry is not None
    assert (entry.client, entry.called) == (pack_address("fd00::2"), place("fd00::a", 53))
    assert (entry.target, entry.status, entry.left_s) == (place("fd01::2", 5353), 0, 30)


def test_an_offloaded_entry_tells_no_time() -> None:
    payload = usual()
    entry = entry_reader()(memoryview(payload[:-8]))
    assert entry is not None
    assert entry.left_s == UNKNOWN_S


@pytest.mark.parametrize("length", range(0, len(RECORDED), 7))
def test_a_truncated_payload_is_no_entry_or_one_without_its_end(length: int) -> None:
    data = RECORDED[: max(4, length)]
    entry = entry_reader()(memoryview(data))
    detail = read_payload(data)
    assert (entry is None) == (detail is None)


@pytest.mark.parametrize("line", dump.ALL)
def test_the_fast_reader_of_lines_says_what_the_thorough_one_says(line: str) -> None:
    detail = read_detail(line)
    assert detail is not None
    fast = read_line(line.encode() + b"\n")
    assert fast is not None
    assert fast[:-1] == entry_of(detail.flow, b"")[:-1]


def test_ages_and_rates_are_those_of_the_line() -> None:
    detail = read_detail(dump.GONE_ENDPOINT)
    assert detail is not None
    assert (detail.bytes, detail.age_s, detail.rate) == (500, 50, 10)
    unknown = read_detail(dump.UNTRANSLATED)
    assert unknown is not None
    assert (unknown.bytes, unknown.rate) == (None, None)


@pytest.mark.parametrize(
    "line",
    [
        "udp 17 25 src=10.0.0.999 dst=1.1.1.1 sport=1 dport=2 src=1.1.1.1 dst=2.2.2.2 sport=2 "
        "dport=1 mark=0",
        "udp 17 25 src=1.1.1.1 dst=2.2.2.2 sport=70000 dport=2 src=2.2.2.2 dst=1.1.1.1 sport=2 "
        "dport=1 mark=0",
        "what is this",
        "\x00\xff" * 40,
    ],
)
def test_a_line_that_is_no_entry_is_told_with_its_number(line: str) -> None:
    data = f"{dump.FINE_UDP}\n{line}\n".encode()
    table = TextTable([lambda: iter(data.splitlines(keepends=True))])
    assert len(list(table.entries())) == 1
    (problem,) = table.problems
    assert problem.line == 2


def test_a_packed_dump_is_recognised_as_a_table_and_a_list_of_services_is_not(tmp_path) -> None:
    packed = tmp_path / "table.gz"
    packed.write_bytes(gzip.compress("\n".join(dump.ALL).encode()))
    assert is_table_alone(packed)
    objects = dump.write_objects(tmp_path / "objects")
    assert not is_table_alone(objects / "services.json")
    assert not is_table_alone(objects)


def test_nested_protocol_states_of_sctp_are_named() -> None:
    state = nested(4, nested(3, attr(1, b"\4")))
    detail = read_payload(usual(SEEN_REPLY, state, protocol="SCTP"))
    assert detail is not None
    assert detail.flow.state == "ESTABLISHED"
