"""
Keeping up with one resource of the API, as a state machine without I/O.

The API gives a list at some resource version and, from a version on, a stream of changes. Both
can end or fail in many ways; this module decides what to ask for next, how long to wait before,
and which events follow from what was received. A shell (``kubernetes.py``) makes the requests:

    request = reflector.next_request()     → wait request.delay_s, then ask
    reflector.receive_page(body)           ← the answer to a list
    reflector.receive_line(line, when)     ← each line of a watch, until it ends:
    reflector.ended() / reflector.failed(error)

INVARIANT: the version a watch goes on from is that of the last event handed out, so whatever
happens to a connection, no change is lost: at worst some are delivered twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from proxy.model.events import Removed, Replaced, SourceEvent, Unreadable, Upserted
from proxy.sources.backoff import Backoff
from proxy.sources.decode import DELETED, Listing, Page, ResourceDecoder, WatchEvent
from proxy.sources.failures import ApiError, ConnectionFailedError, GarbledError
from proxy.sources.resources import ResourceSpec
from proxy.sources.source import SourceError

PAGE_SIZE = 500
WATCH_SHORTEST_S = 300
# A server that garbles the same place again and again is asked for everything anew.
GARBLED_BEFORE_RELIST = 3
# How often an absent API group is looked for: it appears only when the control plane is upgraded.
ABSENT_GROUP_S = 300.0
LONGEST_RETRY_AFTER_S = 60.0
# A watch that stayed open this long was a good one, even if nothing happened meanwhile.
WORKING_S = 1.0

FROM_CACHE = "0"
"""Any version the server has at hand: spares etcd when many nodes start together."""
NEWEST = ""
"""The newest version, read with a quorum; paged."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask the API next; ``timeout_s`` is when the server ends a watch, 0 for a list."""

    watch: bool
    params: dict[str, str]
    delay_s: float
    timeout_s: int = 0


@dataclass(slots=True)
class _Listing:
    """The pages received so far; ``version`` is what was asked for."""

    version: str
    continue_token: str = ""
    items: list[msgspec.Raw] = field(default_factory=list)

    def add(self, page: Page) -> None:
        self.items += page.items
        self.continue_token = page.meta.continue_token


class Reflector:
    """
    Follows one resource.

    Args:
        spec: What to follow.
        random: Returns numbers in [0, 1); spreads waits and watch durations.
    """

    def __init__(self, spec: ResourceSpec, random: Callable[[], float]) -> None:
        self._spec = spec
        self._random = random
        self._decoder = ResourceDecoder(spec.resource)
        self._backoff = Backoff(random)
        self._listing: _Listing | None = _Listing(FROM_CACHE)
        self._version = ""
        self._delay_s = 0.0
        self._progress = False
        self._garbled = 0
        self._absent = False

    @property
    def was_working(self) -> bool:
        """True when the last request delivered something, or lasted a second, before it ended."""
        return self._progress

    def next_request(self) -> Request:
        """Return what to ask for now; the answer goes to the ``receive_…`` methods."""
        delay_s, self._delay_s = self._delay_s, 0.0
        self._progress = False
        if self._listing is not None:
            return Request(False, self._list_params(self._listing), delay_s)
        timeout_s = int(WATCH_SHORTEST_S * (1 + self._random()))
        params = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(timeout_s),
        }
        return Request(True, params | self._spec.selectors, delay_s, timeout_s)

    def _list_params(self, listing: _Listing) -> dict[str, str]:
        if listing.continue_token:
            version = {"limit": str(PAGE_SIZE), "continue": listing.continue_token}
        elif listing.version in (NEWEST, FROM_CACHE):
            version = {"limit": str(PAGE_SIZE), "resourceVersion": listing.version}
        else:
            # With a limit the server would take the version as exactly this one.
            version = {
                "resourceVersion": listing.version,
                "resourceVersionMatch": "NotOlderThan",
            }
        return version | self._spec.selectors

    def receive_page(self, body: bytes | bytearray) -> list[SourceEvent]:
        """
        Take one page of a list; return the events, which is none before the last page.

        Raises:
            GarbledError: The page is no list; pass it to ``failed``.
        """
        listing = self._listing
        assert listing is not None, "a page was received while watching"
        page = self._decoder.decode_page(body)
        listing.add(page)
        if listing.continue_token:
            return []
        self._listing = None
        self._absent = False
        self._version = page.meta.resource_version
        return [Replaced(self._spec.resource, Listing(self._decoder, listing.items))]

    def receive_line(self, line: bytes, received: float) -> SourceEvent | None:
        """
        Take one line of a watch that arrived at *received* (time.monotonic()).

        Returns:
            The event, or None for a bookmark.

        Raises:
            ApiError: The server ended the watch with an error; pass it to ``failed``.
            GarbledError: The line is no event; pass it to ``failed``.
        """
        event = self._decoder.decode_event(line)
        outcome = self._outcome(event, received)
        if event.resource_version:
            self._version = event.resource_version
            self._made_progress()
        return outcome

    def _outcome(self, event: WatchEvent, received: float) -> SourceEvent | None:
        obj = event.obj
        if obj is None:
            return None
        if event.type == DELETED:
            if not isinstance(obj, Unreadable):
                return Removed(self._spec.resource, obj.metadata.namespace, obj.metadata.name)
            if obj.name:
                return Removed(self._spec.resource, obj.namespace, obj.name)
        return obj if isinstance(obj, Unreadable) else Upserted(obj, received)

    def _made_progress(self) -> None:
        if not self._progress:
            self._progress = True
            self._garbled = 0
            self._backoff.reset()

    def ended(self, lasted_s: float) -> None:
        """The watch ended in order after *lasted_s* seconds: go on, at once if it worked."""
        if lasted_s >= WORKING_S:
            self._made_progress()
        if not self._progress:
            self._delay_s = self._backoff.next_s()

    def failed(self, error: SourceError, lasted_s: float = 0.0) -> list[SourceEvent]:
        """
        A request failed, a watch after it was open for *lasted_s*; decide how to go on.

        Returns:
            Events that follow: an empty list of objects when the API group does not exist.
        """
        if isinstance(error, ApiError) and error.status == 404 and self._spec.optional:
            return self._group_is_absent()
        if self._listing is not None:
            refused = isinstance(error, ApiError) and error.version_unavailable
            self._listing = _Listing(NEWEST if refused else self._listing.version)
            self._delay_s = self._wait_s(error)
            return []
        if isinstance(error, ConnectionFailedError) and lasted_s >= WORKING_S:
            self._made_progress()
        # A connection that worked until now is taken up again at once.
        self._delay_s = 0.0 if self._progress else self._wait_s(error)
        if isinstance(error, GarbledError):
            self._garbled += 1
        if isinstance(error, ApiError) and error.version_unavailable:
            self._listing = _Listing(self._version if error.expired else NEWEST)
        elif self._garbled >= GARBLED_BEFORE_RELIST:
            self._garbled = 0
            self._listing = _Listing(NEWEST)
        return []

    def _group_is_absent(self) -> list[SourceEvent]:
        known, self._absent = self._absent, True
        self._listing = _Listing(FROM_CACHE)
        self._delay_s = ABSENT_GROUP_S * (1 + self._random())
        return [] if known else [Replaced(self._spec.resource, ())]

    def _wait_s(self, error: SourceError) -> float:
        asked_s = error.retry_after_s if isinstance(error, ApiError) else 0.0
        return max(self._backoff.next_s(), min(asked_s, LONGEST_RETRY_AFTER_S))
