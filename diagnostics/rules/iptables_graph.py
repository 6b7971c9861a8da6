"""The chains of one iptables table as a graph: who leads to whom, and what surely ends there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from diagnostics.iptables import targets as t
from diagnostics.iptables.model import Chain, Table
from diagnostics.rules.iptables_atoms import ENDING, atoms_of, changes_marks, is_stable
from diagnostics.rules.shadow import NONE, Atom, Atoms

BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
# A chain takes many kinds of packets; those with few conditions are what later rules meet.
_MOST_ATOMS, _MOST_TAKEN = 2, 8


@dataclass(frozen=True, slots=True)
class Call:
    """A rule that leads to a chain; ``number`` counts from 1 in the chain it is in."""

    chain: str
    number: int
    target: str
    atoms: Atoms


class Graph:
    """
    Calls between the chains of a table.

    Attributes:
        calls: of each chain, in the order of its rules.
        callers: of each chain that is called.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.calls: dict[str, list[Call]] = {}
        self.callers: dict[str, list[Call]] = {}
        for chain in table.chains.values():
            self.calls[chain.name] = list(_calls(chain))
            for call in self.calls[chain.name]:
                self.callers.setdefault(call.target, []).append(call)
        self._taken: dict[str, tuple[Atoms, ...]] = {}

    def dangling(self) -> Iterator[Call]:
        """Yield the calls of chains that do not exist."""
        for calls in self.calls.values():
            for call in calls:
                if call.target not in self.table.chains:
                    yield call

    def reached(self) -> frozenset[str]:
        """Return the chains that packets can come to from a built-in one."""
        waiting = [
            name
            for name, c in self.table.chains.items()
            if c.policy is not None or name in BUILT_IN
        ]
        found = set(waiting)
        while waiting:
            for call in self.calls.get(waiting.pop(), ()):
                if call.target not in found:
                    found.add(call.target)
                    waiting.append(call.target)
        return frozenset(found)

    def contexts(self) -> Mapping[str, Atoms]:
        """Return for each chain the atoms that hold for every packet in it."""
        known: dict[str, Atoms] = {}
        for name in self._callers_first():
            entries = [
                known.get(call.chain, NONE) | {atom for atom in call.atoms if is_stable(atom)}
                for call in self.callers.get(name, ())
            ]
            known[name] = frozenset.intersection(*map(frozenset, entries)) if entries else NONE
        return known

    def _callers_first(self) -> list[str]:
        """Return the chains so that callers come first; a circle, only in bad input, anywhere."""
        missing = {name: len(self.callers.get(name, ())) for name in self.table.chains}
        ready = [name for name, count in missing.items() if count == 0]
        for name in ready:
            for call in self.calls[name]:
                if call.target in missing:
                    missing[call.target] -= 1
                    if missing[call.target] == 0:
                        ready.append(call.target)
        return ready

    def taken(self, name: str, above: frozenset[str] = frozenset()) -> tuple[Atoms, ...]:
        """
        Return conditions under which a packet in a chain surely meets its end there.

        Each is a set of atoms; there may be more than are returned.
        """
        if name not in self._taken:
            if name in above:  # a circle
                return ()
            self._taken[name] = tuple(self._find_taken(name, above | {name}))[:_MOST_TAKEN]
        return self._taken[name]

    def _find_taken(self, name: str, above: frozenset[str]) -> Iterator[Atoms]:
        chain = self.table.chains.get(name)
        for rule in chain.rules if chain else ():
            target = rule.target
            if isinstance(target, t.Return | t.OpaqueTarget | t.Goto):
                return
            if not isinstance(target, (*ENDING, t.Jump)):
                continue
            atoms, certain = atoms_of(rule, 0)
            if not certain or len(atoms) > _MOST_ATOMS or not all(map(is_stable, atoms)):
                continue
            if isinstance(target, t.Jump):
                inner = (atoms | one for one in self.taken(target.chain, above))
                yield from (one for one in inner if len(one) <= _MOST_ATOMS)
            else:
                yield atoms


def _calls(chain: Chain) -> Iterator[Call]:
    epoch = 0
    for rule in chain.rules:
        if isinstance(rule.target, t.Jump | t.Goto):
            atoms: frozenset[Atom] = atoms_of(rule, epoch)[0]
            yield Call(chain.name, rule.number, rule.target.chain, atoms)
        epoch += changes_marks(rule.target)
