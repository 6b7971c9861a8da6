"""
Running one program in a container through the API: the exec subresource over a websocket.

The server sends frames whose first byte is a channel: 1 stdout, 2 stderr, 3 the end as a
metav1.Status; v5.channel.k8s.io adds 255, a channel's end. The Kubernetes client makes the
connection; frames are read here, because its own buffers grow by copying and it takes a stream
that broke off for one that ended. What was not followed by a Status is incomplete and is refused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from proxy.kernel.command import PACKAGES
from proxy.sources.credentials import Credentials
from proxy.sources.decode import decode_status
from proxy.sources.failures import ApiError, ConnectionFailedError, GarbledError

MOST_BYTES = 512 << 20
"""What one program may print; no ruleset is that long."""
_STDOUT, _STDERR, _END = 1, 2, 3
_MOST_STDERR_BYTES = 1 << 16
_NOT_FOUND = 127
# What container runtimes say; the first two are runc's, as crun says the last.
_ABSENT = ("executable file not found", "no such file or directory", "not found in $path")


@dataclass(frozen=True, slots=True)
class Container:
    """Where a program is run."""

    namespace: str
    pod: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}"


@dataclass(frozen=True, slots=True)
class Ran:
    """
    What a program printed; ``code`` is its exit code, ``message`` what the runtime said of it.

    ``absent`` says that it could not be started because the image does not have it.
    """

    stdout: bytes
    stderr: str
    code: int
    message: str = ""

    @property
    def absent(self) -> bool:
        """Whether the image lacks the program."""
        said = f"{self.message} {self.stderr} {self.stdout[:1000].decode('utf-8', 'replace')}"
        return self.code in (126, _NOT_FOUND) and any(text in said.lower() for text in _ABSENT)

    def why(self, argv: Sequence[str]) -> str:
        """Return why it failed, in one line."""
        if self.absent:
            package = PACKAGES.get(argv[0])
            return f"the image has no {argv[0]}" + (f" (package {package})" if package else "")
        said = " ".join((self.stderr.strip() or self.message).split())[:400]
        return f"{' '.join(argv)} ended with exit code {self.code}" + (f": {said}" if said else "")


def run_in(
    credentials: Credentials, container: Container, argv: Sequence[str], deadline: float
) -> Ran:
    """
    Run *argv*, without a shell, and return when it has ended.

    Args:
        credentials: Who asks, and where the server is.
        container: Where.
        argv: The program and its arguments.
        deadline: When to give up, a time.monotonic(). Not obeyed while the server takes long to
            accept the connection.

    Raises:
        ApiError: The server does not let us, cannot reach the node, or there is no such container.
        ConnectionFailedError: No connection, it broke off, or the deadline is over.
        GarbledError: It speaks no such protocol, or sends more than ``MOST_BYTES``.
        CredentialsError, ConfigurationError: As ``Credentials.current``.
    """
    from websocket import WebSocketBadStatusException, WebSocketException

    try:
        client = _connect(credentials, container, argv)
    except WebSocketBadStatusException as error:
        raise _refusal(error) from error
    except (WebSocketException, OSError, ValueError) as error:
        raise ConnectionFailedError(f"exec in {container}: {_plain(error)}") from error
    try:
        return _read(client.sock, deadline)
    except (WebSocketException, OSError) as error:
        raise ConnectionFailedError(
            f"{' '.join(argv)} in {container}: {_plain(error)}; what came before was dropped"
        ) from error
    finally:
        client.sock.shutdown()


def _connect(credentials: Credentials, container: Container, argv: Sequence[str]) -> Any:
    from websocket import WebSocketBadStatusException

    access = credentials.current()
    try:
        return _open(access, container, argv)
    except WebSocketBadStatusException as error:
        if error.status_code != 401:
            raise
        credentials.reject(access)
    return _open(credentials.current(), container, argv)


def _open(access: Any, container: Container, argv: Sequence[str]) -> Any:
    from kubernetes.stream import ws_client

    client: Any = ws_client  # it has no types
    path = f"/api/v1/namespaces/{quote(container.namespace)}/pods/{quote(container.pod)}/exec"
    query = [("container", container.name), ("stdout", "true"), ("stderr", "true")]
    url = client.get_websocket_url(f"{access.host}{path}", [("command", list(argv)), *query])
    headers = {name.lower(): value for name, value in access.headers.items()}
    # capture_all is off: it would keep everything a second time.
    return client.WSClient(access.configuration, url, headers, False, binary=True)


def _refusal(error: Any) -> ApiError | ConnectionFailedError:
    body = error.resp_body if isinstance(error.resp_body, bytes) else b""
    if error.status_code >= 400:
        return decode_status(body, error.status_code)
    return ConnectionFailedError(f"the API server answered {error.status_code} instead of 101")


def _read(sock: Any, deadline: float) -> Ran:
    from websocket import ABNF, WebSocketTimeoutException

    chunks: list[bytes] = []
    errors = bytearray()
    total = 0
    end: bytes | None = None
    while end is None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise WebSocketTimeoutException("it did not end in time")
        sock.settimeout(remaining)
        opcode, frame = sock.recv_data_frame(True)
        if opcode == ABNF.OPCODE_CLOSE:
            raise ConnectionFailedError("the stream ended before the program; it was dropped")
        if opcode not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or not frame.data:
            continue
        channel, data = frame.data[0], frame.data[1:]
        if channel == _STDOUT:
            chunks.append(data)
            total += len(data)
        elif channel == _STDERR:
            errors += data[: max(0, _MOST_STDERR_BYTES - len(errors))]
        elif channel == _END:
            end = data
        if total > MOST_BYTES:
            raise GarbledError(f"more than {MOST_BYTES} bytes of output")
    return _ran(b"".join(chunks), errors.decode("utf-8", "replace"), end)


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] = []


class _Status(msgspec.Struct):
    status: str = ""
    reason: str = ""
    message: str = ""
    code: int = 0
    details: _Details | None = None


def _ran(stdout: bytes, stderr: str, end: bytes) -> Ran:
    try:
        status = msgspec.json.decode(end, type=_Status)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise GarbledError(f"the end of the stream is no Status: {error}") from error
    if status.status == "Success":
        return Ran(stdout, stderr, 0)
    causes = status.details.causes if status.details else []
    codes = [int(one.message) for one in causes if one.message.isdecimal()]
    if codes:
        return Ran(stdout, stderr, codes[0], status.message)
    if any(text in status.message.lower() for text in _ABSENT):
        return Ran(stdout, stderr, _NOT_FOUND, status.message)
    raise ApiError(status.code, status.reason, status.message)


def _plain(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
