"""Stale entries as they are shown: UDP first, by what they carry, with names and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diagnostics.conntrack.model import Detail, Table
from diagnostics.conntrack.shares import Naming
from diagnostics.conntrack.survey import UDP, StaleEntry
from diagnostics.readers.conntrack import Flow
from proxy.conntrack.stale import Reason


@dataclass(frozen=True, slots=True)
class StaleRow:
    """
    A stale entry.

    Attributes:
        raw: as its table lists it, which is what a deletion needs.
        service, owner, client: names, "" where there are none.
        rate: bytes per second, None when that is not known.
        measured: whether the rate is that of just now, else the mean of the entry's whole life.
    """

    reason: Reason
    detail: Detail
    raw: bytes
    service: str
    owner: str
    client: str
    rate: float | None = None
    measured: bool = False

    @property
    def flow(self) -> Flow:
        """The entry."""
        return self.detail.flow


def stale_rows(entries: Sequence[StaleEntry], table: Table, naming: Naming) -> list[StaleRow]:
    """Return the rows: UDP, then others; those that carry most first."""
    rows = []
    for entry in entries:
        detail = table.detail(entry.raw)
        if detail is not None:
            rows.append(_row(entry, detail, naming))
    return in_order(rows)


def in_order(rows: Sequence[StaleRow]) -> list[StaleRow]:
    """Return rows with UDP first, and those that carry most first."""
    return sorted(
        rows,
        key=lambda row: (
            row.flow.protocol != UDP,
            row.flow.protocol,
            -(row.rate or 0.0),
            -(row.detail.bytes or 0),
        ),
    )


def _row(entry: StaleEntry, detail: Detail, naming: Naming) -> StaleRow:
    return StaleRow(
        entry.reason,
        detail,
        entry.raw,
        naming.service(entry.protocol, entry.called),
        naming.owner(detail.flow.reply.source),
        naming.owner(detail.flow.original.source),
        detail.rate,
    )
