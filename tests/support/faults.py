"""Misbehaviour to script the stub API server with, and what it is shown with."""

from __future__ import annotations

from tests.support import stub_objects
from tests.support.apiserver import ApiServer, Asked, Cut, Fault, Handler
from tests.support.stub_store import Stored


def status(code: int, message: str = "", **headers: str) -> Fault:
    """Refuse with a metav1.Status; ``Retry_After`` becomes the header Retry-After."""

    def fault(handler: Handler, asked: Asked) -> bool:
        handler.send_status(code, message, {k.replace("_", "-"): v for k, v in headers.items()})
        return True

    return fault


def body(data: bytes) -> Fault:
    """Answer 200 with these bytes."""

    def fault(handler: Handler, asked: Asked) -> bool:
        handler.send(200, data)
        return True

    return fault


def stream(*chunks: bytes, end: bool = True) -> Fault:
    """Stream these chunks and end in order, or cut the connection."""

    def fault(handler: Handler, asked: Asked) -> bool:
        handler.start_stream()
        for chunk in chunks:
            handler.send_chunk(chunk)
        if not end:
            raise Cut
        handler.end_stream()
        return True

    return fault


def put_service(api: ApiServer, name: str, **spec: object) -> Stored:
    """Store a Service with these fields in its spec."""
    obj = stub_objects.service(name)
    obj["spec"] |= spec
    return api.store.put("services", obj)


def added(stored: Stored) -> bytes:
    """Return the line that tells of its addition."""
    return b'{"type":"ADDED","object":' + stored.raw + b"}\n"
