"""Reads netlink requests back: which elements a batch adds and deletes, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from proxy.backends.nftables.requests import Request
from proxy.netfilter.wire import Msg, attributes, iterate_attributes

_NAME = {Msg.NEWSET: 2, Msg.NEWCHAIN: 3, Msg.DELCHAIN: 3, Msg.NEWRULE: 2, Msg.DELRULE: 2}


class ElementRequest(NamedTuple):
    """One element that a request names; ``data`` is raw, ``end`` that of a range."""

    kind: Msg
    set_name: str
    key: bytes
    data: bytes
    end: bytes
    userdata: bytes


def text_of(value: memoryview | None) -> str:
    """A string attribute's text."""
    return bytes(value or b"").rstrip(b"\0").decode()


def name_in(request: Request) -> str:
    """The chain or set that a request is about; "" for none."""
    number = _NAME.get(request.kind, 2)
    return text_of(attributes(request.body).get(number))


def elements_of(requests: Iterable[Request]) -> Iterator[ElementRequest]:
    """Every element that is added or deleted, in the order of the requests."""
    for request in requests:
        if request.kind not in (Msg.NEWSETELEM, Msg.DELSETELEM):
            continue
        found = attributes(request.body)
        for _, raw in iterate_attributes(found.get(3, memoryview(b""))):
            element = attributes(raw)
            yield ElementRequest(
                request.kind,
                text_of(found.get(2)),
                _value(element.get(1)),
                bytes(element.get(2, b"")),
                _value(element.get(10)),
                bytes(element.get(6, b"")),
            )


def kinds(requests: Iterable[Request]) -> Counter[str]:
    """How many requests of each kind."""
    return Counter(request.kind.name for request in requests)


def element_changes(requests: Iterable[Request]) -> Counter[tuple[str, str]]:
    """How many elements are added to and deleted from each set."""
    return Counter((element.kind.name, element.set_name) for element in elements_of(requests))


def _value(attribute: memoryview | None) -> bytes:
    if attribute is None:
        return b""
    return bytes(attributes(attribute).get(1, b""))
