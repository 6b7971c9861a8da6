"""
The rules of one IP family: tables, chains, and rules that are parsed when somebody looks at them.

A large node has 150,000 rules and a trace needs some hundred of them.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, overload

from diagnostics.iptables.rule import Rule, parse_rule


class Problem(NamedTuple):
    """A line, counted from 1, that could not be taken as it is, and what was made of it."""

    line: int
    text: str
    reason: str


class Rules(Sequence[Rule]):
    """
    The rules of a chain, parsed on access and kept.

    Attributes:
        raw: for each rule what follows ``-A CHAIN``.
        counters: ``packets:bytes`` by index into *raw*, where they were printed.
    """

    __slots__ = ("_parsed", "counters", "raw")

    def __init__(self) -> None:
        self.raw: list[str] = []
        self.counters: dict[int, str] = {}
        self._parsed: dict[int, Rule] = {}

    def __len__(self) -> int:
        return len(self.raw)

    @overload
    def __getitem__(self, index: int) -> Rule: ...

    @overload
    def __getitem__(self, index: slice) -> list[Rule]: ...

    def __getitem__(self, index: int | slice) -> Rule | list[Rule]:
        if isinstance(index, slice):
            return [self._rule(one) for one in range(len(self.raw))[index]]
        return self._rule(range(len(self.raw))[index])

    def __iter__(self) -> Iterator[Rule]:
        return map(self._rule, range(len(self.raw)))

    def _rule(self, index: int) -> Rule:
        rule = self._parsed.get(index)
        if rule is None:
            counted = self.counters.get(index)
            rule = parse_rule(self.raw[index], index + 1, _pair(counted) if counted else None)
            self._parsed[index] = rule
        return rule


def _pair(counted: str) -> tuple[int, int]:
    packets, _, octets = counted.partition(":")
    return int(packets), int(octets)


@dataclass(frozen=True, slots=True)
class Chain:
    """
    A chain.

    Attributes:
        policy: ACCEPT or DROP of a built-in chain, None for any other.
        counters: packets and bytes that the policy took, if they were printed.
    """

    name: str
    policy: str | None
    rules: Rules = field(default_factory=Rules)
    counters: tuple[int, int] | None = None

    @property
    def raw(self) -> Sequence[str]:
        """For each rule what follows ``-A CHAIN``."""
        return self.rules.raw


@dataclass(slots=True)
class Table:
    """
    A table; its chains by name, in the order of the dump.

    ``complete`` says that all of it was read: from ``*NAME`` to COMMIT. A listing of single chains
    never is, and a chain that is missing in it may exist.
    """

    name: str
    chains: MutableMapping[str, Chain] = field(default_factory=dict)
    complete: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no chain has a rule."""
        return not any(len(chain.rules) for chain in self.chains.values())


@dataclass(slots=True)
class Ruleset:
    """
    What one program printed: the rules of one IP family in one backend.

    Attributes:
        tables: by name.
        problems: lines that were not taken as they are, in the order of the text.
        notices: what the program said in comments beside the rules, such as tables it cannot show.
        family, backend: 4 or 6, "nf_tables" or "legacy", if the text says so.
    """

    tables: dict[str, Table] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    family: Literal[4, 6] | None = None
    backend: Literal["nf_tables", "legacy"] | None = None

    def chain(self, table: str, name: str) -> Chain | None:
        """Return a chain, or None if it was not read."""
        found = self.tables.get(table)
        return found.chains.get(name) if found else None
