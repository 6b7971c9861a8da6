"""The table of nftables mode goes when it is there, and errors are told."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from proxy.backends.nftables.layout import TABLE
from proxy.engine.cleanup.nftables import remove_nftables
from proxy.engine.cleanup.outcome import Outcome
from proxy.kernel.netlink import NetlinkError
from proxy.kernel.nftables import KernelRequest
from proxy.netfilter.wire import Msg


class FakePort:
    """One table, or none."""

    def __init__(self, comment: str | None, error: OSError | None = None) -> None:
        self.comment = comment
        self.error = error
        self.requests: list[KernelRequest] = []

    def table_comment(self, table: str) -> str | None:
        return self.comment if table == TABLE else None

    def apply(self, requests: Sequence[KernelRequest]) -> float:
        if self.error is not None:
            raise self.error
        self.requests += requests
        return 0.0


def test_the_table_goes_whoever_made_it() -> None:
    port = FakePort("")
    assert remove_nftables(port) == Outcome(["nftables table kube-proxy"])
    assert [request.kind for request in port.requests] == [Msg.DELTABLE]


def test_nothing_is_written_without_the_table() -> None:
    port = FakePort(None)
    assert remove_nftables(port) == Outcome()
    assert port.requests == []


def test_a_refusal_is_an_error_of_the_outcome() -> None:
    port = FakePort("", NetlinkError(errno.EPERM, "not permitted"))
    (said,) = remove_nftables(port).errors
    assert said.startswith("nftables table kube-proxy: ")
    assert "not permitted" in said
