"""ipset messages: requests as ipset(8) 7.17 sends them, and what the kernel answers."""

import errno

import pytest

from proxy.netfilter.ipset import SetHeader
from proxy.netfilter.ipset_messages import (
    create_request,
    entries_request,
    entry_request,
    headers_request,
    listed_entries,
    module_of,
    name_request,
    protocol_request,
    read_header,
    read_protocol,
    read_revision,
    reason,
    type_request,
)
from proxy.netfilter.wire import NLA_F_NESTED, attr, string

NFGEN = b"\x02\0\0\0"
PROTOCOL = attr(1, b"\7")
IP_PORT = SetHeader("a2", "hash:ip,port", 32)
PORTS = SetHeader("ports", "bitmap:port", 0)


def be32(kind: int, value: int) -> bytes:
    return attr(kind | 0x4000, value.to_bytes(4, "big"))


def test_the_protocol_is_asked_for_as_ipset_does():
    assert protocol_request() == NFGEN + PROTOCOL


@pytest.mark.parametrize(
    ("answer", "agreed"),
    [
        (attr(1, b"\7") + attr(10, b"\6"), 7),
        (attr(1, b"\x09") + attr(10, b"\7"), 7),
        (attr(1, b"\6"), 6),
    ],
)
def test_the_newest_common_protocol_is_spoken(answer, agreed):
    assert read_protocol(memoryview(NFGEN + answer)) == agreed


@pytest.mark.parametrize("answer", [attr(1, b"\x09") + attr(10, b"\x08"), attr(1, b"\5")])
def test_no_common_protocol_is_an_error_that_tells_the_versions(answer):
    with pytest.raises(ValueError, match=r"versions [58] to [59]"):
        read_protocol(memoryview(NFGEN + answer))


@pytest.mark.parametrize(("bits", "family"), [(32, b"\2"), (128, b"\x0a"), (0, b"\0")])
def test_the_type_is_asked_for_in_the_sets_family(bits, family):
    header = SetHeader("a2", "hash:ip,port", bits)
    expected = NFGEN + PROTOCOL + attr(3, b"hash:ip,port\0") + attr(5, family)
    assert type_request(7, header) == expected


@pytest.mark.parametrize(("kernel", "used"), [(5, 5), (7, 7), (12, 7)])
def test_the_newest_known_revision_is_used(kernel, used):
    answer = memoryview(NFGEN + PROTOCOL + attr(4, bytes((kernel,))) + attr(10, b"\0"))
    assert read_revision(answer, "hash:ip,port") == used


def test_a_hash_set_is_created_as_ipset_does():
    data = be32(18, 1024) + be32(19, 65536)
    assert create_request(7, IP_PORT, 7, 65536) == (
        NFGEN
        + PROTOCOL
        + attr(2, b"a2\0")
        + attr(3, b"hash:ip,port\0")
        + attr(4, b"\7")
        + attr(5, b"\2")
        + attr(7 | NLA_F_NESTED, data)
    )


def test_a_bitmap_takes_every_port_and_has_no_family():
    data = attr(4 | 0x4000, b"\0\0") + attr(5 | 0x4000, b"\xff\xff")
    assert create_request(7, PORTS, 3, 65536) == (
        NFGEN
        + PROTOCOL
        + attr(2, b"ports\0")
        + attr(3, b"bitmap:port\0")
        + attr(4, b"\3")
        + attr(5, b"\0")
        + attr(7 | NLA_F_NESTED, data)
    )


def test_several_entries_go_in_one_request_with_a_line_number():
    one, two = attr(7 | NLA_F_NESTED, b"1234"), attr(7 | NLA_F_NESTED, b"5678")
    assert entries_request(7, "a2", [one, two]) == (
        name_request(7, "a2") + attr(8 | NLA_F_NESTED, one + two) + attr(9, b"\0\0\0\1")
    )
    assert entry_request(7, "a2", one) == NFGEN + PROTOCOL + attr(2, b"a2\0") + one


def test_headers_are_asked_for_without_entries():
    assert headers_request(7) == NFGEN + PROTOCOL + be32(6, 4)


@pytest.mark.parametrize("header", [IP_PORT, PORTS, SetHeader("six", "hash:ip", 128)])
def test_a_set_is_read_as_it_was_created(header):
    assert read_header(memoryview(create_request(7, header, 3, 65536))) == header


def test_the_continuation_of_a_listing_has_entries_and_no_header():
    entries = attr(7 | NLA_F_NESTED, b"1234")
    answer = memoryview(NFGEN + PROTOCOL + string(2, "a2") + attr(8 | NLA_F_NESTED, entries))
    assert read_header(answer) is None
    assert bytes(listed_entries(answer)) == entries
    assert bytes(listed_entries(memoryview(NFGEN + PROTOCOL))) == b""


@pytest.mark.parametrize(
    ("code", "set_type", "number", "words"),
    [
        (4352, "hash:ip,port", errno.ENOSPC, "full"),
        (4352, "bitmap:port", errno.EINVAL, "outside its range"),
        (4100, "hash:ip", errno.EBUSY, "in use"),
        (4108, "", errno.EBUSY, "in use"),
        (4104, "hash:ip,port,net", errno.EINVAL, "prefix"),
        (4098, "hash:ip,port,net", errno.EINVAL, "ip_set_hash_ipportnet"),
        (5000, "hash:ip", errno.EINVAL, "ipset error 5000"),
        (errno.ENOENT, "hash:ip", errno.ENOENT, "no such set"),
        (errno.EPERM, "hash:ip", errno.EPERM, ""),
    ],
)
def test_a_refusal_becomes_an_error_number_and_words(code, set_type, number, words):
    found, sentence = reason(code, set_type)
    assert found == number
    assert words in sentence
    assert bool(words) == bool(sentence)


def test_the_modules_are_named_as_modprobe_knows_them():
    assert module_of("hash:ip,port,ip") == "ip_set_hash_ipportip"
    assert module_of("bitmap:port") == "ip_set_bitmap_port"
