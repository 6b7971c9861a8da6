"""What a comparison of the API's intentions with a node's kernel found."""

from __future__ import annotations

from dataclasses import dataclass, field

from diagnostics.fate.difference import Difference
from diagnostics.snapshot.parts import Gap


@dataclass(frozen=True, slots=True)
class DriftReport:
    """
    What a comparison found.

    Attributes:
        compared: how many service ports were looked at.
        notes: what is worth knowing and no difference.
        gaps: what could not be read.
        undetermined: why there is no answer, "" when there is one.
    """

    node: str
    mode: str
    compared: int = 0
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()
    undetermined: str = field(default="")
