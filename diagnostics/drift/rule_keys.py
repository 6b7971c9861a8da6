"""What makes two iptables rules the same: conditions in any order, and the target."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields

from diagnostics.iptables import matches as m
from diagnostics.iptables.numbers import intended_probability
from diagnostics.iptables.rule import Rule

# They say nothing about packets, or repeat what another condition says.
_SILENT = (m.Comment, m.Loaded, m.Nfacct)


def rule_key(rule: Rule) -> Hashable:
    """Return what must be equal; comments, counters and the order of conditions do not count."""
    conditions = frozenset(
        _values(match) for match in rule.matches if not isinstance(match, _SILENT)
    )
    return conditions, _values(rule.target)


def _values(part: object) -> Hashable:
    if isinstance(part, m.Random):
        # Programs write the same fraction with different rounding.
        return "random", intended_probability(part.probability), part.negated
    names = [one.name for one in fields(part) if one.name != "text"]  # type: ignore[arg-type]
    return type(part).__name__, *(_hashable(getattr(part, name)) for name in names)


def _hashable(value: object) -> Hashable:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
