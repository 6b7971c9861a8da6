"""Exactly the listed entries are deleted, and refusals are told."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from kpctl.conntrack.deletion import Deletion, delete_entries
from proxy.kernel.netlink import NetlinkError
from tests.support.conntrack_entries import FakeTable, encode_entry


def entry(port: int, identity: int) -> bytes:
    return encode_entry(
        "UDP",
        ("10.0.0.2", port, "10.96.0.10", 53),
        ("10.244.0.9", 53, "10.0.0.2", port),
        identity=identity,
    )


def test_only_what_was_listed_is_deleted_and_what_was_replaced_stays() -> None:
    listed = [entry(port, port) for port in range(1, 301)]
    replaced = entry(7, 9999)
    table = FakeTable([*listed[:6], replaced, *listed[7:], entry(1000, 1000)])
    assert delete_entries(listed, table) == Deletion(deleted=299, gone=1, refused=0)
    assert table.entries == [replaced, entry(1000, 1000)]


class Refusing(FakeTable):
    """A table of a caller without rights."""

    def request_many(
        self, message_type: int, flags: int, payloads: Sequence[bytes]
    ) -> list[NetlinkError | None]:
        return [NetlinkError(errno.EPERM) for _ in payloads]


def test_a_refusal_is_counted_and_told() -> None:
    done = delete_entries([entry(1, 1)], Refusing([]))
    assert (done.deleted, done.refused) == (0, 1)
    assert "not permitted" in done.refusal


def test_an_entry_without_a_tuple_is_never_sent() -> None:
    table = FakeTable([entry(1, 1)])
    assert delete_entries([b"\2\0\0\0"], table).refused == 1
    assert len(table.entries) == 1
