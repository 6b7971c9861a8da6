"""
``/proc/net/xt_recent/*``: what ``-m recent`` remembers, which is iptables' session affinity.

Files are told apart by the lines ``==> /proc/net/xt_recent/NAME <==`` that ``tail -n +1`` prints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from diagnostics.readers.addresses import Address, parse_address
from diagnostics.readers.problems import LineProblem, not_understood

_TITLE = re.compile(r"==> (?:.*/)?([^/]+) <==")
_ENTRY = re.compile(r"src=(\S+)(?:\s.*)?")


@dataclass(frozen=True, slots=True)
class RecentLists:
    """Source addresses by the name of the list; an empty list is known to be empty."""

    lists: Mapping[str, frozenset[Address]]
    problems: tuple[LineProblem, ...] = ()


def read_recent(text: str) -> RecentLists:
    """Return the lists in *text*."""
    lists: dict[str, set[Address]] = {}
    problems = []
    current: set[Address] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if title := _TITLE.fullmatch(line.strip()):
            current = lists.setdefault(title[1], set())
            continue
        entry = _ENTRY.fullmatch(line.strip())
        address = parse_address(entry[1]) if entry else None
        if current is None or address is None:
            problems.append(not_understood(number, "/proc/net/xt_recent", line))
        else:
            current.add(address)
    return RecentLists({name: frozenset(found) for name, found in lists.items()}, tuple(problems))
