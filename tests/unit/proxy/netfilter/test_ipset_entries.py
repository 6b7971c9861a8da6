"""ipset entries: as the kernel lists them, and as it wants them."""

import socket

import pytest

from proxy.netfilter.ipset import SetEntry
from proxy.netfilter.ipset_entries import layout_of
from proxy.netfilter.wire import attr

V4 = socket.inet_pton(socket.AF_INET, "1.2.3.4")
NET4 = socket.inet_pton(socket.AF_INET, "10.0.0.0")
V6 = socket.inet_pton(socket.AF_INET6, "fd00::1")
OTHER6 = socket.inet_pton(socket.AF_INET6, "fd00::2")

# Listings of kernel 6.18, one entry each.
LISTINGS = [
    (
        "hash:ip,port,net",
        32,
        "3400078" + "00c000180080001000102030" + "40c001480080001000a000000"
        "06000440000500000500150008000000050007008" + "4000000",
        SetEntry(V4, 132, 5, NET4, 8),
    ),
    (
        "hash:ip,port,ip",
        128,
        "44000780"
        + "18000180"
        + "14000200"
        + V6.hex()
        + "18001480"
        + "14000200"
        + OTHER6.hex()
        + "0600044000350000"
        + "0500070011000000",
        SetEntry(V6, 17, 53, OTHER6),
    ),
    ("bitmap:port", 0, "0c0007800600044000500000", SetEntry(port=80)),
    ("hash:ip", 32, "100007800c0001800800010001020304", SetEntry(V4)),
]
ENTRIES = [
    ("hash:ip", 32, SetEntry(V4)),
    ("hash:ip", 128, SetEntry(V6)),
    ("hash:ip,port", 32, SetEntry(V4, 132, 65535)),
    ("hash:ip,port", 128, SetEntry(V6, 6, 1)),
    ("hash:ip,port,ip", 32, SetEntry(V4, 17, 53, V4)),
    ("hash:ip,port,net", 128, SetEntry(V6, 17, 53, OTHER6, 128)),
    ("bitmap:port", 0, SetEntry(port=32767)),
]


@pytest.mark.parametrize(("set_type", "bits", "listing", "entry"), LISTINGS)
def test_listings_of_the_kernel_are_read(set_type, bits, listing, entry):
    data = memoryview(bytes.fromhex(listing) * 3)
    assert layout_of(set_type, bits).decode(data) == [entry] * 3


@pytest.mark.parametrize(("set_type", "bits", "listing", "entry"), LISTINGS)
def test_an_added_entry_is_a_listed_one_with_addresses_marked_as_in_network_order(
    set_type, bits, listing, entry
):
    listed = bytes.fromhex(listing)
    for length, kind in ((8, 1), (20, 2)):
        inner = bytes((length, 0, kind, 0))
        for outer in (b"\x01\x80", b"\x14\x80"):
            listed = listed.replace(outer + inner, outer + inner[:3] + b"\x40")
    assert layout_of(set_type, bits).encode(entry) == listed


@pytest.mark.parametrize(("set_type", "bits", "entry"), ENTRIES)
def test_entries_with_more_attributes_than_usual_are_read(set_type, bits, entry):
    layout = layout_of(set_type, bits)
    plain = layout.encode(entry)
    longer = attr(0x8007, plain[4:] + attr(0x4006, b"\0\0\0\x64") + attr(26, b"why\0"))
    assert layout.decode(memoryview(longer + plain)) == [entry, entry]


@pytest.mark.parametrize(("set_type", "bits", "entry"), ENTRIES)
def test_as_many_bytes_of_something_else_are_not_taken_for_usual_entries(set_type, bits, entry):
    layout = layout_of(set_type, bits)
    plain = layout.encode(entry)
    # Three entries, the first of which is longer by what the second lacks of a fourth.
    longer = attr(0x8007, plain[4:] + attr(26, b"x" * (len(plain) - 5) + b"\0"))
    data = memoryview(longer + plain)
    assert len(data) == 3 * len(plain)
    assert layout.decode(data) == [entry, entry]


def test_an_empty_listing_has_no_entries():
    assert layout_of("hash:ip", 32).decode(memoryview(b"")) == []


@pytest.mark.parametrize(
    ("set_type", "bits", "entry", "words"),
    [
        ("hash:ip", 32, SetEntry(V6), "address of 16 bytes in a set of 4-byte ones"),
        ("hash:ip", 128, SetEntry(V4), "address of 4 bytes"),
        ("hash:ip", 32, SetEntry(), "address of 0 bytes"),
        ("hash:ip,port,ip", 32, SetEntry(V4, 6, 1, V6), "other of 16 bytes"),
    ],
)
def test_an_address_of_the_other_family_is_refused_and_not_cut(set_type, bits, entry, words):
    with pytest.raises(ValueError, match=words):
        layout_of(set_type, bits).encode(entry)


def test_entries_of_other_types_cannot_be_read():
    with pytest.raises(ValueError, match="list:set"):
        layout_of("list:set", 0)
