"""Columns of plain text, for tables too long to lay out with colours: a node has 40,000 rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

_GAP = "   "


def columns(rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> Iterator[str]:
    """
    Yield a line for each row, its columns as wide as their widest text, as kubectl prints them.

    Args:
        rows: Texts; all rows have the same length. The first one is the heading.
        right: Numbers, from 0, of the columns that are aligned on the right.
    """
    kept = list(rows)
    widths = [max(map(len, column)) for column in zip(*kept, strict=True)]
    for row in kept:
        cells = [
            text.rjust(width) if at in right else text.ljust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield _GAP.join(cells).rstrip()
