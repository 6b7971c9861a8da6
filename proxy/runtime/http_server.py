"""
One thread that answers HTTP on any number of listeners.

The health port, the metrics port and one port per Service with a healthCheckNodePort can be
hundreds of sockets, all of them open to the outside, none of them busy. A thread per listener
wakes up twice a second, a thread per connection can be exhausted by anyone who opens connections;
one epoll loop does neither: idle means asleep, and a connection costs a file descriptor.
Handlers run on that thread and must not wait for anything but short locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.runtime.http_message import (
    BadRequest,
    Handler,
    Request,
    Response,
    encode_response,
    take_request,
)
from proxy.runtime.listening import Address, BindError, open_socket
from proxy.runtime.logs import get_logger, origin

log = get_logger(__name__)

RETRY_S = 5.0
_READ_BYTES = 64 * 1024
_MAPPED = "::ffff:"


@dataclass(slots=True, eq=False)
class Listener:
    """A listening socket of a loop; ``address`` has the real port."""

    address: Address
    handler: Handler
    sock: socket.socket
    closed: bool = False


@dataclass(slots=True, eq=False)
class _Connection:
    sock: socket.socket
    peer: str
    listener: Listener
    last_active: float
    received: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""
    keep_alive: bool = True


@dataclass(slots=True, eq=False)
class _Pending:
    """A listener that could not be opened yet; ``due`` is in the loop's monotonic seconds."""

    address: Address
    handler: Handler
    on_error: Callable[[BindError], None]
    due: float


class HttpLoop:
    """
    Listeners, their connections, and the thread that serves them.

    ``listen``, ``serve``, ``close`` and ``stop`` may be called from any thread, before or after
    ``start``. Past *max_connections* the one that has been quiet the longest is closed.
    """

    def __init__(
        self,
        name: str,
        *,
        idle_timeout_s: float = 60.0,
        max_connections: int = 256,
        retry_s: float = RETRY_S,
    ) -> None:
        self._retry_s = retry_s
        self._idle_s = idle_timeout_s
        self._max = max_connections
        # Guards the listeners and the pending ones; connections belong to the thread alone.
        self._lock = threading.Lock()
        self._listeners: dict[int, Listener] = {}
        self._pending: list[_Pending] = []
        self._connections: OrderedDict[int, _Connection] = OrderedDict()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to answer; the thread inherits the caller's network namespace."""
        self._thread.start()

    def listen(self, address: Address, handler: Handler, *, dual_stack: bool = True) -> Listener:
        """
        Open a listener now.

        Args:
            address: With *dual_stack* both wildcards take IPv4 and IPv6, as Go's do; without it
                the address takes its own family only.
            handler: Answers every request of this listener.
            dual_stack: See *address*.

        Raises:
            BindError: The kernel refuses.
        """
        sock = open_socket(address, dual_stack=dual_stack)
        listener = Listener(Address(address.host, sock.getsockname()[1]), handler, sock)
        with self._lock:
            if self._stopping.is_set():
                sock.close()
                raise BindError(address, OSError(errno.ESHUTDOWN, "the server was stopped"))
            self._listeners[sock.fileno()] = listener
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        return listener

    def serve(
        self, address: Address, handler: Handler, on_error: Callable[[BindError], None]
    ) -> None:
        """Open a listener now or, after telling *on_error* each time, every *retry_s*."""
        try:
            self.listen(address, handler)
        except BindError as error:
            on_error(error)
            with self._lock:
                due = time.monotonic() + self._retry_s
                self._pending.append(_Pending(address, handler, on_error, due))
            self._nudge()

    def close(self, listener: Listener) -> None:
        """Give the port back before returning; its open connections get no further answer."""
        with self._lock:
            if listener.closed:
                return
            listener.closed = True
            del self._listeners[listener.sock.fileno()]
            self._epoll.unregister(listener.sock.fileno())
            listener.sock.close()

    def stop(self) -> None:
        """Close every listener and connection at once."""
        if self._stopping.is_set():
            return
        with self._lock:
            # From here on listen() refuses, so that the list below is complete.
            self._stopping.set()
            listeners = list(self._listeners.values())
            self._pending.clear()
        for listener in listeners:
            self.close(listener)
        if self._thread.ident is None:
            self._release()
            return
        self._nudge()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _nudge(self) -> None:
        """Make the loop look at its timers again."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for fd, _mask in self._epoll.poll(self._timeout()):
                self._ready(fd)
            self._retry_pending()
            self._close_idle()
        self._release()

    def _release(self) -> None:
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._epoll.close()
        os.close(self._wake)

    def _timeout(self) -> float | None:
        """Seconds until a timer is due; None without any, so that idle means asleep."""
        due = [pending.due for pending in self._pending]
        if self._connections:
            due.append(next(iter(self._connections.values())).last_active + self._idle_s)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _ready(self, fd: int) -> None:
        if fd == self._wake:
            with contextlib.suppress(OSError):
                os.eventfd_read(fd)
        elif connection := self._connections.get(fd):
            self._progress(connection)
        else:
            self._accept(fd)

    def _accept(self, fd: int) -> None:
        # Under the lock, since a closed descriptor may already be somebody else's.
        with self._lock:
            listener = self._listeners.get(fd)
            if listener is None:
                return
            try:
                sock, peer = listener.sock.accept()
            except OSError as error:
                problem: OSError | None = error
            else:
                problem = None
        if problem is not None:
            self._accept_failed(problem)
            return
        if len(self._connections) >= self._max:
            self._drop(next(iter(self._connections.values())))
        sock.setblocking(False)
        connection = _Connection(
            sock, str(peer[0]).removeprefix(_MAPPED), listener, time.monotonic()
        )
        self._connections[sock.fileno()] = connection
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _accept_failed(self, error: OSError) -> None:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            return
        # Level-triggered readiness would spin here; make room instead, or wait a moment.
        if self._connections:
            self._drop(next(iter(self._connections.values())))
        else:
            self._stopping.wait(0.1)

    def _progress(self, connection: _Connection) -> None:
        """Send what waits, or read what came; any trouble ends the connection."""
        connection.last_active = time.monotonic()
        self._connections.move_to_end(connection.sock.fileno())
        try:
            if connection.unsent:
                self._send(connection)
                return
            data = connection.sock.recv(_READ_BYTES)
            if not data:
                self._drop(connection)
                return
            connection.received += data
            self._answer(connection)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(connection)

    def _answer(self, connection: _Connection) -> None:
        """Answer the complete requests that were received, in order."""
        while not connection.unsent:
            try:
                request = take_request(connection.received, connection.peer)
            except BadRequest as error:
                connection.keep_alive = False
                refusal = Response(error.status, f"{error}\n".encode())
                connection.unsent = encode_response(refusal, keep_alive=False)
                self._send(connection)
                return
            if request is None:
                return
            if connection.listener.closed:
                self._drop(connection)
                return
            connection.keep_alive = request.keep_alive
            connection.unsent = encode_response(
                _handle(connection.listener.handler, request),
                keep_alive=request.keep_alive,
                head_only=request.method == "HEAD",
            )
            if not self._send(connection):
                return

    def _send(self, connection: _Connection) -> bool:
        """Send what waits; True when all is sent and the connection stays open."""
        try:
            sent = connection.sock.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        connection.unsent = connection.unsent[sent:]
        if connection.unsent:
            self._epoll.modify(connection.sock.fileno(), select.EPOLLOUT)
            return False
        if not connection.keep_alive:
            self._drop(connection)
            return False
        self._epoll.modify(connection.sock.fileno(), select.EPOLLIN)
        return True

    def _drop(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            connection.sock.close()

    def _close_idle(self) -> None:
        limit = time.monotonic() - self._idle_s
        while self._connections:
            oldest = next(iter(self._connections.values()))
            if oldest.last_active > limit:
                return
            self._drop(oldest)

    def _retry_pending(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [pending for pending in self._pending if pending.due <= now]
            self._pending = [pending for pending in self._pending if pending.due > now]
        for pending in due:
            if not self._stopping.is_set():
                self.serve(pending.address, pending.handler, pending.on_error)


def _handle(handler: Handler, request: Request) -> Response:
    """The handler's answer; a fault in it costs one request, not the server."""
    try:
        return handler(request)
    except Exception as error:  # noqa: BLE001 - whatever a handler raises, others must be served
        log.error("HTTP handler failed", err=error, path=request.path, at=origin(error))
        return Response(500, b"internal error; see the log\n")
