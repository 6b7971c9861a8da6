"""What a reader could not make sense of; it goes on with the next line."""

from __future__ import annotations

from typing import NamedTuple

_EXCERPT_CHARS = 80


class LineProblem(NamedTuple):
    """A line that was skipped; ``line`` counts from 1, 0 when the place is not known."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}" if self.line else self.what


def not_understood(line: int, kind: str, text: str) -> LineProblem:
    """Return the problem of a line that is not what *kind* prints."""
    shown = text if len(text) <= _EXCERPT_CHARS else f"{text[:_EXCERPT_CHARS]}…"
    return LineProblem(line, f"not a line of {kind}: {shown!r}")
