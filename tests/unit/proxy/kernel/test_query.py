"""Requests with answers and requests in great number; reading links needs no privilege."""

import errno
import struct

import pytest

from proxy.kernel.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from proxy.kernel.query import REQUESTS_PER_DATAGRAM, in_batches, query

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
LOOPBACK = struct.pack("=BxHiII", 0, 0, 1, 0, 0)
NO_SUCH_LINK = struct.pack("=BxHiII", 0, 0, 0x7FFFFFF0, 0, 0)


@pytest.fixture
def route():
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        yield netlink


def test_a_query_returns_the_answer(route):
    (answer,) = query(route, RTM_GETLINK, LOOPBACK)
    assert answer.type == RTM_NEWLINK
    assert struct.unpack_from("=BxHi", answer.payload)[2] == 1


def test_a_refused_query_raises_and_the_next_one_is_answered(route):
    with pytest.raises(NetlinkError) as refusal:
        query(route, RTM_GETLINK, NO_SUCH_LINK)
    assert refusal.value.errno == errno.ENODEV
    assert len(query(route, RTM_GETLINK, LOOPBACK)) == 1


def test_an_answer_to_something_else_is_passed_over(route):
    stale = struct.pack("=IHHII", 32, RTM_GETLINK, 1, 0xFFFFFF, 0) + LOOPBACK
    route.send(stale)
    assert [answer.sequence for answer in query(route, RTM_GETLINK, LOOPBACK)] == [1]


@pytest.mark.parametrize(
    "count", [0, 1, 2, REQUESTS_PER_DATAGRAM, REQUESTS_PER_DATAGRAM + 1, 5 * REQUESTS_PER_DATAGRAM]
)
@pytest.mark.parametrize("refused", [0, 1], ids=["even-ones-refused", "odd-ones-refused"])
def test_each_request_of_many_has_its_own_result(route, count, refused):
    payloads = [NO_SUCH_LINK if n % 2 == refused else LOOPBACK for n in range(count)]
    results = in_batches(route, RTM_GETLINK, 0, payloads)
    assert [result and result.errno for result in results] == [
        errno.ENODEV if n % 2 == refused else None for n in range(count)
    ]


def test_all_refusals_of_a_full_datagram_fit_the_smallest_buffer(route):
    route.set_buffer_sizes(receive=212992 // 2)  # half of the usual limit
    payloads = [NO_SUCH_LINK] * REQUESTS_PER_DATAGRAM * 2
    results = in_batches(route, RTM_GETLINK, 0, payloads)
    assert {result and result.errno for result in results} == {errno.ENODEV}
