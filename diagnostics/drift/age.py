"""When the API objects behind a difference last changed, as far as they tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from diagnostics.fate.difference import Difference, Kind
from diagnostics.readers.objects import ClusterObjects
from proxy.model.endpoints import service_of, trigger_time_of

_OF_ENDPOINTS = frozenset({Kind.ENDPOINTS, Kind.PORT, Kind.WEIGHT, Kind.POLICY, Kind.MISSING})


def dated(found: Iterable[Difference], objects: ClusterObjects) -> Iterator[Difference]:
    """
    Yield differences with ``since`` filled in.

    A Service tells when it was created, an EndpointSlice also when what it follows last changed
    (annotation ``endpoints.kubernetes.io/last-change-trigger-time``).
    """
    created = {
        f"{one.metadata.namespace}/{one.metadata.name}": one.metadata.creation_timestamp or ""
        for one in objects.services or ()
    }
    changed: dict[str, str] = {}
    for one in objects.slices or ():
        name = f"{one.metadata.namespace}/{service_of(one)}"
        time = max(trigger_time_of(one), one.metadata.creation_timestamp or "")
        changed[name] = max(changed.get(name, ""), time)
    for difference in found:
        name = difference.service.partition(":")[0]
        times = [created.get(name, "")]
        if difference.kind in _OF_ENDPOINTS:
            times.append(changed.get(name, ""))
        yield replace(difference, since=max(times))
