import http.client
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from proxy.runtime.http_server import HttpLoop


@dataclass
class FakeClock:
    """Time that moves only when told to; it starts at 2026-01-02T03:04:05Z."""

    start_ns: int = 1_767_323_045_000_000_000
    elapsed_ns: int = 0

    def wall_ns(self) -> int:
        return self.start_ns + self.elapsed_ns

    def monotonic_ns(self) -> int:
        return 1_000 + self.elapsed_ns

    def advance(self, seconds: float) -> None:
        self.elapsed_ns += int(seconds * 1_000_000_000)


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def fetch(
    port: int,
    path: str = "/",
    *,
    method: str = "GET",
    host: str = "127.0.0.1",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.read(), dict(response.getheaders()))
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def loop() -> Iterator[HttpLoop]:
    served = HttpLoop("test", retry_s=0.05)
    served.start()
    yield served
    served.stop()


@pytest.fixture(name="fetch")
def fetch_fixture() -> Callable[..., Answer]:
    return fetch


@pytest.fixture(name="free_port")
def free_port_fixture() -> Callable[[], int]:
    return free_port


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC during the test."""
    import time

    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()
