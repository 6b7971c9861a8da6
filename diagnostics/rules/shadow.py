"""
Finds, of rules in one chain, those that an earlier one leaves nothing for.

A rule's conditions are atoms: hashable values of which all must hold. A rule that ends the chain
takes all packets for which its atoms hold, so a later one with at least these, or narrower ones,
can never match. That is decided only where it is certain: what depends on chance, rates or time
takes nothing, and what is not understood is equal to itself alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

Atom = tuple[object, ...]
Atoms = frozenset[Atom]
NONE: Atoms = frozenset()
SIDES = ("src", "dst")
PORT = "dport"
_ANY: Atom = ("any",)


def network(side: str, version: int, value: int, mask: int) -> Atom:
    """Return the atom of an address under a mask."""
    return (side, version, value, mask)


def ports(first: int, last: int) -> Atom:
    """Return the atom of a range of destination ports, both ends included."""
    return (PORT, first, last)


def covers(wide: Atom, narrow: Atom) -> bool:
    """Return whether *wide* holds for every packet for which *narrow* holds."""
    if wide == narrow:
        return True
    if wide[0] != narrow[0]:
        return False
    if wide[0] in SIDES:
        _, version, value, mask = wide
        _, other, inner, inner_mask = narrow
        assert isinstance(mask, int)
        assert isinstance(inner, int)
        assert isinstance(inner_mask, int)
        return version == other and mask & inner_mask == mask and inner & mask == value
    if wide[0] == PORT:
        return bool(wide[1] <= narrow[1] and narrow[2] <= wide[2])  # type: ignore[operator]
    return False


def implies(narrow: Atoms, wide: Atoms) -> bool:
    """Return whether all of *wide* hold wherever all of *narrow* do."""
    return all(one in narrow or any(covers(one, other) for other in narrow) for one in wide)


class Taker(NamedTuple):
    """A rule that takes all packets for which its atoms hold, by its number in the chain."""

    number: int
    atoms: Atoms


class Takers:
    """
    The rules of a chain that take packets, found by one of their atoms.

    KUBE-SERVICES has ten thousand of them, and each later rule is compared with a few.
    """

    def __init__(self) -> None:
        self._by_atom: dict[Atom, list[Taker]] = {}
        self._masks: dict[tuple[object, object], set[int]] = {}

    def add(self, taker: Taker) -> None:
        """Add a rule."""
        atom = _rarest(taker.atoms)
        if atom[0] in SIDES:
            mask = atom[3]
            assert isinstance(mask, int)
            self._masks.setdefault((atom[0], atom[1]), set()).add(mask)
        self._by_atom.setdefault(atom, []).append(taker)

    def of(self, atoms: Atoms) -> Taker | None:
        """Return the first rule that takes all that *atoms* describe, None for none."""
        found = [
            taker
            for key in {*self._keys(atoms)}
            for taker in self._by_atom.get(key, ())
            if implies(atoms, taker.atoms)
        ]
        return min(found, default=None)

    def _keys(self, atoms: Atoms) -> Iterator[Atom]:
        yield _ANY
        for atom in atoms:
            yield atom
            if atom[0] in SIDES:
                _, _, value, mask = atom
                assert isinstance(value, int)
                assert isinstance(mask, int)
                for wider in self._masks.get((atom[0], atom[1]), ()):
                    if wider & mask == wider:
                        yield (atom[0], atom[1], value & wider, wider)


def _rarest(atoms: Iterable[Atom]) -> Atom:
    """Return the atom that fewest rules have; ``_ANY`` when only ranges of ports are left."""
    best, rank = _ANY, 9
    for atom in atoms:
        order = {"dst": 0, "src": 1}.get(str(atom[0]), 3)
        if atom[0] == PORT:
            order = 2 if atom[1] == atom[2] else 9
        if order < rank:
            best, rank = atom, order
    return best
