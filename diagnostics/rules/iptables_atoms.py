"""Conditions and targets of iptables' rules as ``shadow`` compares them."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache

from diagnostics.iptables import matches as m
from diagnostics.iptables import targets as t
from diagnostics.iptables.rule import Rule
from diagnostics.rules.shadow import Atom, Atoms, network, ports

# What holds for every packet that gets that far.
_ALWAYS = (m.Comment, m.Loaded, m.Nfacct)
# What the same packet may meet once and not again.
_CHANCE = (m.Random, m.Nth, m.Recent, m.Limit, m.Opaque)
# What a rule in between may change: marks, and with target SET sets.
_CHANGING = (m.Mark, m.ConnMark, m.IpSet)
_CHANGERS = (
    t.SetMark, t.SetConnMark, t.SaveMark, t.RestoreMark, t.Tproxy, t.Jump, t.Continue,
    t.OpaqueTarget,
)  # fmt: skip
ENDING = (
    t.Accept, t.Drop, t.Reject, t.Dnat, t.Snat, t.Masquerade, t.Redirect, t.Tproxy, t.Queue,
)  # fmt: skip
"""Targets after which no further rule of the table's hook is asked."""

LEAVING = (*ENDING, t.Return, t.Goto)
"""Targets after which no further rule of the chain is asked."""

EPOCH = "epoch"


def changes_marks(target: t.Target) -> bool:
    """Return whether conditions on marks and sets may be decided anew after a target."""
    return isinstance(target, _CHANGERS)


def atoms_of(rule: Rule, epoch: int) -> tuple[Atoms, bool]:
    """
    Return a rule's atoms, and whether a packet that has them surely matches the rule.

    Args:
        rule: Of any chain.
        epoch: Number of the rules before it that may have changed marks or sets.
    """
    found: list[Atom] = []
    certain = True
    for match in rule.matches:
        if isinstance(match, _ALWAYS):
            continue
        if isinstance(match, _CHANCE):
            certain = certain and _surely(match)
        elif isinstance(match, _CHANGING):
            found.append((EPOCH, epoch, *_plain(match)))
        else:
            atom = _atom(match)
            if atom is not None:
                found.append(atom)
    return frozenset(found), certain


def _surely(match: m.Match) -> bool:
    return isinstance(match, m.Random) and match.probability >= 1 and not match.negated


@lru_cache(maxsize=1 << 16)
def _atom(match: m.Match) -> Atom | None:
    """Return the atom of a condition that depends on the packet alone; None if it always holds."""
    if isinstance(match, m.Address) and not match.negated:
        if match.mask == 0:
            return None
        return network(match.side, match.version, match.value, match.mask)
    if isinstance(match, m.Protocol) and match.number == 0 and not match.negated:
        return None
    if (
        isinstance(match, m.Ports)
        and match.side == "dst"
        and len(match.ranges) == 1
        and not match.negated
    ):
        return ports(*match.ranges[0])
    return _plain(match)


def _plain(match: m.Match) -> Atom:
    """Return all of a condition but its wording; a protocol's name is wording too."""
    if isinstance(match, m.Protocol):
        return ("protocol", match.number, match.negated)
    values = (getattr(match, each.name) for each in fields(match) if each.name != "text")
    return (type(match).__name__, *values)


def is_stable(atom: Atom) -> bool:
    """Return whether an atom stays true in the chains that a rule leads to."""
    return atom[0] != EPOCH
