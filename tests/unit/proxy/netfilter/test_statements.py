import struct

import pytest

from proxy.model.addresses import IPFamily
from proxy.netfilter import statements
from proxy.netfilter.fields import L4PROTO, TH_DPORT, daddr, saddr
from proxy.netfilter.statements import (
    DROP,
    RETURN,
    goto,
    in_network,
    in_set,
    input_interface,
    jump,
    protocol_is,
    reject,
    remember,
    set_mark_bit,
    toggle_mark_bit,
    transport_is,
    verdict,
    verdict_map,
)
from proxy.netfilter.wire import attributes, iterate_attributes
from tests.support.nft_messages import text_of
from tests.support.plans import network

V4_SADDR = saddr(IPFamily.IPV4)


def expressions(statement):
    """Names and attributes of a statement's kernel expressions."""
    found = []
    for _, raw in iterate_attributes(statement.expressions):
        named = attributes(raw)
        found.append((text_of(named[1]), attributes(named[2])))
    return found


def names(statement):
    return [name for name, _ in expressions(statement)]


@pytest.mark.parametrize(
    ("value", "text", "code"),
    [
        (DROP, "drop", 0),
        (RETURN, "return", -5),
        (goto("lb-3"), "goto lb-3", -4),
        (jump("services"), "jump services", -3),
    ],
)
def test_verdicts_say_the_same_in_text_and_to_the_kernel(value, text, code):
    assert value.text == text
    data = attributes(attributes(attributes(value.data(2))[2])[2])
    assert struct.unpack(">i", data[1])[0] == code
    assert text_of(data.get(2)) == value.chain
    assert verdict(value).text == text


@pytest.mark.parametrize(
    ("cidr", "negate", "text"),
    [
        ("10.0.0.0/8", False, "ip saddr 10.0.0.0/8"),
        ("10.0.0.0/8", True, "ip saddr != 10.0.0.0/8"),
        ("10.1.2.3/32", False, "ip saddr 10.1.2.3"),
    ],
)
def test_a_network_match_masks_and_compares(cidr, negate, text):
    made = in_network(V4_SADDR, network(cidr), negate=negate)
    assert made.text == text
    (_, _), (_, mask), (_, compare) = expressions(made)
    assert bytes(attributes(mask[4])[1]) == network(cidr).netmask.packed
    assert bytes(attributes(compare[3])[1]) == network(cidr).network_address.packed
    assert struct.unpack(">I", compare[2])[0] == int(negate)


def test_an_interface_is_compared_whole_and_a_prefix_is_not():
    (_, (_, whole)) = expressions(input_interface("cbr0"))
    (_, (_, prefix)) = expressions(input_interface("veth", prefix=True))
    assert bytes(attributes(whole[3])[1]) == b"cbr0" + b"\0" * 12
    assert bytes(attributes(prefix[3])[1]) == b"veth"
    assert input_interface("veth", prefix=True, negate=True).text == 'iifname != "veth*"'


def test_the_mark_bit_is_set_and_toggled_without_touching_others():
    (_, (_, set_bit), _) = expressions(set_mark_bit(0x4000))
    (_, (_, toggle), _) = expressions(toggle_mark_bit(0x4000))
    words = struct.Struct("=I")
    assert words.unpack(bytes(attributes(set_bit[4])[1]))[0] == 0xFFFFBFFF
    assert words.unpack(bytes(attributes(set_bit[5])[1]))[0] == 0x4000
    assert words.unpack(bytes(attributes(toggle[4])[1]))[0] == 0xFFFFFFFF
    assert words.unpack(bytes(attributes(toggle[5])[1]))[0] == 0x4000


def test_lookups_name_their_set():
    for made in (in_set((V4_SADDR,), "hairpin"), verdict_map((V4_SADDR,), "hairpin")):
        assert made.text.endswith("@hairpin")
        name, found = expressions(made)[-1]
        assert (name, text_of(found[1])) == ("lookup", "hairpin")


def test_each_family_is_refused_in_its_own_words():
    for family, code in ((IPFamily.IPV4, 3), (IPFamily.IPV6, 4)):
        ((name, found),) = expressions(reject(family))
        assert (name, bytes(found[2])) == ("reject", bytes((code,)))


def test_the_address_and_port_of_a_translation_stand_behind_each_other():
    for family, port_register in ((IPFamily.IPV4, 9), (IPFamily.IPV6, 12)):
        made = statements.dnat_by_map(family, (daddr(family), L4PROTO, TH_DPORT), "endpoints")
        assert names(made)[-2:] == ["lookup", "nat"]
        nat = expressions(made)[-1][1]
        assert struct.unpack(">I", nat[3])[0] == 8
        assert struct.unpack(">I", nat[5])[0] == port_register


def test_a_client_is_remembered_with_a_time_in_milliseconds():
    made = remember((V4_SADDR,), "affinity", (daddr(IPFamily.IPV4),), 90)
    assert made.text == "update @affinity { ip saddr timeout 90s : ip daddr }"
    _, found = expressions(made)[-1]
    assert struct.unpack(">Q", found[6])[0] == 90_000
    assert [struct.unpack(">I", found[n])[0] for n in (4, 5)] == [8, 9]


def test_what_only_nfts_grammar_needs_costs_the_kernel_nothing():
    made = transport_is(("tcp", "udp", "sctp"))
    assert (made.text, made.expressions) == ("meta l4proto { tcp, udp, sctp }", b"")


def test_a_protocol_match_compares_one_byte():
    _, (_, compare) = expressions(protocol_is("sctp"))
    assert bytes(attributes(compare[3])[1]) == b"\x84"
