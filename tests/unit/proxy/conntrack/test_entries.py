"""Entries of the connection table, as recorded from Linux 6.18."""

from __future__ import annotations

import pytest

from proxy.conntrack.entries import Direction, get_request, read_entry
from proxy.netfilter.wire import NFGENMSG, attr, attributes, nested

_TCP_V4 = bytes.fromhex(
    "02000000340001801400018008000100c000020b080002000a60000a1c000280050001000600000006000200c47b0000"
    "06000300005000003400028014000180080001000af4010b080002000af401011c00028005000100060000000600"
    "02001f900000060003004f01000008000300000001be080008000000000008000c00dda51d4108000b00000000020800"
    "070000015180300004802c0001800500010003000000050002000a000000050003000a00000006000400230000000600"
    "050023000000"
)
_SENT = Direction("192.0.2.11", 50299, "10.96.0.10", 80)


def test_an_entry_tells_both_directions_and_what_was_rewritten() -> None:
    entry = read_entry(_TCP_V4)
    assert entry is not None
    assert entry.original == _SENT
    assert entry.reply == Direction("10.244.1.11", 8080, "10.244.1.1", 20225)
    assert entry.tcp_state == "ESTABLISHED"
    assert entry.replied
    assert entry.assured
    assert entry.source_rewritten
    assert entry.destination_rewritten
    assert entry.mark == 0


def test_a_request_names_the_connection_as_the_kernel_lists_it() -> None:
    listed = attributes(_TCP_V4[NFGENMSG.size :])
    request = attributes(get_request(6, _SENT)[NFGENMSG.size :])
    for kind in (1, 2):  # addresses, protocol
        assert attributes(attributes(request[1])[kind]) == attributes(attributes(listed[1])[kind])


def test_ipv6_addresses_come_back_as_asked() -> None:
    asked = Direction("fd02::9", 1, "fd03::10", 2)
    request = get_request(17, asked)
    assert request[0] == 10
    body = bytes(attributes(request[NFGENMSG.size :])[1])
    both = NFGENMSG.pack(10, 0, 0) + nested(1, body) + nested(2, body)
    entry = read_entry(both)
    assert entry is not None
    assert (entry.original, entry.tcp_state, entry.replied) == (asked, "", False)


@pytest.mark.parametrize("pair", [("10.0.0.1", "fd00::1"), ("node", "10.0.0.1")])
def test_addresses_of_two_families_or_none_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="no pair of addresses"):
        get_request(6, Direction(pair[0], 1, pair[1], 2))


def test_an_unknown_tcp_state_is_its_number() -> None:
    body = bytes(attributes(get_request(6, _SENT)[NFGENMSG.size :])[1])
    state = nested(4, nested(1, attr(1, b"\x63")))
    entry = read_entry(NFGENMSG.pack(2, 0, 0) + nested(1, body) + nested(2, body) + state)
    assert entry is not None
    assert entry.tcp_state == "99"


@pytest.mark.parametrize(
    "body",
    [b"", nested(1, b""), nested(1, nested(1, attr(9, b"")), nested(2, b"")) + nested(2, b"")],
)
def test_an_entry_without_a_direction_is_none(body: bytes) -> None:
    assert read_entry(NFGENMSG.pack(2, 0, 0) + body) is None
