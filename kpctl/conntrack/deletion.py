"""Deletes entries of the kernel's connection table: exactly those that were listed."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.conntrack.messages import CT_DELETE, delete_request
from proxy.kernel.conntrack import DELETIONS_PER_DATAGRAM, TableSocket, open_netfilter
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import NFPROTO_IPV4


@dataclass(frozen=True, slots=True)
class Deletion:
    """
    What became of the entries.

    ``gone`` ended by themselves in between, or were replaced by newer ones, which stay.
    ``refusal`` is the kernel's for ``refused`` of them, "" without one.
    """

    deleted: int
    gone: int
    refused: int
    refusal: str = ""


def delete_entries(
    entries: Sequence[bytes], open_socket: Callable[[], TableSocket] = open_netfilter
) -> Deletion:
    """
    Delete *entries*, each the payload that the kernel listed it with.

    Each is named by the packets of its answers, its zone and the number the kernel gave it, so
    that a newer connection between the same ends stays. Never raises for a refusal.
    """
    requests = [request for entry in entries if (request := _request(entry)) is not None]
    answers: list[NetlinkError | None] = []
    try:
        with open_socket() as netlink:
            for start in range(0, len(requests), DELETIONS_PER_DATAGRAM):
                batch = requests[start : start + DELETIONS_PER_DATAGRAM]
                answers += netlink.request_many(CT_DELETE, 0, batch)
    except NetlinkError as error:
        answers += [error] * (len(requests) - len(answers))
    gone = sum(one is not None and one.errno == errno.ENOENT for one in answers)
    refusals = [one for one in answers if one is not None and one.errno != errno.ENOENT]
    return Deletion(
        deleted=sum(one is None for one in answers),
        gone=gone,
        refused=len(refusals) + len(entries) - len(requests),
        refusal=refusals[0].strerror or "" if refusals else "",
    )


def _request(entry: bytes) -> bytes | None:
    family = IPFamily.IPV4 if entry[0] == NFPROTO_IPV4 else IPFamily.IPV6
    return delete_request(family, memoryview(entry))
