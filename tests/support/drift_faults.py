"""Faults to plant in recorded nodes: edits of one file, and what drift must say of each."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diagnostics.drift.find import find_drift
from diagnostics.drift.model import DriftReport
from diagnostics.fate.difference import Difference
from diagnostics.snapshot.open import open_snapshot

DATA = Path(__file__).parents[1] / "data"
Edit = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Fault:
    """An edit of a file, and the difference that tells of it: kind and service port ("" node)."""

    name: str
    edit: Edit
    kind: str
    service: str = ""
    file: str = ""

    def __str__(self) -> str:
        return self.name


def without(pattern: str, count: int = 0) -> Edit:
    """Delete the lines that contain a pattern; the first *count* of them, 0 for all."""

    def edit(text: str) -> str:
        lines, left = [], count or -1
        for line in text.splitlines(keepends=True):
            if left and re.search(pattern, line):
                left -= 1
            else:
                lines.append(line)
        return "".join(lines)

    return edit


def swapped(pattern: str, replacement: str, count: int = 0) -> Edit:
    """Replace a pattern."""
    return lambda text: re.sub(pattern, replacement, text, count=count, flags=re.MULTILINE)


def before(pattern: str, line: str) -> Edit:
    """Put a line before the first one that contains a pattern."""

    def edit(text: str) -> str:
        found = re.search(rf"^.*{pattern}.*$", text, re.MULTILINE)
        assert found is not None, pattern
        return text[: found.start()] + line + "\n" + text[found.start() :]

    return edit


def both(*edits: Edit) -> Edit:
    """Make several edits."""

    def edit(text: str) -> str:
        for one in edits:
            text = one(text)
        return text

    return edit


def drift_of(directory: Path) -> DriftReport:
    """Return the drift of a snapshot directory."""
    report = find_drift(open_snapshot(directory).node())
    assert report.undetermined == ""
    return report


def planted(healthy: Path, fault: Fault, file: str, into: Path) -> DriftReport:
    """Return the drift of a copy of *healthy* with a fault in *file*."""
    node = into / "node"
    shutil.copytree(healthy, node)
    path = node / (fault.file or file)
    text = path.read_text()
    path.chmod(0o644)
    edited = fault.edit(text)
    assert edited != text, f"{fault.name} changes nothing"
    path.write_text(edited)
    return drift_of(node)


def tells(report: DriftReport, fault: Fault) -> bool:
    """Whether a difference has the fault's kind and service."""
    return any(_matches(one, fault) for one in report.differences)


def _matches(one: Difference, fault: Fault) -> bool:
    return one.kind.value == fault.kind and one.service == fault.service


def said(report: DriftReport) -> str:
    """Return the differences, for a failure's message."""
    return "\n".join(
        f"{one.kind} {one.service!r} {one.subject}: {one.expected} | {one.actual} {one.evidence}"
        for one in report.differences
    )
