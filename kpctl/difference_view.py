"""Differences on a terminal: like ones together, each with the rule that proves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import RenderableType
from rich.text import Text

from diagnostics.fate.difference import Difference, Kind

_MOST_ALIKE = 3
_MOST_CITED = 2


class Words(NamedTuple):
    """How a comparison calls its kinds of differences, its two sides, and the age of one."""

    headings: Mapping[Kind, str]
    before: str
    after: str
    since: str


def entries(differences: Sequence[Difference], words: Words) -> Iterator[RenderableType]:
    """Yield what to print, in the order of the headings."""
    for kind, heading in words.headings.items():
        found = [one for one in differences if one.kind is kind]
        if found:
            yield Text(f"{heading} ({len(found)})", style="bold red")
            for alike in _grouped(found):
                for one in alike[:_MOST_ALIKE]:
                    yield from _entry(one, words)
                if len(alike) > _MOST_ALIKE:
                    yield Text(f"  … and {len(alike) - _MOST_ALIKE} more alike", style="dim")


def _grouped(found: Sequence[Difference]) -> Iterator[list[Difference]]:
    """Yield differences of Services that look alike together; those of the node one by one."""
    groups: dict[object, list[Difference]] = {}
    for one in found:
        key: object = id(one)
        if one.service:
            key = one.family, one.clients, _verb(one.expected), _verb(one.actual)
        groups.setdefault(key, []).append(one)
    yield from groups.values()


def _verb(text: str) -> str:
    """Return the words before the first address."""
    words = text.split()
    return " ".join(words[: next((n for n, word in enumerate(words) if word[0].isdigit()), 3)])


def _entry(one: Difference, words: Words) -> Iterator[Text]:
    line = Text("  ")
    line.append(one.service or "the whole node", style="bold")
    line.append(f"  {', '.join(one.subject)}")
    if one.family:
        line.append(f"  {one.family}", style="dim")
    yield line
    width = max(len(words.before), len(words.after)) + 1
    yield Text(f"    {words.before + ':':{width}} {one.expected}")
    yield Text(f"    {words.after + ':':{width}} {one.actual}")
    if one.clients:
        yield Text(f"    seen by {', '.join(one.clients)}", style="dim")
    for text in one.evidence[:_MOST_CITED]:
        yield Text(f"    {text}", style="dim")
    if one.since and words.since:
        yield Text(f"    {words.since} {one.since}", style="dim")
