"""The statements of a rule, from its text or from what ``nft -j`` printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from diagnostics.nftables.data_types import Json
from diagnostics.nftables.normalise import normalise
from diagnostics.nftables.render import MALFORMED, as_json
from diagnostics.nftables.statements import parse_statements


def read_statements(source: str | Iterable[Json], family: str) -> tuple[Json, ...]:
    """
    Return normal statements; whatever cannot be read is ``{"opaque": text}``.

    ``nft -j`` prints a statement that it has no JSON for as a string of nft text.
    """
    found = parse_statements(source) if isinstance(source, str) else _expanded(source)
    return tuple(_safely(statement, family) for statement in found)


def _expanded(statements: Iterable[Json]) -> Iterator[Json]:
    for statement in statements:
        if isinstance(statement, str):
            yield from parse_statements(statement)
        else:
            yield statement


def _safely(statement: Json, family: str) -> Json:
    try:
        return normalise(statement, family)
    except MALFORMED:
        return {"opaque": as_json(statement)}
