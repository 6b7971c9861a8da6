"""The bytes of ctnetlink requests and entries."""

import sys

import pytest

from proxy.conntrack.messages import EntryReader, delete_request, dump_request, nfnetlink_header
from proxy.conntrack.stale import Search, place
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import attr, attributes, nested
from tests.support.conntrack_entries import encode_entry, encode_tuple

ORIGINAL = ("10.0.0.2", 40000, "172.30.0.10", 53)
REPLY = ("10.1.0.1", 5353, "10.0.0.2", 40000)
ORIGINAL6 = ("fd00::2", 40000, "fd00:172::a", 53)
REPLY6 = ("fd00:10::1", 5353, "fd00::2", 40000)

# Recorded from kernel 6.18 (`conntrack -I`-made entry, dump of IPPROTO_UDP).
RECORDED = bytes.fromhex(
    "02000000340001801400018008000100 0a00000208000200c0a800011c000280"
    "0500010011000000060002000007000006000300756500003400028014000180"
    "080001000a010009080002000a0000021c000280050001001100000006000200"
    "14e90000060003000007000008000300000000080800080000000000"
    "08000c00bfd850e308000b000000000108000700000002571c001880"
    "080001000000000008000200000000000800030000000000"
)


def test_a_recorded_entry_is_read():
    ends = EntryReader(IPFamily.IPV4).ends(memoryview(RECORDED))
    assert ends == (place("192.168.0.1", 30053), place("10.1.0.9", 5353))


@pytest.mark.parametrize(
    ("family", "original", "reply"),
    [(IPFamily.IPV4, ORIGINAL, REPLY), (IPFamily.IPV6, ORIGINAL6, REPLY6)],
    ids=["IPv4", "IPv6"],
)
def test_both_ways_of_reading_an_entry_agree(family, original, reply):
    """An entry in a zone has an attribute more, which only the walk over attributes knows."""
    usual = encode_entry("UDP", original, reply)
    wanted = (place(original[2], original[3]), place(reply[0], reply[1]))
    assert EntryReader(family).ends(memoryview(usual)) == wanted
    zone = attr(3, b"\0\5")
    in_zone = nfnetlink_header(family) + b"".join(
        nested(kind, bytes(attributes(encode_tuple(kind, "UDP", ends))[kind]), zone)
        for kind, ends in ((1, original), (2, reply))
    )
    assert EntryReader(family).ends(memoryview(in_zone)) == wanted


@pytest.mark.parametrize("protocol", ["TCP", "SCTP"])
def test_other_protocols_are_not_read(protocol):
    entry = encode_entry(protocol, ORIGINAL, REPLY)
    assert EntryReader(IPFamily.IPV4).ends(memoryview(entry)) is None


def test_entries_that_lack_something_are_not_read():
    reader = EntryReader(IPFamily.IPV4)
    whole = encode_entry("UDP", ORIGINAL, REPLY)
    for length in range(0, 108, 4):
        assert reader.ends(memoryview(whole)[:length]) is None
    header = nfnetlink_header(IPFamily.IPV4)
    no_ports = nested(1, nested(1, attr(1, b"abcd"), attr(2, b"abcd")), nested(2, attr(1, b"\x11")))
    no_addresses = nested(1, nested(2, attr(1, b"\x11"), attr(3, b"\0\1")), nested(1))
    for damaged in (no_ports, no_addresses):
        entry = header + damaged + encode_tuple(2, "UDP", REPLY)
        assert reader.ends(memoryview(entry)) is None


def test_a_deletion_names_reply_tuple_identity_and_zone():
    entry = encode_entry("UDP", ORIGINAL, REPLY, identity=77, zone=5)
    request = delete_request(IPFamily.IPV4, memoryview(entry))
    assert request is not None
    fields = attributes(memoryview(request)[4:])
    assert set(fields) == {2, 12, 18}
    assert fields[2] == attributes(encode_tuple(2, "UDP", REPLY))[2]
    assert fields[12] == b"\0\0\0\x4d"
    assert fields[18] == b"\0\5"


def test_no_deletion_without_tuple_or_identity():
    """A deletion without a tuple would empty the whole table."""
    header = nfnetlink_header(IPFamily.IPV4)
    nameless = encode_entry("UDP", ORIGINAL, REPLY)
    for entry in (b"", header, header + attr(12, b"abcd"), nameless):
        assert delete_request(IPFamily.IPV4, memoryview(entry)) is None


def filter_flags(payload: bytes) -> tuple[int, int]:
    flags = attributes(attributes(memoryview(payload)[4:])[25])
    return int.from_bytes(flags[1], sys.byteorder), int.from_bytes(flags[2], sys.byteorder)


@pytest.mark.parametrize(
    ("search", "flags"),
    [
        (Search(), (0b001000, 0)),
        (Search(destination=b"abcd"), (0b001010, 0)),
        (Search(port=b"\0\x35"), (0b101000, 0)),
        (Search(destination=b"abcd", port=b"\0\x35"), (0b101010, 0)),
        (Search(reply_source=b"abcd\0\x35"), (0b001000, 0b011001)),
    ],
    ids=["everything", "address", "port", "address-and-port", "endpoint"],
)
def test_a_search_filters_by_what_it_names_and_always_by_protocol(search, flags):
    payload = dump_request(IPFamily.IPV4, search)
    assert filter_flags(payload) == flags
    assert payload[0] == 2
    assert dump_request(IPFamily.IPV6, Search())[0] == 10
