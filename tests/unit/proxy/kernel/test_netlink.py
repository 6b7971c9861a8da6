"""Netlink framing, acknowledgements, dumps and errors; reading links needs no privilege."""

import errno
import struct

import pytest

from proxy.kernel.netlink import (
    HEADER_SIZE,
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    RECEIVE_SIZE,
    DumpInterrupted,
    Message,
    NetlinkError,
    NetlinkSocket,
    encode_message,
    split_messages,
)
from proxy.netfilter.wire import HEADER, attr, string

RTM_NEWLINK, RTM_GETLINK = 16, 18
ANY_LINK = struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0)
NO_SUCH_LINK = struct.pack("=BBHiII", 0, 0, 0, 0x7FFFFFF0, 0, 0)


def error_payload(code: int, request: bytes = b"", details: bytes = b"") -> bytes:
    """Return the payload of an NLMSG_ERROR about a request of 16 bytes plus *request*."""
    header = HEADER.pack(HEADER_SIZE + len(request), 18, 5, 1, 0)
    return struct.pack("=i", -code) + header + request + details


class ScriptedSocket(NetlinkSocket):
    """Answers the first request with prepared (type, flags, payload) messages, one per datagram."""

    def __init__(self, *answers: tuple[int, int, bytes]) -> None:
        super().__init__(NETLINK_ROUTE)
        self.sent: list[bytes] = []
        self._answers = [
            encode_message(kind, flags, 1 + index if kind == NLMSG_ERROR else 1, payload)
            for index, (kind, flags, payload) in enumerate(answers)
        ]

    def send(self, data):
        self.sent.append(bytes(data))

    def receive(self):
        return self._answers.pop(0)


def test_messages_are_split_as_they_were_joined():
    datagram = encode_message(18, 1, 7, b"abcde") + encode_message(19, 2, 8, b"")
    first, second = split_messages(datagram)
    assert (first.type, first.flags, first.sequence, bytes(first.payload)) == (18, 1, 7, b"abcde")
    assert (second.type, second.flags, second.sequence, bytes(second.payload)) == (19, 2, 8, b"")
    assert len(datagram) == 24 + 16


@pytest.mark.parametrize("cut", [1, 8, 15, 17, 20])
def test_a_message_that_is_cut_off_is_dropped(cut):
    datagram = encode_message(18, 1, 7, b"abcde")
    assert list(split_messages(datagram[:cut])) == []
    assert len(list(split_messages(datagram + datagram[:cut]))) == 1


def test_a_length_below_the_header_ends_the_datagram():
    assert list(split_messages(HEADER.pack(4, 18, 0, 1, 0) * 3)) == []


def test_an_error_carries_the_kernels_words_and_place():
    details = string(1, "Chain is busy") + attr(2, struct.pack("=I", 20))
    for flags, request in ((NLM_F_CAPPED, b""), (0, b"12345678")):
        payload = error_payload(errno.EBUSY, request, details)
        message = Message(NLMSG_ERROR, flags | NLM_F_ACK_TLVS, 1, 0, memoryview(payload))
        error = message.error
        assert error is not None
        assert (error.errno, error.message, error.offset) == (errno.EBUSY, "Chain is busy", 20)
        assert str(error) == "[Errno 16] Device or resource busy: Chain is busy"


def test_an_error_without_words_has_the_systems_text_only():
    message = Message(NLMSG_ERROR, 0, 1, 0, memoryview(error_payload(errno.ENOENT)))
    error = message.error
    assert error is not None
    assert (error.strerror, error.message, error.offset) == ("No such file or directory", "", None)


def test_an_acknowledgement_is_no_error():
    assert Message(NLMSG_ERROR, NLM_F_CAPPED, 1, 0, memoryview(error_payload(0))).error is None
    assert Message(RTM_NEWLINK, 0, 1, 0, memoryview(b"\1\0\0\0")).error is None
    assert Message(NLMSG_ERROR, 0, 1, 0, memoryview(b"")).error is None


def test_a_socket_has_a_port_id_and_a_descriptor():
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        assert netlink.portid > 0
        assert netlink.fileno() > 0
    assert netlink.fileno() == -1
    netlink.close()


def test_an_unknown_protocol_is_a_netlink_error():
    with pytest.raises(NetlinkError) as caught:
        NetlinkSocket(31)
    assert caught.value.errno == errno.EPROTONOSUPPORT


def test_an_unknown_group_is_a_netlink_error():
    with pytest.raises(NetlinkError) as caught:
        NetlinkSocket(NETLINK_ROUTE, groups=(60000,))
    assert caught.value.errno == errno.EINVAL


def test_a_closed_socket_refuses_as_a_netlink_error():
    netlink = NetlinkSocket(NETLINK_ROUTE)
    netlink.close()
    for use in (netlink.receive, lambda: netlink.send(b"")):
        with pytest.raises(NetlinkError) as caught:
            use()
        assert caught.value.errno == errno.EBADF


def test_waiting_ends_when_the_time_is_up():
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        netlink.set_timeout(0)
        with pytest.raises(BlockingIOError):
            netlink.receive()
        netlink.set_timeout(0.001)
        with pytest.raises(TimeoutError):
            netlink.receive()


def test_a_dump_yields_the_loopback_link():
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        links = [message for message in netlink.dump(RTM_GETLINK, ANY_LINK)]
    assert all(message.type == RTM_NEWLINK for message in links)
    assert any(b"lo\0" in bytes(message.payload) for message in links)


def test_the_kernels_refusal_of_a_request_is_raised():
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        with pytest.raises(NetlinkError) as caught:
            netlink.request(RTM_GETLINK, 0, NO_SUCH_LINK)
        assert caught.value.errno == errno.ENODEV
        # The socket is still in step.
        netlink.request(RTM_GETLINK, 0, struct.pack("=BBHiII", 0, 0, 0, 1, 0, 0))


def test_many_requests_report_one_by_one():
    loopback = struct.pack("=BBHiII", 0, 0, 0, 1, 0, 0)
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        results = netlink.request_many(RTM_GETLINK, 0, [loopback, NO_SUCH_LINK, loopback])
        assert [None if error is None else error.errno for error in results] == [
            None,
            errno.ENODEV,
            None,
        ]
        assert netlink.request_many(RTM_GETLINK, 0, []) == []


def test_an_inconsistent_dump_yields_everything_and_then_says_so():
    netlink = ScriptedSocket(
        (RTM_NEWLINK, 0, b"one."),
        (RTM_NEWLINK, NLM_F_DUMP_INTR, b"two."),
        (NLMSG_DONE, 0, b"\0\0\0\0"),
    )
    with netlink:
        dump = netlink.dump(RTM_GETLINK, ANY_LINK)
        assert [bytes(next(dump).payload), bytes(next(dump).payload)] == [b"one.", b"two."]
        with pytest.raises(DumpInterrupted) as caught:
            next(dump)
    assert caught.value.errno == errno.EINTR


def test_a_dump_that_ends_with_an_error_raises_it():
    netlink = ScriptedSocket((NLMSG_DONE, 0, struct.pack("=i", -errno.EOPNOTSUPP)))
    with netlink, pytest.raises(NetlinkError) as caught:
        list(netlink.dump(RTM_GETLINK, ANY_LINK))
    assert caught.value.errno == errno.EOPNOTSUPP


def test_a_refused_dump_raises_the_refusal():
    netlink = ScriptedSocket((NLMSG_ERROR, 0, error_payload(errno.EPERM)))
    with netlink, pytest.raises(NetlinkError) as caught:
        list(netlink.dump(RTM_GETLINK, ANY_LINK))
    assert caught.value.errno == errno.EPERM


def test_a_datagram_larger_than_the_buffer_is_an_error():
    with NetlinkSocket(NETLINK_ROUTE) as sender, NetlinkSocket(NETLINK_ROUTE) as receiver:
        # Two sockets of one process may talk to each other by port id.
        sender._socket.sendto(b"x" * (RECEIVE_SIZE + 1), (receiver.portid, 0))
        receiver.set_timeout(1)
        with pytest.raises(NetlinkError) as caught:
            receiver.receive()
    assert caught.value.errno == errno.EMSGSIZE


def test_sequence_numbers_are_reserved_in_blocks_and_wrap_before_zero():
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        assert [netlink.next_sequence(), netlink.next_sequence(10), netlink.next_sequence()] == [
            1,
            2,
            12,
        ]
        netlink._sequence = 0xFFFFFFFD
        assert netlink.next_sequence(5) == 1


def test_netfilter_is_reachable_without_privilege_to_open():
    with NetlinkSocket(NETLINK_NETFILTER, buffer_bytes=1 << 22) as netlink:
        assert netlink.portid > 0
