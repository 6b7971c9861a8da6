"""
HTTP to the API server: JSON requests and line streams over the Kubernetes client's own pool.

Its urllib3 pool carries TLS, proxy and client certificate settings. Requests go to the pool
directly, since the client's models cost more than everything else this process keeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode

import msgspec

from proxy.sources.credentials import Access, Credentials
from proxy.sources.decode import decode_status
from proxy.sources.failures import ApiError, ConnectionFailedError, GarbledError

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
# etcd takes objects up to 1.5 MB; a longer line is no watch event.
LONGEST_LINE_BYTES = 16 << 20
_ERROR_BODY_BYTES = 1 << 16
_READ_BYTES = 1 << 16

Observe = Callable[[str, str, str, float], None]
ObserveSizes = Callable[[str, str, int, int], None]  # method, host, bytes sent, bytes received
"""Receives HTTP method, host, status code (``<error>`` without one) and seconds to the headers."""


def _ignore(*_: object) -> None:
    """Nobody counts requests."""


class Response:
    """An answer whose body has not been read; ``abort`` may be called from another thread."""

    def __init__(self, raw: Any, observe_size: Callable[[int], None]) -> None:
        self._raw = raw
        self._observe_size = observe_size
        self.finished = False
        """True once everything was read, so that the connection can be used again."""

    def body(self) -> bytearray:
        """
        Return the whole body.

        Raises:
            ConnectionFailedError: It broke off.
        """
        whole = bytearray()
        with _connection_errors():
            for chunk in self._chunks():
                whole += chunk
        self._observe_size(len(whole))
        return whole

    def lines(self) -> Iterator[tuple[bytes, float]]:
        """
        Yield each line as soon as its last byte is there, and when that was (time.monotonic()).

        Raises:
            ConnectionFailedError: The stream broke off; half a line at its end is dropped.
            GarbledError: A line does not end.
        """
        pending = b""
        with _connection_errors():
            for chunk in self._chunks():
                received = time.monotonic()
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield line, received
                if len(pending) > LONGEST_LINE_BYTES:
                    raise GarbledError(f"a line of more than {LONGEST_LINE_BYTES} bytes")
        if pending:
            raise ConnectionFailedError("the stream ended in the middle of a line")

    def _chunks(self) -> Iterator[bytes]:
        """Yield what arrives as it arrives; urllib3's own reads wait until a buffer is full."""
        if self._raw.chunked:
            yield from self._raw.read_chunked()
        else:
            yield from iter(lambda: self._raw.read1(_READ_BYTES), b"")
        self.finished = True

    def abort(self) -> None:
        """End a read that is going on in another thread, as if the server had closed."""
        try:
            self._raw.shutdown()
        except (OSError, ValueError, RuntimeError):
            return  # it is over already


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Turn what urllib3 and the socket raise into ConnectionFailedError, in plain words."""
    from urllib3.exceptions import HTTPError

    try:
        yield
    # AttributeError: http.client reads on after abort() closed its file.
    except (HTTPError, OSError, HTTPException, ValueError, AttributeError) as error:
        raise ConnectionFailedError(_plain(error)) from error


def _plain(error: BaseException) -> str:
    """Return the innermost reason: "Connection refused", not the chain that led there."""
    while (inner := getattr(error, "reason", None) or error.__cause__) is not None:
        if not isinstance(inner, BaseException):
            break
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    # urllib3 puts its connection object before the text.
    return str(error).rpartition("object at 0x")[2].partition(": ")[2] or str(error)


class Client:
    """
    Requests to one API server; thread-safe.

    Args:
        credentials: Who we are; renewed here after a 401.
        user_agent: Names us in the audit log, such as ``kpctl/0.1.0``.
        observe: Told of every request, for the ``rest_client`` metrics.
        observe_sizes: Told the body sizes of each request and its answer; not of streams.
    """

    def __init__(
        self,
        credentials: Credentials,
        user_agent: str,
        observe: Observe | None = None,
        observe_sizes: ObserveSizes | None = None,
    ) -> None:
        self._credentials = credentials
        self._observe = observe or _ignore
        self._observe_sizes = observe_sizes or _ignore
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": user_agent,
        }
        self._host = ""

    @property
    def host(self) -> str:
        """The server's URL; empty until the credentials were loaded."""
        return self._host

    @contextmanager
    def get(
        self, path: str, params: dict[str, str], read_timeout_s: float = READ_TIMEOUT_S
    ) -> Iterator[Response]:
        """
        Ask, and yield the answer; its connection is released or closed afterwards.

        Raises:
            ApiError: Status 400 or more.
            ConnectionFailedError: No answer.
            CredentialsError, ConfigurationError: As ``Credentials.current``.
        """
        raw = self._request("GET", f"{path}?{urlencode(params)}", None, read_timeout_s)
        response = Response(
            raw, lambda size: self._observe_sizes("GET", _netloc(self._host), 0, size)
        )
        try:
            yield response
        finally:
            if response.finished:
                raw.release_conn()
            else:
                raw.close()

    def post(self, path: str, body: object) -> None:
        """
        Create the object *body*; raises as ``get``.

        The answer is read and dropped.
        """
        data = msgspec.json.encode(body)
        raw = self._request("POST", path, data, READ_TIMEOUT_S)
        received = int(raw.headers.get("Content-Length", 0))
        self._observe_sizes("POST", _netloc(self._host), len(data), received)
        with _connection_errors():
            raw.drain_conn()
            raw.release_conn()

    def _request(self, method: str, target: str, body: bytes | None, read_timeout_s: float) -> Any:
        access = self._credentials.current()
        try:
            return self._send(access, method, target, body, read_timeout_s)
        except ApiError as error:
            if error.status != 401:
                raise
            # The token may have been replaced in its file, or ended before its time.
            self._credentials.reject(access)
        access = self._credentials.current()
        try:
            return self._send(access, method, target, body, read_timeout_s)
        except ApiError as error:
            if error.status == 401:
                self._credentials.reject(access)
            raise

    def _send(
        self, access: Access, method: str, target: str, body: bytes | None, read_timeout_s: float
    ) -> Any:
        from urllib3 import Timeout

        self._host = access.host
        headers = self._headers | access.headers
        if body is not None:
            headers["Content-Type"] = "application/json"
        timeout = Timeout(connect=CONNECT_TIMEOUT_S, read=read_timeout_s)
        started = time.monotonic()
        code = "<error>"
        try:
            with _connection_errors():
                raw = access.pool.request(
                    method,
                    access.host + target,
                    body=body,
                    headers=headers,
                    timeout=timeout,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
            code = str(raw.status)
        finally:
            self._observe(method, _netloc(access.host), code, time.monotonic() - started)
        if raw.status >= 400:
            raise _error_of(raw)
        return raw


def _error_of(raw: Any) -> ApiError:
    with _connection_errors():
        body = raw.read(_ERROR_BODY_BYTES)
    raw.close()
    retry_after = raw.headers.get("Retry-After", "")
    return decode_status(body, raw.status, float(retry_after) if retry_after.isdecimal() else 0.0)


def _netloc(host: str) -> str:
    return host.partition("://")[2] or host
