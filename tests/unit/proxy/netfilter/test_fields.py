import pytest

from proxy.model.addresses import IPFamily, pack_address
from proxy.netfilter import fields
from proxy.netfilter.fields import (
    L4PROTO,
    TH_DPORT,
    comment_userdata,
    daddr,
    key_length,
    key_text,
    key_type,
    key_typeof,
    load_key,
    random_index,
    render_key,
    saddr,
)
from proxy.netfilter.wire import attributes

VIP = (daddr(IPFamily.IPV4), L4PROTO, TH_DPORT)
VIP6 = (daddr(IPFamily.IPV6), L4PROTO, TH_DPORT)


def test_a_key_reads_as_nft_writes_it():
    assert key_text(VIP) == "ip daddr . meta l4proto . th dport"
    assert key_text((*VIP6, random_index(3))) == (
        "ip6 daddr . meta l4proto . th dport . numgen random mod 3"
    )


def test_each_part_of_a_concatenation_takes_whole_registers_and_a_single_field_its_own_length():
    assert key_length(VIP) == 12
    assert key_length(VIP6) == 24
    assert key_length((TH_DPORT,)) == 2
    assert key_length((saddr(IPFamily.IPV6),)) == 16


def test_a_keys_type_packs_six_bits_per_field():
    assert key_type((TH_DPORT,)) == 13
    assert key_type(VIP) == (7 << 6 | 12) << 6 | 13


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (VIP, pack_address("172.30.0.1") + b"\x06\0\0\0\0\x50\0\0", "172.30.0.1 . tcp . 80"),
        (VIP6, pack_address("fd00::1") + b"\x84\0\0\0\x1f\x90\0\0", "fd00::1 . sctp . 8080"),
        ((L4PROTO,), b"\x11", "udp"),
        ((L4PROTO,), b"\x3a", "58"),
        ((random_index(2),), b"\1\1\0\0", "257"),
    ],
)
def test_stored_values_read_as_nft_writes_them(key, value, text):
    assert render_key(key, value) == text


def test_fields_are_loaded_side_by_side():
    assert load_key(VIP, 8) == (daddr(IPFamily.IPV4).load(8) + L4PROTO.load(9) + TH_DPORT.load(10))
    assert load_key((daddr(IPFamily.IPV6), TH_DPORT), 8).endswith(TH_DPORT.load(12))


def test_a_key_that_exceeds_the_registers_is_refused_with_its_words():
    with pytest.raises(ValueError, match=r"ip6 saddr . ip6 daddr .* sixteen registers"):
        load_key((saddr(IPFamily.IPV6), daddr(IPFamily.IPV6)) * 3)
    load_key((saddr(IPFamily.IPV6), daddr(IPFamily.IPV6)) * 2)


def test_a_load_names_its_expression_and_its_register():
    loaded = attributes(attributes(TH_DPORT.load(11))[1])
    assert bytes(loaded[1]) == b"payload\0"
    assert bytes(attributes(loaded[2])[1]) == b"\0\0\0\x0b"


def test_the_users_description_of_a_concatenation_holds_one_per_field():
    assert key_typeof((TH_DPORT,)) == TH_DPORT.typeof
    joined = key_typeof(VIP)
    assert all(field.typeof in joined for field in VIP)


def test_comments_are_cut_to_what_nft_can_store():
    assert comment_userdata("ns/web") == b"\0\x07ns/web\0"
    assert len(comment_userdata("x" * 500)) == 2 + 128


def test_only_the_two_directions_have_an_address_type():
    assert fields.address_type("saddr").text == "fib saddr type"
    with pytest.raises(KeyError):
        fields.address_type("sideways")
