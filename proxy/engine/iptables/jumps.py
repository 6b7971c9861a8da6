"""The rules in built-in chains that lead into ours: which are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from proxy.backends.iptables.restore import Section
from proxy.backends.xtables import Jump


class RuleReader(Protocol):
    """The part of an iptables port that reads single chains."""

    def rules(self, table: str, chain: str, /) -> list[str]:
        """Return a chain's rules as ``iptables -S`` prints them, without ``-A CHAIN``."""

    def has_rule(self, table: str, chain: str, arguments: Sequence[str], /) -> bool:
        """Return whether a chain has a rule, as ``iptables -C`` compares."""


def missing_jumps(reader: RuleReader, jumps: Iterable[Jump]) -> list[Section]:
    """Return sections that put missing jumps on top of their chains; those there stay in place."""
    listed: dict[tuple[str, str], list[str]] = {}
    sections: dict[str, Section] = {}
    for jump in jumps:
        place = (jump.table, jump.chain)
        if place not in listed:
            listed[place] = reader.rules(*place)
        if not _is_there(reader, jump, listed[place]):
            sections.setdefault(jump.table, Section(jump.table)).insert(jump.chain, jump.rule)
    return list(sections.values())


def places(jumps: Iterable[Jump], table: str) -> set[tuple[str, str]]:
    """Return from where to where the jumps of a table lead: built-in chain, our chain."""
    return {(jump.chain, jump.target) for jump in jumps if jump.table == table}


def _is_there(reader: RuleReader, jump: Jump, listed: list[str]) -> bool:
    if jump.rule in listed:
        return True
    # Another version of iptables may print the same rule in other words; ask it to compare.
    similar = any(rule.endswith(f"-j {jump.target}") for rule in listed)
    return similar and reader.has_rule(jump.table, jump.chain, jump.arguments)
