"""
Bytes of the API → objects, so that one bad object costs only itself.

An event is decoded in one typed pass, which is what nearly always succeeds; the items of a list
are taken one by one. Values are not judged here: port 99999 is an integer, and that is the
model's affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from proxy.model.events import Resource, Unreadable
from proxy.model.objects import KINDS, ApiObject, Struct
from proxy.sources.failures import ApiError, GarbledError

T = TypeVar("T")
ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_EXCERPT_BYTES = 60


class ListMeta(Struct, frozen=True):
    """``metadata`` of a list; ``continue_token`` is empty on the last page."""

    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


class _Page(Struct, Generic[T], frozen=True):
    metadata: ListMeta
    items: list[T] | None = None


class _Event(Struct, Generic[T], frozen=True):
    type: str
    object: T


class _NameMeta(Struct, frozen=True):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Named(Struct, frozen=True):
    metadata: _NameMeta


class _Status(Struct, frozen=True):
    """A metav1.Status, what the API server sends to tell of an error."""

    code: int = 500
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its items still undecoded, and how to go on."""

    meta: ListMeta
    items: list[msgspec.Raw]


class Listing:
    """
    The objects of a list, decoded one by one each time they are read.

    Ten thousand decoded objects take 30 MB and leave holes when they go; undecoded they are one
    block of memory that is given back.
    """

    def __init__(self, decoder: ResourceDecoder, items: Sequence[msgspec.Raw]) -> None:
        self._decoder = decoder
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[ApiObject | Unreadable]:
        return map(self._decoder.decode_object, self._items)


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """
    One line of a watch.

    ``obj`` is an object that changed, an ``Unreadable`` one, or None for a bookmark;
    ``resource_version`` is empty when the line did not tell one.
    """

    type: str
    obj: ApiObject | Unreadable | None
    resource_version: str


_STATUS = msgspec.json.Decoder(_Status)
_RAW_PAGE = msgspec.json.Decoder(_Page[msgspec.Raw])
_RAW_EVENT = msgspec.json.Decoder(_Event[msgspec.Raw])
_NAMED = msgspec.json.Decoder(_Named)


class ResourceDecoder:
    """Decoders of one resource, built once."""

    def __init__(self, resource: Resource) -> None:
        kind: Any = KINDS[resource.value]
        self.resource = resource
        self._object: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        self._event: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Event[kind])

    def decode_object(self, raw: bytes | msgspec.Raw) -> ApiObject | Unreadable:
        """Return the object, or what is wrong with it; never raises."""
        try:
            obj: ApiObject = self._object.decode(raw)
        except UNDECODABLE as error:
            meta = _name_of(raw)
            return Unreadable(self.resource, meta.namespace, meta.name, describe(error))
        if not obj.metadata.name:
            return Unreadable(self.resource, obj.metadata.namespace, "", "metadata.name: missing")
        return obj

    def decode_page(self, body: bytes | bytearray) -> Page:
        """
        Return the page in *body*.

        Raises:
            GarbledError: The body is no list of objects at all.
        """
        try:
            page = _RAW_PAGE.decode(body)
        except msgspec.ValidationError as error:
            raise GarbledError(f"not a list of objects: {describe(error)}") from error
        except UNDECODABLE as error:
            raise GarbledError(f"{describe(error)} in a list of {len(body)} bytes") from error
        return Page(page.metadata, page.items or [])

    def decode_event(self, line: bytes) -> WatchEvent:
        """
        Return the event in one *line* of a watch.

        Raises:
            GarbledError: The line is no watch event.
            ApiError: It is an ERROR event.
        """
        try:
            event = self._event.decode(line)
        except msgspec.ValidationError:
            return self._decode_other(line)
        except UNDECODABLE as error:
            raise GarbledError(f"{describe(error)} in {_excerpt(line)}") from error
        meta = event.object.metadata
        if event.type in (ADDED, MODIFIED, DELETED) and meta.name:
            return WatchEvent(event.type, event.object, meta.resource_version)
        return self._decode_other(line)

    def _decode_other(self, line: bytes) -> WatchEvent:
        """Bookmarks, errors and unreadable objects."""
        try:
            event = _RAW_EVENT.decode(line)
            if event.type == "ERROR":
                status = _STATUS.decode(event.object)
                raise ApiError(status.code, status.reason, status.message)
        except UNDECODABLE as error:
            raise GarbledError(f"{describe(error)} in {_excerpt(line)}") from error
        version = _name_of(event.object).resource_version
        if event.type == "BOOKMARK":
            return WatchEvent(event.type, None, version)
        if event.type not in (ADDED, MODIFIED, DELETED):
            raise GarbledError(f"unknown event type {event.type!r} in {_excerpt(line)}")
        return WatchEvent(event.type, self.decode_object(event.object), version)


def decode_status(body: bytes, status: int, retry_after_s: float = 0.0) -> ApiError:
    """Return the error an HTTP response of *status* stands for; *body* may be anything."""
    try:
        told = _STATUS.decode(body)
    except UNDECODABLE:
        text = body[:200].decode("utf-8", "replace").strip()
        return ApiError(status, "", text, retry_after_s)
    return ApiError(status, told.reason, told.message, retry_after_s)


def describe(error: Exception) -> str:
    """Return msgspec's complaint as ``path: what is wrong``, without its ``$.`` and back-ticks."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    what, _, path = str(error).replace("`", "").replace(" | null", "").partition(" - at $")
    place = path.removeprefix(".")
    return f"{place}: {what}" if place else what


def _name_of(raw: bytes | msgspec.Raw) -> _NameMeta:
    try:
        return _NAMED.decode(raw).metadata
    except UNDECODABLE:
        return _NameMeta()


def _excerpt(line: bytes) -> str:
    text = line[:_EXCERPT_BYTES].decode("utf-8", "replace")
    return f"a line of {len(line)} bytes: {text!r}"
