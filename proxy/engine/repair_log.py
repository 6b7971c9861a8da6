"""Tells the log who changes what is ours, without a line for each of a thousand changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.config.types import IPTABLES, IPVS, NFTABLES
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.model.addresses import IPFamily
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

QUIET_S = 10.0
_PLACES_NAMED = 5
_MESSAGES = {
    NFTABLES: "Another program changed the proxy's nftables table; it is restored",
    IPTABLES: "Another program changed the proxy's iptables rules; they are restored",
    IPVS: "Another program changed the proxy's virtual servers, ipsets or iptables rules; "
    "they are restored",
}


@dataclass(slots=True)
class _Untold:
    """Edits of one family since the last line; ``due`` is when the next line may be written."""

    due: float
    edits: int = 0
    # In the order in which they were met; the values mean nothing.
    programs: dict[str, None] = field(default_factory=dict)
    changes: dict[str, None] = field(default_factory=dict)
    places: dict[str, None] = field(default_factory=dict)

    def add(self, edit: ForeignEdit) -> None:
        self.edits += 1
        for known, new in (
            (self.programs, (edit.process or "unknown",)),
            (self.changes, edit.changes),
            (self.places, edit.places),
        ):
            for text in new:
                if len(known) < _PLACES_NAMED:
                    known[text] = None


class RepairLog:
    """
    Writes a family's first foreign edit at once, and those that follow summed up.

    *mode* is the proxy's; at most one line for each family is written in ten seconds.
    """

    def __init__(self, mode: str, monotonic: Callable[[], float]) -> None:
        self._message = _MESSAGES[mode]
        self._monotonic = monotonic
        self._families: dict[IPFamily, _Untold] = {}

    def note(self, edit: ForeignEdit) -> None:
        """Tell of an edit, now or with others."""
        untold = self._families.setdefault(edit.family, _Untold(float("-inf")))
        untold.add(edit)
        self.tell()

    def due(self) -> float:
        """Return the monotonic time of the next line; infinity when nothing is untold."""
        waiting = (untold.due for untold in self._families.values() if untold.edits)
        return min(waiting, default=float("inf"))

    def tell(self) -> None:
        """Write the lines that are due."""
        now = self._monotonic()
        for family, untold in self._families.items():
            if untold.edits and now >= untold.due:
                log.warning(
                    self._message,
                    ipFamily=family.value,
                    by=", ".join(untold.programs),
                    changes=", ".join(untold.changes),
                    where=", ".join(untold.places),
                    edits=untold.edits,
                )
                self._families[family] = _Untold(now + QUIET_S)
