"""Sends events to the API server from a thread of its own, or gives up on them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping

from proxy.runtime.clock import Clock
from proxy.runtime.events import Event, EventThrottle, event_object, namespace_of
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

# Creates an events.k8s.io/v1 Event: namespace and object in, HTTP status out. Raises when no
# answer came. It sets its own time limit.
Post = Callable[[str, Mapping[str, object]], int]

_RETRY_S = (1.0, 5.0, 20.0)
_QUEUE_LENGTH = 256


class EventSender:
    """
    An EventRecorder that sends to the API server.

    ``record`` may be called from any thread and returns at once. The thread starts with the
    first event and is a daemon.

    Args:
        post: Sends one object.
        host: Name of this node.
        clock: Times of the events.
        throttle: Decides what is sent.
        queue_length: Events that may wait; more are dropped, with a log.
        retry_s: Pauses before each further attempt of an event that got no answer, or
            401, 429 or 5xx.
    """

    def __init__(
        self,
        post: Post,
        host: str,
        clock: Clock,
        *,
        throttle: EventThrottle | None = None,
        queue_length: int = _QUEUE_LENGTH,
        retry_s: tuple[float, ...] = _RETRY_S,
    ) -> None:
        self._post = post
        self._host = host
        self._clock = clock
        self._throttle = throttle or EventThrottle()
        self._retry_s = retry_s
        self._lock = threading.Lock()
        self._queue: queue.Queue[tuple[Event, int, int] | None] = queue.Queue(queue_length)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._full = False
        self._denied = False

    def record(self, event: Event) -> None:
        """See EventRecorder."""
        with self._lock:
            if self._stopping.is_set():
                return
            dropped = self._throttle.dropped
            count = self._throttle.offer(event, self._clock.monotonic_ns())
            if count:
                self._enqueue(event, count)
            elif self._throttle.dropped != dropped:
                log.v(2).info("Too many events, one is not sent", reason=event.reason)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Send what waits if that takes no longer than *timeout_s*, then give up."""
        with self._lock:
            self._stopping.set()
            thread = self._thread
        if thread is None:
            return
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        thread.join(timeout_s)

    def _enqueue(self, event: Event, count: int) -> None:
        """Hand over to the thread; called with the lock held."""
        # One log for each time the queue fills up, not for each event that finds it full.
        self._full = self._full and not self._queue.empty()
        try:
            self._queue.put_nowait((event, self._clock.wall_ns(), count))
        except queue.Full:
            if not self._full:
                log.warning("Events are dropped: too many wait for the API server", event=event)
            self._full = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="events", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            event, wall_ns, count = item
            self._send(event, event_object(event, self._host, wall_ns, count))

    def _send(self, event: Event, content: Mapping[str, object]) -> None:
        """One event, with a few attempts; afterwards it is forgotten."""
        problem = self._attempt(event, content)
        for pause_s in self._retry_s:
            # Once stopping there is one attempt for each event, and no waiting.
            if problem is None or self._stopping.wait(pause_s):
                break
            problem = self._attempt(event, content)
        if problem is not None:
            log.warning("Event not sent", err=problem, reason=event.reason, note=event.note)

    def _attempt(self, event: Event, content: Mapping[str, object]) -> str | None:
        """None when there is nothing left to do for this event, else what went wrong."""
        namespace = namespace_of(event)
        try:
            status = self._post(namespace, content)
        except Exception as error:  # noqa: BLE001 - a client may raise anything; events are a courtesy
            return str(error) or type(error).__name__
        if status == 403:
            self._log_denied(namespace)
            return None
        if status in (401, 429) or status >= 500:
            return f"the API server answered {status}"
        if status >= 400 and status != 409:
            log.warning("Event refused by the API server", status=status, reason=event.reason)
        self._denied = self._denied and status >= 400
        return None

    def _log_denied(self, namespace: str) -> None:
        if self._denied:
            return
        self._denied = True
        log.warning(
            "Events cannot be written",
            namespace=namespace,
            hint="grant the verb create on events in apiGroup events.k8s.io to the proxy's user, "
            "as the ClusterRole system:node-proxier does",
        )
