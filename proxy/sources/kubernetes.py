"""
Cluster state from the API server: one thread per resource, each feeding its reflector.

The threads list in parallel at start and then sit in a read of their watch; an event goes from
the socket to the sink within the thread that read it.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from proxy.model.events import SourceEvent
from proxy.sources.client import READ_TIMEOUT_S, Client, Response
from proxy.sources.credentials import Credentials
from proxy.sources.failures import ApiError, ConnectionFailedError, UnexpectedError
from proxy.sources.problems import SERVER, ProblemLog, explain, kind_of, subject_of
from proxy.sources.reflector import Reflector, Request
from proxy.sources.resources import ResourceSpec
from proxy.sources.source import Report, Sink, SourceError

# The server ends a watch at its timeout; one that does not within this time is dead.
WATCH_GRACE_S = 20.0
# Watches are cut when servers restart; one that is always cut at once is worth telling.
CUTS_UNTOLD = 2
STOP_TIMEOUT_S = 2.0

Random = Callable[[], float]


class KubernetesSource:
    """
    The API server as a source.

    Args:
        client: Makes the requests.
        credentials: Checked by ``start``.
        specs: What to follow, usually ``followed_resources(node_name)``.
        report: Told of problems and of their end.
        on_cut: Told the kind of a resource whose watch ended before its time.
        rand: Returns numbers in [0, 1).
    """

    def __init__(
        self,
        client: Client,
        credentials: Credentials,
        specs: Sequence[ResourceSpec],
        report: Report,
        on_cut: Callable[[str], None] = lambda _: None,
        rand: Random = random.random,
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._problems = ProblemLog(report, time.monotonic)
        self._stopping = threading.Event()
        self._followers = [
            _Follower(client, spec, self._problems, self._stopping, on_cut, rand) for spec in specs
        ]
        self._threads: list[threading.Thread] = []

    def start(self, sink: Sink) -> None:
        """Begin to list and watch; raises ConfigurationError for an unusable kubeconfig."""
        self._credentials.check()
        for follower in self._followers:
            thread = threading.Thread(
                target=follower.run, args=(sink,), name=f"watch-{follower.name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End all streams and wait for the threads, for 2 s at most: they may be connecting."""
        self._stopping.set()
        for follower in self._followers:
            follower.abort()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


class _Follower:
    """Runs one reflector: asks what it wants asked, and hands on what comes back."""

    def __init__(
        self,
        client: Client,
        spec: ResourceSpec,
        problems: ProblemLog,
        stopping: threading.Event,
        on_cut: Callable[[str], None],
        rand: Random,
    ) -> None:
        self._on_cut = on_cut
        self.name = spec.plural
        self._client = client
        self._spec = spec
        self._problems = problems
        self._stopping = stopping
        self._reflector = Reflector(spec, rand)
        self._response: Response | None = None
        self._opened = 0.0
        self._cuts = 0

    def abort(self) -> None:
        """Wake the thread from its read."""
        response = self._response
        if response is not None:
            response.abort()

    def run(self, sink: Sink) -> None:
        """Follow the resource until stopped; the body of a thread."""
        while True:
            request = self._reflector.next_request()
            if self._stopping.wait(request.delay_s):
                return
            self._opened = 0.0
            self._step(request, sink)

    def _step(self, request: Request, sink: Sink) -> None:
        # The events of a list hold 10,000 objects: this frame must not outlive their delivery.
        try:
            events = self._watch(request, sink) if request.watch else self._list(request)
        except SourceError as error:
            events = self._failed(error, request)
        except Exception as error:  # noqa: BLE001 - one mistake must not freeze a resource for ever
            events = self._failed(_unexpected(error), request)
        for event in events:
            if not self._stopping.is_set():
                sink(event)

    @contextmanager
    def _open(self, request: Request, read_timeout_s: float) -> Iterator[Response]:
        with self._client.get(self._spec.path, request.params, read_timeout_s) as response:
            self._response = response
            self._opened = time.monotonic()
            try:
                # Who stops us sets the flag first and looks for a response to abort then.
                if self._stopping.is_set():
                    response.abort()
                yield response
            finally:
                self._response = None

    def _list(self, request: Request) -> Sequence[SourceEvent]:
        with self._open(request, READ_TIMEOUT_S) as response:
            body = response.body()
        events = self._reflector.receive_page(body)
        self._works()
        return events

    def _watch(self, request: Request, sink: Sink) -> Sequence[SourceEvent]:
        receive_line, stopping = self._reflector.receive_line, self._stopping
        with self._open(request, request.timeout_s + WATCH_GRACE_S) as response:
            self._works()
            for line, received in response.lines():
                event = receive_line(line, received)
                if stopping.is_set():
                    break
                if event is not None:
                    sink(event)
        self._reflector.ended(time.monotonic() - self._opened)
        return ()

    def _works(self) -> None:
        if self._problems.all_well:
            return
        host = self._client.host
        self._problems.recovered(SERVER, f"the API server at {host} answers again")
        self._problems.recovered(self._spec.plural, f"{self._spec.plural} are followed again")

    def _failed(self, error: SourceError, request: Request) -> Sequence[SourceEvent]:
        opened = self._opened > 0
        lasted_s = time.monotonic() - self._opened if opened else 0.0
        events = self._reflector.failed(error, lasted_s)
        if request.watch and not self._stopping.is_set():
            self._on_cut(self._spec.resource.value)
        was_cut = request.watch and opened and isinstance(error, ConnectionFailedError)
        self._cuts = self._cuts + 1 if was_cut and not self._reflector.was_working else 0
        if (
            self._stopping.is_set()
            or self._is_routine(error)
            or (was_cut and self._cuts <= CUTS_UNTOLD)
        ):
            return events
        verb = "watch" if request.watch else "list"
        text = explain(error, self._client.host or "the API server", verb, self._spec)
        self._problems.failed(subject_of(error, self._spec), text, kind_of(error))
        return events

    def _is_routine(self, error: SourceError) -> bool:
        """Return whether *error* is daily business: expiry, or an absent optional API group."""
        return isinstance(error, ApiError) and (
            error.expired or (error.status == 404 and self._spec.optional)
        )


def _unexpected(error: Exception) -> UnexpectedError:
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{place.filename}:{place.lineno}"
    return UnexpectedError(f"{type(error).__name__}: {error} ({where})")
