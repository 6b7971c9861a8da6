"""
The entries of a legacy table, as the kernel lays them out one behind the other.

The built-in chains come first, each up to its policy. A user-defined chain begins with an entry of
target ERROR that holds its name and ends with one that returns; a last ERROR ends the table.
Layouts: linux/netfilter/x_tables.h, linux/netfilter_ipv4/ip_tables.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

Bounds = Mapping[str, tuple[int, int]]
"""Of each built-in chain: the offsets of its first entry and of its policy."""

_OFFSETS = struct.Struct("=HH")  # of an entry: to its target, to the next entry
_VERDICT = struct.Struct("=i")
_TARGET_HEAD = 32  # its size, name and revision; then what belongs to the kind of target
_ERROR = b"ERROR\0"
_NAME = 30


class TableContent(NamedTuple):
    """
    What a table holds.

    Attributes:
        rules: how many rules each chain has; policies are none.
        jumps: which user-defined chains (second) the rules of built-in chains (first) lead to.
    """

    rules: dict[str, int]
    jumps: frozenset[tuple[str, str]]


def user_defined(entries: memoryview, offsets_at: int) -> Iterator[str]:
    """Yield the names of user-defined chains; raises OSError for entries without length."""
    for _, target, end in _walk(entries, offsets_at):
        if name := _chain_name(entries, target, end):
            yield name


def read_content(entries: memoryview, offsets_at: int, bounds: Bounds) -> TableContent:
    """Return what a table holds; raises OSError for entries without length."""
    starts = {start: chain for chain, (start, _) in bounds.items()}
    policies = {policy for _, policy in bounds.values()}
    rules: dict[str, int] = {}
    first_rules: dict[int, str] = {}
    verdicts = []
    chain = ""
    for start, target, end in _walk(entries, offsets_at):
        if name := _chain_name(entries, target, end):
            chain = name
            rules[chain] = -1  # the entry that returns is no rule
            first_rules[end] = chain
            continue
        if start in starts:
            chain = starts[start]
            rules[chain] = 0
        if start not in policies and end < len(entries):
            rules[chain] += 1
            if not first_rules:
                verdicts.append((chain, _verdict(entries, target)))
    jumps = {(chain, first_rules.get(verdict, "")) for chain, verdict in verdicts}
    return TableContent(rules, frozenset(jump for jump in jumps if jump[1]))


def _walk(entries: memoryview, offsets_at: int) -> Iterator[tuple[int, int, int]]:
    """Yield the offsets of each entry, of its target and of the next entry."""
    unpack = _OFFSETS.unpack_from
    start, size = 0, len(entries)
    while start < size:
        to_target, to_next = unpack(entries, start + offsets_at)
        if to_next == 0:
            raise OSError(errno.EIO, "the kernel's legacy table has an entry without length")
        yield start, start + to_target, start + to_next
        start += to_next


def _chain_name(entries: memoryview, target: int, end: int) -> str:
    """Return the name of the chain that an entry begins; "" for others and for the last."""
    if entries[target + 2 : target + 8] != _ERROR or end >= len(entries):
        return ""
    name = bytes(entries[target + _TARGET_HEAD : target + _TARGET_HEAD + _NAME])
    return name.partition(b"\0")[0].decode()


def _verdict(entries: memoryview, target: int) -> int:
    """Return the offset that an entry jumps to; negative when it does something else."""
    if entries[target + 2] != 0:  # the kind of target without a name
        return -1
    verdict: int = _VERDICT.unpack_from(entries, target + _TARGET_HEAD)[0]
    return verdict
