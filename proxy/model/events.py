"""
What a source tells the engine: objects that appeared, changed or went away.

Sources decode and filter as the API's selectors do; they know nothing about what the objects
mean. The engine takes these from one queue, in order.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from proxy.model.objects import ApiObject


class Resource(enum.Enum):
    """The kinds a proxy follows; the value is the kind's name in the API."""

    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    NODE = "Node"
    SERVICE_CIDR = "ServiceCIDR"


@dataclass(frozen=True, slots=True)
class Upserted:
    """An object was added or modified; ``received`` is time.monotonic() when it arrived."""

    obj: ApiObject
    received: float = 0.0


@dataclass(frozen=True, slots=True)
class Removed:
    """An object is gone, or no longer matches the source's selectors."""

    resource: Resource
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object could not be decoded; the previous version, if any, stays in force."""

    resource: Resource
    namespace: str
    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """
    A complete listing: every object of *resource* that exists, and no other.

    Sent after a first list and after each relist; the store removes what is missing. An object
    that exists but could not be decoded is in ``objects`` as Unreadable, and is kept as it was.
    ``objects`` may decode while it is read, so that a large listing is never held in decoded form.
    """

    resource: Resource
    objects: Iterable[ApiObject | Unreadable]


SourceEvent = Upserted | Removed | Replaced | Unreadable
