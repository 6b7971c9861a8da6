"""
What iptables-restore says when it refuses, told apart.

It names a line of its input in one of five ways, depending on version, backend and what is wrong.
The nft variant finds some faults only at COMMIT, and then mostly names the rule's line all the
same; the legacy kernel replaces a whole table at COMMIT, and says nothing of the rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^\s*line (\d+): [A-Z_]+ failed",  # nft, from the kernel's answer
        r"Error occurred at line:? (\d+)",  # while reading a line
        r"line (\d+) failed",
        r"expected at line (\d+)",
        r"line (\d+)\b",
    )
)
_NO_CHAIN = re.compile(r"[Cc]hain '([^']+)' does not exist")
_HELP = re.compile(r"^Try `.*for more information\.$", re.MULTILINE)
_TRANSIENT = re.compile(
    r"xtables lock|Resource temporarily unavailable|resource problem|Cannot allocate memory"
    r"|No buffer space available|Interrupted system call|Out of memory",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal; see RestoreRejected for the attributes."""

    message: str
    line: int | None
    at_commit: bool
    transient: bool


def parse_refusal(said: str, text: str) -> Refusal:
    """Return what the program *said* about its input *text*."""
    message = " ".join(_HELP.sub("", said).split())
    number = _line_number(said)
    lines = text.split("\n")
    if number is None or not 1 <= number <= len(lines):
        return Refusal(message, None, False, bool(_TRANSIENT.search(said)))
    at_commit = lines[number - 1].strip() == "COMMIT"
    missing = _NO_CHAIN.search(said)
    if at_commit and missing is not None:
        user = _first_jump(lines, number, missing[1])
        if user is not None:
            number, at_commit = user, False
    return Refusal(message, number, at_commit, bool(_TRANSIENT.search(said)))


def _line_number(said: str) -> int | None:
    for pattern in _LINE:
        match = pattern.search(said)
        if match is not None:
            return int(match[1])
    return None


def _first_jump(lines: list[str], commit: int, chain: str) -> int | None:
    """Return the number of the first line, in the table that ends at *commit*, to *chain*."""
    jump = re.compile(rf"(?:-j|-g|--jump|--goto) {re.escape(chain)}(?:\s|$)")
    found = None
    for number in range(commit - 1, 0, -1):
        line = lines[number - 1]
        if line.startswith("*"):
            break
        if jump.search(line):
            found = number
    return found
