"""
Input for ``iptables-restore --noflush``, with the service port behind each line.

A section is what stands between ``*table`` and ``COMMIT``: the kernel takes all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.backends.xtables import KUBE_PREFIX
from proxy.model.services import ServicePortName

_ADDED = (f"-A {KUBE_PREFIX}", f"-I {KUBE_PREFIX}")


class Line(NamedTuple):
    """One line, and the service port that caused it (None: nobody in particular)."""

    text: str
    origin: ServicePortName | None = None


COMMIT = Line("COMMIT")


@dataclass(slots=True)
class Section:
    """Lines for one table."""

    table: str
    lines: list[Line] = field(default_factory=list)

    def declare(self, chain: str, origin: ServicePortName | None = None) -> None:
        """Make a chain, or empty it if it is there."""
        self.lines.append(Line(f":{chain} - [0:0]", origin))

    def append(self, chain: str, rule: str, origin: ServicePortName | None = None) -> None:
        """Add a rule to the end of a chain."""
        self.lines.append(Line(f"-A {chain} {rule}", origin))

    def insert(self, chain: str, rule: str, origin: ServicePortName | None = None) -> None:
        """Put a rule on top of a chain."""
        self.lines.append(Line(f"-I {chain} {rule}", origin))

    def delete(self, chain: str, rule: str, origin: ServicePortName | None = None) -> None:
        """Remove the first rule that is equal."""
        self.lines.append(Line(f"-D {chain} {rule}", origin))

    def remove(self, chain: str, origin: ServicePortName | None = None) -> None:
        """Remove an empty chain that nothing leads to."""
        self.lines.append(Line(f"-X {chain}", origin))

    @property
    def rule_count(self) -> int:
        """How many rules it adds to chains that are not built in."""
        return sum(line.text.startswith(_ADDED) for line in self.lines)

    def __bool__(self) -> bool:
        return bool(self.lines)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a refused line stands: its section, and whom it belongs to."""

    section: int
    line: Line


def render(sections: Iterable[Section]) -> str:
    """Return the text of *sections*, which must not be empty."""
    parts = []
    for section in sections:
        parts.append(f"*{section.table}\n")
        parts += [f"{line.text}\n" for line in section.lines]
        parts.append("COMMIT\n")
    return "".join(parts)


def place_of(sections: Iterable[Section], number: int) -> Place | None:
    """Return what stands on line *number* (from 1) of the rendered text; None for ``*table``."""
    first = 2  # behind "*table"
    for index, section in enumerate(sections):
        if first <= number < first + len(section.lines):
            return Place(index, section.lines[number - first])
        first += len(section.lines) + 2
        if number == first - 2:
            return Place(index, COMMIT)
    return None
