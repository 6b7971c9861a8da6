import struct

import pytest

from proxy.backends.nftables import layout
from proxy.model.addresses import IPFamily
from proxy.netfilter.fields import L4PROTO, TH_DPORT, daddr, saddr
from proxy.netfilter.objects import (
    NFT_SET_CONCAT,
    NFT_SET_EVAL,
    NFT_SET_INTERVAL,
    NFT_SET_MAP,
    NFT_SET_TIMEOUT,
    NamedSet,
    rule,
)
from proxy.netfilter.statements import DROP, protocol_is, verdict
from proxy.netfilter.wire import attributes, iterate_attributes
from tests.support.nft_messages import text_of

DADDR = daddr(IPFamily.IPV4)
VIP = (DADDR, L4PROTO, TH_DPORT)
SOURCES = NamedSet("sources", (*VIP, saddr(IPFamily.IPV4)), interval=True)


def number(value):
    return struct.unpack(">I", value)[0]


def test_a_rule_is_its_statements_in_order_and_a_comment():
    made = rule(protocol_is("tcp"), verdict(DROP), comment="why")
    assert made.text == 'meta l4proto tcp drop comment "why"'
    assert made.expressions == protocol_is("tcp").expressions + verdict(DROP).expressions
    assert rule(verdict(DROP)).text == "drop"


@pytest.mark.parametrize(
    ("item", "flags"),
    [
        (NamedSet("s", (DADDR,)), 0),
        (NamedSet("s", VIP, verdicts=True), NFT_SET_MAP),
        (NamedSet("s", VIP, (DADDR,)), NFT_SET_MAP),
        (SOURCES, NFT_SET_INTERVAL | NFT_SET_CONCAT),
        (
            NamedSet("s", VIP, (DADDR,), dynamic=True, size=9),
            NFT_SET_MAP | NFT_SET_TIMEOUT | NFT_SET_EVAL,
        ),
    ],
)
def test_flags_follow_from_what_a_set_is(item, flags):
    assert item.flags == flags
    assert number(attributes(item.body("t", 1))[3]) == flags


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (NamedSet("s", (DADDR,), comment="c"), 'type ipv4_addr; comment "c"'),
        (
            NamedSet("s", VIP, verdicts=True),
            "type ipv4_addr . inet_proto . inet_service : verdict",
        ),
        (
            NamedSet("s", VIP, (DADDR, TH_DPORT), by_type=False),
            "typeof ip daddr . meta l4proto . th dport : ip daddr . th dport",
        ),
        (
            SOURCES,
            "type ipv4_addr . inet_proto . inet_service . ipv4_addr; flags interval",
        ),
        (
            NamedSet("s", (DADDR,), (DADDR,), dynamic=True, size=9),
            "type ipv4_addr : ipv4_addr; flags dynamic,timeout; size 9",
        ),
    ],
)
def test_declarations_read_as_nft_writes_them(item, text):
    assert item.declaration() == text


def test_a_range_tells_the_kernel_the_length_of_each_field():
    description = attributes(attributes(SOURCES.body("t", 1))[9])
    lengths = [number(attributes(raw)[1]) for _, raw in iterate_attributes(description[2])]
    assert lengths == [4, 4, 4, 4]


def test_a_size_limits_the_kernel_too():
    item = NamedSet("s", VIP, (DADDR,), dynamic=True, size=65535)
    assert number(attributes(attributes(item.body("t", 1))[9])[1]) == 65535


def test_a_request_carries_names_lengths_and_identifier():
    found = attributes(NamedSet("s", VIP, (DADDR, TH_DPORT)).body("t", 42))
    assert (text_of(found[1]), text_of(found[2])) == ("t", "s")
    assert (number(found[5]), number(found[7]), number(found[10])) == (12, 8, 42)


def test_a_verdict_map_has_the_kernels_verdict_type():
    found = attributes(NamedSet("s", VIP, verdicts=True).body("t", 1))
    assert (number(found[6]), number(found[7])) == (0xFFFFFF00, 0)


@pytest.mark.parametrize("family", IPFamily)
def test_comments_and_descriptions_fit_their_length_byte(family):
    for item in layout.sets(family).values():
        userdata = bytes(attributes(item.body("t", 1))[13])
        assert len(userdata) <= 256  # NFT_USERDATA_MAXLEN
        assert (item.comment.encode() in userdata) or not item.comment
