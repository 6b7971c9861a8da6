"""Removal of the table of nftables mode, which kpctl and kube-proxy name alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.backends.nftables.layout import TABLE
from proxy.backends.nftables.requests import delete_table
from proxy.engine.cleanup.outcome import Outcome
from proxy.kernel.nftables import KernelRequest


class TablePort(Protocol):
    """One family's nf_tables; both methods raise OSError."""

    def table_comment(self, table: str, /) -> str | None:
        """Return a table's comment, None when there is no such table."""

    def apply(self, requests: Sequence[KernelRequest], /) -> float:
        """Make one transaction."""


def remove_nftables(port: TablePort) -> Outcome:
    """Delete the table ``kube-proxy`` of one family, if it is there."""
    outcome = Outcome()
    try:
        if port.table_comment(TABLE) is not None:
            port.apply([delete_table()])
            outcome.removed.append(f"nftables table {TABLE}")
    except OSError as error:
        outcome.errors.append(f"nftables table {TABLE}: {error}")
    return outcome
