"""What a removal did, could not do, and has still to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.kernel.command import CommandError

FAILURES = (OSError, CommandError)
"""What a kernel port raises; one of them ends one step of a removal, never the rest."""


@dataclass(slots=True)
class Outcome:
    """
    Short sentences for the log, in the order of events.

    Attributes:
        removed: what is gone; empty on a clean node.
        errors: what could not be read or removed, and why.
        remaining: what stays for now because connections use it; call again later.
    """

    removed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Append what another removal said."""
        self.removed += other.removed
        self.errors += other.errors
        self.remaining += other.remaining


def counted(number: int, noun: str) -> str:
    """Return ``1 chain``, ``3 chains`` or ``2 addresses``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
