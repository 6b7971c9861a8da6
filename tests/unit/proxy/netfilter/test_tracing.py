"""The statements that trace packets; that the kernel understands them alike is a packet test."""

from __future__ import annotations

import struct

import pytest

from proxy.netfilter.statements import Statement
from proxy.netfilter.tracing import (
    COUNTER,
    OPENS_TCP,
    TRACE,
    at_most,
    at_most_per_second,
    destination_port_is,
    source_port_is,
)
from proxy.netfilter.wire import attributes, iterate_attributes
from tests.support.nft_messages import text_of


def names(statement: Statement) -> list[str]:
    return [text_of(attributes(raw)[1]) for _, raw in iterate_attributes(statement.expressions)]


@pytest.mark.parametrize(
    ("statement", "text", "expressions"),
    [
        (source_port_is(1024), "th sport 1024", ["payload", "cmp"]),
        (destination_port_is(80), "th dport 80", ["payload", "cmp"]),
        (OPENS_TCP, "tcp flags & (fin | syn | rst | ack) == syn", ["payload", "bitwise", "cmp"]),
        (COUNTER, "counter", ["counter"]),
        (at_most_per_second(20), "limit rate 20/second burst 20 packets", ["limit"]),
        (at_most(100), "limit rate 1/day burst 100 packets", ["limit"]),
        (TRACE, "meta nftrace set 1", ["immediate", "meta"]),
    ],
)
def test_a_statement_is_nft_text_and_kernel_expressions(
    statement: Statement, text: str, expressions: list[str]
) -> None:
    assert statement.text == text
    assert names(statement) == expressions


def test_a_limit_of_all_packets_is_a_bucket_that_is_hardly_refilled() -> None:
    ((_, raw),) = iterate_attributes(at_most(100).expressions)
    body = attributes(attributes(raw)[2])
    assert struct.unpack(">Q", body[1]) == (1,)
    assert struct.unpack(">Q", body[2]) == (86_400,)
    assert struct.unpack(">I", body[3]) == (100,)


@pytest.mark.parametrize("packets", [0, 100_001])
def test_a_number_that_the_kernel_would_misread_is_refused(packets: int) -> None:
    with pytest.raises(ValueError, match="is not within"):
        at_most(packets)
