"""Where the parts of a snapshot come from; a source is asked for each part at most once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from diagnostics.snapshot.parts import Gap, Part, gap


@dataclass(frozen=True, slots=True)
class Content:
    """One file of a part, or what one command printed; ``note`` says what was odd about it."""

    name: str
    data: bytes
    note: str = ""


class PartSource(Protocol):
    """One node's parts."""

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        """
        Return the contents of a part, never empty, or why there are none.

        Several contents are files of one kind: lists of objects, routes of several tables.
        """


@dataclass(frozen=True, slots=True)
class MemorySource:
    """Parts that were read before, such as those of an archive."""

    parts: dict[Part, tuple[Content, ...]]
    where: str
    """Names the place in gaps."""

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        """As ``PartSource.read``."""
        found = self.parts.get(part)
        return found if found else gap(part, f"not in {self.where}")
