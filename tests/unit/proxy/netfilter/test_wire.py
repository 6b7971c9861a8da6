import struct

from proxy.netfilter import wire
from proxy.netfilter.wire import Msg, attr, attributes, iterate_attributes, nested, string, u32


def test_an_attribute_is_padded_but_its_length_is_not():
    assert attr(7, b"abcde") == struct.pack("=HH", 9, 7) + b"abcde\0\0\0"
    assert attr(7, b"abcd") == struct.pack("=HH", 8, 7) + b"abcd"


def test_numbers_are_big_endian_and_wrap_to_32_bits():
    assert u32(1, 0x01020304)[4:] == b"\1\2\3\4"
    assert u32(1, -3)[4:] == b"\xff\xff\xff\xfd"


def test_nested_attributes_are_flagged_and_read_back():
    made = nested(4, u32(1, 5), string(2, "lb-3"))
    assert struct.unpack_from("=H", made, 2)[0] == 4 | wire.NLA_F_NESTED
    inner = attributes(attributes(made)[4])
    assert bytes(inner[1]) == b"\0\0\0\5"
    assert bytes(inner[2]) == b"lb-3\0"


def test_of_repeated_attributes_all_are_iterated_and_the_last_one_stays():
    data = u32(1, 1) + u32(1, 2)
    assert [bytes(value)[-1] for _, value in iterate_attributes(data)] == [1, 2]
    assert bytes(attributes(data)[1])[-1] == 2


def test_a_damaged_tail_ends_the_iteration():
    good = u32(1, 1)
    assert len(attributes(good + struct.pack("=HH", 400, 2))) == 1
    assert len(attributes(good + struct.pack("=HH", 2, 2) + b"\0\0\0\0")) == 1
    assert len(attributes(good + b"\0")) == 1


def test_a_message_knows_its_length_type_and_family():
    made = wire.message(Msg.NEWRULE, wire.NFPROTO_IPV6, wire.NLM_F_ACK, 77, string(1, "t"))
    length, kind, flags, sequence, port_id = wire.HEADER.unpack_from(made)
    assert length == len(made)
    assert kind == 10 << 8 | 6
    assert flags == wire.NLM_F_REQUEST | wire.NLM_F_ACK
    assert (sequence, port_id) == (77, 0)
    assert made[wire.HEADER.size] == 10


def test_a_batch_marker_names_the_subsystem():
    made = wire.batch_marker(wire.NFNL_MSG_BATCH_BEGIN, 5)
    assert len(made) == wire.MESSAGE_HEADER_LENGTH == 20
    assert made[-2:] == b"\0\x0a"


def test_concatenations_pad_each_part():
    assert wire.concatenate([b"\6", b"\0\x50", b"abcd"]) == b"\6\0\0\0\0\x50\0\0abcd"
