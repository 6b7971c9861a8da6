"""
Kernel requests for the table: netlink bodies together with the service ports that caused them.

A request that the kernel refuses is traced back to its origins, so that one bad element costs one
service port and not the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from proxy.backends.nftables.elements import ElementValue
from proxy.backends.nftables.layout import TABLE, TABLE_COMMENT
from proxy.model.services import ServicePortName
from proxy.netfilter.fields import comment_userdata
from proxy.netfilter.objects import Chain, NamedSet
from proxy.netfilter.statements import Verdict
from proxy.netfilter.wire import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    Msg,
    attr,
    nested,
    string,
    u32,
)

# Attributes carry their length in 16 bits; a list of elements stays well below.
_LIST_BYTES = 48 * 1024
_TABLE = string(1, TABLE)


class Request(NamedTuple):
    """One nf_tables message without its headers; no origins means the table's fixed part."""

    kind: Msg
    flags: int
    body: bytes
    origins: tuple[ServicePortName, ...] = ()


class Change(NamedTuple):
    """One element to add or delete; ``origin`` is None where several service ports share it."""

    key: bytes
    value: ElementValue
    origin: ServicePortName | None


def add_table() -> Request:
    """Return the request that makes the table; one that exists stays as it is."""
    body = _TABLE + u32(2, 0) + attr(6, comment_userdata(TABLE_COMMENT))
    return Request(Msg.NEWTABLE, NLM_F_CREATE, body)


def delete_table() -> Request:
    """Return the request that deletes the table with everything in it."""
    return Request(Msg.DELTABLE, 0, _TABLE)


def add_set(item: NamedSet, identifier: int) -> Request:
    """Return the request that makes a set or map; *identifier* is unique within the batch."""
    return Request(Msg.NEWSET, NLM_F_CREATE, item.body(TABLE, identifier))


def flush_set(name: str) -> Request:
    """Return the request that deletes all elements of a set."""
    return Request(Msg.DELSETELEM, 0, _TABLE + string(2, name))


def add_chain(chain: Chain) -> Request:
    """Return the request that makes a chain, without its rules."""
    return Request(Msg.NEWCHAIN, NLM_F_CREATE, chain.body(TABLE))


def delete_chain(name: str) -> Request:
    """Return the request that deletes an unused chain."""
    return Request(Msg.DELCHAIN, 0, _TABLE + string(3, name))


def delete_set(name: str) -> Request:
    """Return the request that deletes a set or map that no rule uses, with its elements."""
    return Request(Msg.DELSET, 0, _TABLE + string(2, name))


def flush_rules(chain: str = "") -> Request:
    """Return the request that deletes the rules of a chain, or of the whole table."""
    return Request(Msg.DELRULE, 0, _TABLE + (string(2, chain) if chain else b""))


def add_rules(chain: Chain) -> Iterator[Request]:
    """Yield the requests that append a chain's rules."""
    for rule in chain.rules:
        body = rule.body(TABLE, chain.name)
        yield Request(Msg.NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body)


def add_elements(item: NamedSet, changes: Iterable[Change], comments: bool) -> Iterator[Request]:
    """Yield the requests that add elements, many to a message."""
    yield from _element_requests(Msg.NEWSETELEM, NLM_F_CREATE, item, changes, comments)


def delete_elements(item: NamedSet, changes: Iterable[Change]) -> Iterator[Request]:
    """Yield the requests that delete elements."""
    yield from _element_requests(Msg.DELSETELEM, 0, item, changes, False)


def _element_requests(
    kind: Msg, flags: int, item: NamedSet, changes: Iterable[Change], comments: bool
) -> Iterator[Request]:
    head = _TABLE + string(2, item.name)
    elements: list[bytes] = []
    origins: dict[ServicePortName, None] = {}
    size = 0
    for change in changes:
        encoded = _encode(item, change, with_data=kind is Msg.NEWSETELEM, comments=comments)
        if size + len(encoded) > _LIST_BYTES:
            yield Request(kind, flags, head + nested(3, *elements), tuple(origins))
            elements, origins, size = [], {}, 0
        elements.append(encoded)
        size += len(encoded)
        if change.origin is not None:
            origins[change.origin] = None
    if elements:
        yield Request(kind, flags, head + nested(3, *elements), tuple(origins))


def _encode(item: NamedSet, change: Change, *, with_data: bool, comments: bool) -> bytes:
    key, value, origin = change
    if item.interval and isinstance(value, bytes):
        return nested(1, nested(1, attr(1, key)), nested(10, attr(1, value)))
    if not with_data or not value:
        return _frame(len(key), 0)[0] + key
    if isinstance(value, bytes):
        head, middle = _frame(len(key), len(value))
        return head + key + middle + value
    data = _verdict_data(value)
    if comments and origin is not None:
        data += attr(6, comment_userdata(str(origin)))
    return _list_element(len(key), len(data)) + key + data


@lru_cache(maxsize=64)
def _frame(key_length: int, data_length: int) -> tuple[bytes, bytes]:
    """Return what stands before an element's key and between key and data (multiples of four)."""
    if not data_length:
        return _list_element(key_length, 0), b""
    middle = nested(2, attr(1, bytes(data_length)))[:8]
    return _list_element(key_length, 8 + data_length), middle


@lru_cache(maxsize=1024)
def _list_element(key_length: int, rest_length: int) -> bytes:
    """Return the headers of a list element, its key and the key's value."""
    return nested(1, nested(1, attr(1, bytes(key_length))), bytes(rest_length))[:12]


@lru_cache(maxsize=4096)
def _verdict_data(verdict: Verdict) -> bytes:
    return verdict.data(2)
