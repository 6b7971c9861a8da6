"""A thread that collects what a monitor tells."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Self

from proxy.kernel.nft_monitor import ForeignEdit, NftMonitor


class Collected:
    """The edits that a monitor has reported so far; closes the monitor at the end."""

    def __init__(self, monitor: NftMonitor) -> None:
        self._monitor = monitor
        self._edits: list[ForeignEdit] = []
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def _collect(self) -> None:
        for edit in self._monitor.edits():
            self._edits.append(edit)

    def __iter__(self) -> Iterator[ForeignEdit]:
        return iter(list(self._edits))

    def __len__(self) -> int:
        return len(self._edits)

    @property
    def ended(self) -> bool:
        """Whether the monitor's iteration has ended."""
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._monitor.close()
        self._thread.join(5)
