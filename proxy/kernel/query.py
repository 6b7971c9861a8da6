"""Netlink requests with an answer, and netlink requests in great number."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.kernel.netlink import (
    NLMSG_ERROR,
    Message,
    NetlinkError,
    NetlinkSocket,
    encode_message,
    split_messages,
)
from proxy.netfilter.wire import NLM_F_ACK, NLM_F_REQUEST

REQUESTS_PER_DATAGRAM = 128
"""Their refusals take at most 170 KB, which fits the buffer of any socket."""


def query(netlink: NetlinkSocket, message_type: int, payload: bytes) -> list[Message]:
    """Send one request that is no dump; return its answers. A refusal raises NetlinkError."""
    sequence = netlink.next_sequence()
    netlink.send(encode_message(message_type, NLM_F_REQUEST | NLM_F_ACK, sequence, payload))
    answers: list[Message] = []
    while True:
        for message in split_messages(netlink.receive()):
            if message.sequence != sequence:
                continue
            if message.type == NLMSG_ERROR:
                if message.error is not None:
                    raise message.error
                return answers
            answers.append(message)


def in_batches(
    netlink: NetlinkSocket, message_type: int, flags: int, payloads: Sequence[bytes]
) -> list[NetlinkError | None]:
    """
    Send any number of requests of one type; return each one's refusal, or None, in their order.

    One refusal does not stop the others. Only the last request of a datagram is acknowledged: the
    kernel works through a datagram in order and always tells what it refuses, so that a request
    which it did not speak of by then was accepted. That spares one system call for each.
    """
    results: list[NetlinkError | None] = []
    for start in range(0, len(payloads), REQUESTS_PER_DATAGRAM):
        batch = payloads[start : start + REQUESTS_PER_DATAGRAM]
        results += _send_batch(netlink, message_type, flags | NLM_F_REQUEST, batch)
    return results


def _send_batch(
    netlink: NetlinkSocket, message_type: int, flags: int, batch: Sequence[bytes]
) -> list[NetlinkError | None]:
    count = len(batch)
    first = netlink.next_sequence(count)
    requests = [
        encode_message(message_type, flags, first + index, payload)
        for index, payload in enumerate(batch[:-1])
    ]
    requests.append(encode_message(message_type, flags | NLM_F_ACK, first + count - 1, batch[-1]))
    netlink.send(b"".join(requests))
    results: list[NetlinkError | None] = [None] * count
    while True:
        for message in split_messages(netlink.receive()):
            index = message.sequence - first
            if message.type != NLMSG_ERROR or not 0 <= index < count:
                continue
            results[index] = message.error
            if index == count - 1:
                return results
