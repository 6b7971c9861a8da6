"""Which Pods EndpointSlices say are behind their addresses; the proxy has no use for that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import msgspec

from diagnostics.readers.objects import documents, is_json
from proxy.model.objects import Struct
from proxy.sources.decode import UNDECODABLE


class _Ref(Struct, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""


class _Endpoint(Struct, frozen=True):
    addresses: list[str] | None = None
    target_ref: _Ref | None = None


class _Slice(Struct, frozen=True):
    kind: str = ""
    endpoints: list[_Endpoint] | None = None


class _List(Struct, frozen=True):
    kind: str = ""
    items: list[_Slice] | None = None


def read_target_refs(files: Iterable[bytes]) -> dict[str, str]:
    """Return ``namespace/name`` of Pods by address; what cannot be read is left out."""
    return {
        address: f"{endpoint.target_ref.namespace}/{endpoint.target_ref.name}"
        for data in files
        for found in _slices(data)
        for endpoint in found.endpoints or ()
        if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod"
        for address in endpoint.addresses or ()
    }


def _slices(data: bytes) -> Iterator[_Slice]:
    if is_json(data):
        with suppress(*UNDECODABLE):
            whole = msgspec.json.decode(data, type=_List)
            if whole.items is not None:
                yield from whole.items
                return
    for value in documents(data):
        with suppress(*UNDECODABLE):
            yield msgspec.convert(value, _Slice)
