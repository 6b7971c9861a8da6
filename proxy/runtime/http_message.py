"""
HTTP/1.1 messages without I/O: bytes of a connection in, requests out; responses in, bytes out.

Only what health probes, Prometheus and people with curl send: a request line, headers, and a body
of known length. Anything else is answered with the status that names the problem, and the
connection is closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class BadRequest(Exception):
    """The peer sent something that is no usable request; ``status`` is the answer's HTTP status."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request.

    ``path`` is decoded and without the query; ``query`` is raw; header names are in lower case;
    ``peer`` is the client's address, IPv4 in dotted form also on a dual-stack socket.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] | None = None
    peer: str = ""
    body: bytes = b""
    keep_alive: bool = True

    def header(self, name: str) -> str:
        """The header's value, several joined by commas, or an empty string."""
        return (self.headers or {}).get(name, "")


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; ``headers`` come after Content-Type, in their order."""

    status: int = 200
    body: bytes = b""
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Response]


def take_request(buffer: bytearray, peer: str) -> Request | None:
    """
    Remove one complete request from the front of *buffer* and return it.

    Returns:
        None, with *buffer* unchanged, while the request is incomplete.

    Raises:
        BadRequest: It never will be a request; the connection cannot be used any further.
    """
    end = buffer.find(b"\r\n\r\n")
    if end > MAX_HEAD_BYTES or (end < 0 and len(buffer) > MAX_HEAD_BYTES):
        raise BadRequest(431, f"request line and headers exceed {MAX_HEAD_BYTES} bytes")
    if end < 0:
        return None
    first, *lines = buffer[:end].decode("latin-1").lstrip("\r\n").split("\r\n")
    method, target, version = _request_line(first)
    headers = _headers(lines)
    length = _body_length(headers)
    start = end + 4
    if len(buffer) < start + length:
        return None
    body = bytes(buffer[start : start + length])
    del buffer[: start + length]
    path, _, query = target.partition("?")
    tokens = headers.get("connection", "").lower()
    keep = "close" not in tokens if version == "HTTP/1.1" else "keep-alive" in tokens
    return Request(method, unquote(path), query, headers, peer, body, keep)


def _request_line(line: str) -> tuple[str, str, str]:
    """Method, target in origin form, version."""
    words = line.split(" ")
    if len(words) != 3 or not words[0].isalpha() or not words[2].startswith("HTTP/1."):
        raise BadRequest(400, "the first line is no HTTP/1 request line")
    method, target, version = words
    if target.startswith("http://"):
        _, slash, path = target[len("http://") :].partition("/")
        target = slash + path
    return method, target or "/", version


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(400, "a header line has no name or no colon")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _body_length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise BadRequest(411, "a body needs a Content-Length")
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(400, "Content-Length is no number")
    if len(text) > 9 or int(text) > MAX_BODY_BYTES:
        raise BadRequest(413, f"the body exceeds {MAX_BODY_BYTES} bytes")
    return int(text)


def encode_response(response: Response, *, keep_alive: bool, head_only: bool = False) -> bytes:
    """Return the bytes of an answer; *head_only* leaves the body out, as HEAD wants it."""
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Content-Type: {response.content_type}",
        *(f"{name}: {value}" for name, value in response.headers),
        time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
        f"Content-Length: {len(response.body)}",
    ]
    if not keep_alive:
        lines.append("Connection: close")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    return head if head_only else head + response.body
