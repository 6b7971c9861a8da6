"""
Removal of a node proxy's chains and jumps from the tables of one iptables backend and family.

The order is: first the jumps, in one transaction per table, so that packets leave our rules at
once; then all chains are emptied, so that none leads to another; then they are deleted. Chains go
in chunks, because the cost of one transaction grows with the square of what is in it on the nft
backend, and with the size of the table per transaction on the legacy one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from proxy.backends.iptables.restore import Section, render
from proxy.engine.cleanup.outcome import FAILURES, Outcome, counted
from proxy.engine.cleanup.owned import (
    BUILT_IN_CHAINS,
    NOTHING,
    TABLES,
    Leftovers,
    ProxyRules,
    rule_words,
    target_of,
)

# 40,000 chains: nft 1.3 s, legacy 3.9 s; in chunks of 400 3.6 s and 22 s.
_CHUNK_CHAINS = 2000
_ATTEMPTS = 2


class TablesPort(Protocol):
    """One iptables backend and family; every method raises OSError or CommandError."""

    def chains(self, table: str, /) -> frozenset[str]:
        """Return the names of a table's chains, without starting a program or making the table."""

    def rules(self, table: str, chain: str, /) -> Sequence[str]:
        """Return a chain's rules in order, as iptables(8) takes them after ``-A CHAIN``."""

    def restore(self, text: str, /) -> object:
        """Feed ``iptables-restore --noflush``; a table is changed wholly or not at all."""


def remove_iptables(port: TablesPort, running: ProxyRules = NOTHING) -> Outcome:
    """
    Remove the chains and jumps of both modes, kpctl's and kube-proxy's.

    A chain that a rule of somebody else leads to is emptied but stays, which is an error in the
    outcome. No program is started on a node that has none of the chains.

    Args:
        port: The tables to clean.
        running: The mode whose chains and jumps stay. It must have written its chains before:
            until then they may lead to chains that are to go.

    """
    outcome = Outcome()
    leftovers = Leftovers(running)
    cleanings = []
    for table in TABLES:
        try:
            chains = port.chains(table)
        except FAILURES as error:
            outcome.errors.append(f"Cannot read table {table}: {error}")
            continue
        doomed = sorted(chain for chain in chains if leftovers.has_chain(table, chain))
        if doomed:
            cleanings.append(_Cleaning(port, table, doomed, leftovers, outcome))
    # Table after table would leave the last one's rules in force while thousands of chains go.
    for cleaning in cleanings:
        cleaning.delete_jumps()
    for cleaning in cleanings:
        cleaning.empty_chains()
        cleaning.delete_chains()
    return outcome


@dataclass(slots=True)
class _Cleaning:
    """The work on one table."""

    port: TablesPort
    table: str
    doomed: list[str]
    leftovers: Leftovers
    outcome: Outcome
    _emptied: list[Sequence[str]] = field(default_factory=list)
    _foreign: dict[str, str] | None = field(default=None)

    def delete_jumps(self) -> None:
        """Delete the rules of built-in chains that lead to the chains."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                section = self._jumps()
                if section:
                    self.port.restore(render([section]))
            except FAILURES as error:
                # Somebody may have removed one of them between reading and deleting.
                if attempt == _ATTEMPTS:
                    self._failed("jumps stay", error)
                continue
            if section:
                self._removed(len(section.lines), "jump")
            return

    def _jumps(self) -> Section:
        section = Section(self.table)
        for chain in sorted(BUILT_IN_CHAINS & self.port.chains(self.table)):
            for rule in self.port.rules(self.table, chain):
                if self.leftovers.has_jump(self.table, chain, rule):
                    section.delete(chain, rule)
        return section

    def empty_chains(self) -> None:
        """Remove all rules of the chains."""
        for chunk in _chunks(self.doomed):
            section = Section(self.table)
            for chain in chunk:
                section.declare(chain)
            try:
                self.port.restore(render([section]))
                self._emptied.append(chunk)
            except FAILURES as error:
                self._failed(f"{counted(len(chunk), 'chain')} not emptied", error)

    def delete_chains(self) -> None:
        """Delete what could be emptied, but for chains that rules of others lead to."""
        deleted = 0
        for chunk in self._emptied:
            try:
                deleted += self._delete(chunk)
            except FAILURES as error:
                self._failed(f"{counted(len(chunk), 'chain')} not deleted", error)
        if deleted:
            self._removed(deleted, "chain")

    def _delete(self, chunk: Sequence[str]) -> int:
        """Delete a chunk; if it is refused, what can be deleted of it. Return how many went."""
        try:
            return self._delete_all(chunk)
        except FAILURES:
            foreign = self._foreign_references()
            there = self.port.chains(self.table)
            rest = [chain for chain in chunk if chain in there and chain not in foreign]
            if len(rest) == len(chunk):
                raise
        for chain in chunk:
            if chain in foreign:
                self.outcome.errors.append(
                    f"{self.table} {chain} is emptied but stays: "
                    f"a rule of chain {foreign[chain]} leads to it"
                )
        return self._delete_all(rest)

    def _delete_all(self, chunk: Sequence[str]) -> int:
        if chunk:
            section = Section(self.table)
            for chain in chunk:
                section.remove(chain)
            self.port.restore(render([section]))
        return len(chunk)

    def _foreign_references(self) -> dict[str, str]:
        """Return which chains are led to from chains that stay; read once, after a refusal."""
        if self._foreign is None:
            self._foreign = {}
            for chain in sorted(self.port.chains(self.table).difference(self.doomed)):
                for target in self._targets(chain):
                    self._foreign[target] = chain
        return self._foreign

    def _targets(self, chain: str) -> list[str]:
        try:
            rules = self.port.rules(self.table, chain)
        except FAILURES as error:
            self._failed(f"chain {chain} cannot be read", error)
            return []
        return [target_of(rule_words(rule)) for rule in rules]

    def _removed(self, number: int, noun: str) -> None:
        self.outcome.removed.append(f"{counted(number, noun)} of table {self.table}")

    def _failed(self, what: str, error: Exception) -> None:
        self.outcome.errors.append(f"table {self.table}: {what}: {error}")


def _chunks(chains: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(chains), _CHUNK_CHAINS):
        yield chains[start : start + _CHUNK_CHAINS]
