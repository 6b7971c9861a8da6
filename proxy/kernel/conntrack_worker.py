"""
Runs conntrack clean-ups beside the proxy: one at a time, off the path that programs rules.

Requests that come while one is under way are merged, so that any number of changes costs one pass;
and after each pass the worker rests for a multiple of its duration, so that a large table under
constant change costs a fixed share of one CPU.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from proxy.conntrack.stale import CleanupRequest, merge
from proxy.kernel.conntrack import CleanupResult, clean_up
from proxy.model.addresses import IPFamily

REST_FACTOR = 4
"""Rest after a pass, in units of its duration: clean-ups use at most a fifth of one CPU."""


class ConntrackWorker:
    """
    A thread that cleans up.

    *on_result* is called in that thread after each pass, with its duration, counts and error; it
    must not raise. *clean* does the work.
    """

    def __init__(
        self,
        on_result: Callable[[CleanupResult], None],
        clean: Callable[[CleanupRequest], CleanupResult] = clean_up,
    ) -> None:
        self._on_result = on_result
        self._clean = clean
        self._pending: dict[IPFamily, CleanupRequest] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="conntrack-cleanup", daemon=True)

    def start(self) -> None:
        """Start the thread; requests submitted before wait for it."""
        self._thread.start()

    def submit(self, request: CleanupRequest) -> None:
        """Queue *request*, merged with what waits for the same family; returns at once."""
        if request.empty:
            return
        with self._changed:
            waiting = self._pending.get(request.family)
            self._pending[request.family] = request if waiting is None else merge(waiting, request)
            self._changed.notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """Drop what waits, let a pass under way finish (at most *timeout_s*), end the thread."""
        with self._changed:
            self._closing = True
            self._pending.clear()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (request := self._next()) is not None:
            started = time.monotonic()
            self._on_result(self._clean(request))
            self._rest(REST_FACTOR * (time.monotonic() - started))

    def _next(self) -> CleanupRequest | None:
        """Wait for a request and take it; None when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._pending)
            if self._closing:
                return None
            # Insertion order: a family that waits is not starved by the other one.
            return self._pending.pop(next(iter(self._pending)))

    def _rest(self, duration_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, duration_s)
