"""
Finds and deletes stale UDP entries in the kernel's connection-tracking table, through netlink.

The kernel walks its table and hands over only what can matter; entries are judged one by one as
they arrive, so a table of a million entries costs time but no memory.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from proxy.conntrack.messages import (
    CT_DELETE,
    CT_GET,
    CT_GET_STATS,
    EntryReader,
    delete_request,
    dump_request,
    nfnetlink_header,
)
from proxy.conntrack.stale import CleanupRequest, Judge, Reason, Search, plan_searches
from proxy.kernel.netlink import (
    NETLINK_NETFILTER,
    DumpInterrupted,
    Message,
    NetlinkError,
    NetlinkSocket,
)
from proxy.model.addresses import IPFamily

WALK_ATTEMPTS = 6
"""One try and five repetitions of a walk that the kernel calls inconsistent."""

DELETIONS_PER_DATAGRAM = 128


class TableSocket(Protocol):
    """What is needed of a netlink socket; ``NetlinkSocket`` has it."""

    def dump(self, message_type: int, payload: bytes) -> Iterator[Message]:
        """Yield a dump's messages; raises NetlinkError, DumpInterrupted at the end."""

    def request_many(
        self, message_type: int, flags: int, payloads: Sequence[bytes]
    ) -> list[NetlinkError | None]:
        """Send requests and return each one's refusal or None."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""


def open_netfilter() -> NetlinkSocket:
    """Return a netfilter socket of this network namespace; raises NetlinkError."""
    return NetlinkSocket(NETLINK_NETFILTER)


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """
    What one clean-up did.

    ``walks`` is how often the kernel walked its table, ``examined`` how many entries it handed
    over, ``deleted`` how many went for which reason. ``error`` is empty or says what failed; what
    was deleted before stays deleted.
    """

    family: IPFamily
    walks: int
    examined: int
    deleted: Mapping[Reason, int]
    duration_s: float
    error: str = ""

    @property
    def deleted_total(self) -> int:
        """Entries deleted, whatever the reason."""
        return sum(self.deleted.values())


def clean_up(
    request: CleanupRequest, open_socket: Callable[[], TableSocket] = open_netfilter
) -> CleanupResult:
    """
    Delete the entries that *request* makes stale; never raises for what the kernel refuses.

    Walks the kernel's table once per planned search (at most MAX_FILTERED_SEARCHES times), with
    the interpreter free for other threads meanwhile. Memory does not depend on the table's size.
    """
    started = time.monotonic()
    tally = _Tally()
    error = ""
    try:
        # Two sockets: entries are deleted while the list of them is still arriving.
        with open_socket() as lister, open_socket() as deleter:
            cleanup = _Cleanup(request, lister, deleter, tally)
            for search in plan_searches(request):
                cleanup.walk_until_consistent(search)
    except NetlinkError as refusal:
        error = f"cannot clean up {request.family.value} conntrack entries: {refusal.strerror}"
        if refusal.errno == errno.EPERM:
            error += "; the proxy needs CAP_NET_ADMIN"
    return CleanupResult(
        request.family,
        tally.walks,
        tally.examined,
        dict(tally.deleted),
        time.monotonic() - started,
        error,
    )


@dataclass(slots=True)
class _Tally:
    walks: int = 0
    examined: int = 0
    deleted: Counter[Reason] = field(default_factory=Counter)


class _Cleanup:
    """One clean-up under way."""

    def __init__(
        self, request: CleanupRequest, lister: TableSocket, deleter: TableSocket, tally: _Tally
    ) -> None:
        self._family = request.family
        self._judge = Judge(request)
        self._reader = EntryReader(request.family)
        self._lister = lister
        self._deleter = deleter
        self._tally = tally

    def walk_until_consistent(self, search: Search) -> None:
        for attempt in range(1, WALK_ATTEMPTS + 1):
            try:
                return self._walk(search)
            except DumpInterrupted:
                # What was found was deleted all the same; another walk finds what was missed.
                if attempt == WALK_ATTEMPTS:
                    raise
        return None

    def _walk(self, search: Search) -> None:
        self._tally.walks += 1
        doomed: list[tuple[Reason, bytes]] = []
        try:
            for reason, deletion in self._stale(search):
                doomed.append((reason, deletion))
                if len(doomed) == DELETIONS_PER_DATAGRAM:
                    self._delete(doomed)
                    doomed = []
        finally:
            self._delete(doomed)

    def _stale(self, search: Search) -> Iterator[tuple[Reason, bytes]]:
        """Yield why and the request that deletes it, for each stale entry of one walk."""
        ends, verdict = self._reader.ends, self._judge.verdict
        for message in self._lister.dump(CT_GET, dump_request(self._family, search)):
            self._tally.examined += 1
            entry = message.payload
            places = ends(entry)
            if places is None:
                continue
            reason = verdict(*places)
            if reason is None:
                continue
            deletion = delete_request(self._family, entry)
            if deletion is not None:
                yield reason, deletion

    def _delete(self, doomed: list[tuple[Reason, bytes]]) -> None:
        refusals = self._deleter.request_many(CT_DELETE, 0, [deletion for _, deletion in doomed])
        for (reason, _), refusal in zip(doomed, refusals, strict=True):
            if refusal is None:
                self._tally.deleted[reason] += 1
            elif refusal.errno != errno.ENOENT:  # it expired, or was replaced, in between
                raise refusal


def load_conntrack(open_socket: Callable[[], NetlinkSocket] = open_netfilter) -> None:
    """
    Make the kernel load connection tracking, so that its settings exist; raises NetlinkError.

    Any request to its netlink interface does; this one asks for the table's counters.
    """
    with open_socket() as netlink:
        netlink.request(CT_GET_STATS, 0, nfnetlink_header(IPFamily.IPV4))
