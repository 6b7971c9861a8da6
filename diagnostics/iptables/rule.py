"""
One rule: its conditions and its target.

Most of the rules of a node come from a node proxy and have few forms; those are cut by one regular
expression, the others by the grammar. Both make the same values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from diagnostics.iptables import matches as m
from diagnostics.iptables import targets as t
from diagnostics.iptables.actions import is_chain, read_target
from diagnostics.iptables.conditions import read_matches
from diagnostics.iptables.grammar import Group, Kind, split
from diagnostics.iptables.numbers import read_nat_range, read_network

# Conditions whose texts recur; a rule of a common form has at most one before and after its ports.
_RECURRING = (
    r"(?:(-m (?:statistic --mode random --probability [\d.]+"
    r"|conntrack (?:! )?--ctstate [A-Z,]+"
    r"|addrtype (?:! )?--(?:src|dst)-type [A-Z]+"
    r"|mark (?:! )?--mark [0-9a-fx/]+)) )?"
)
# The forms of a node proxy's rules for its services; -s and -d as iptables-save writes them.
_COMMON = re.compile(
    r"(?:((! )?-s ([0-9A-Fa-f.:]+/\d+)) )?"
    r"(?:((! )?-d ([0-9A-Fa-f.:]+/\d+)) )?"
    r"(?:(-p (?:tcp|udp|sctp)) )?"
    r'(?:(-m comment --comment (?:"([^"\\]*)"|([^\s"!]+))) )?'
    + _RECURRING
    + r"(?:(-m (?:tcp|udp|sctp)(?: --dport \d+)?) )?"
    + _RECURRING
    + r'(-j ([^\s"]+)(?: --to-destination (\S+))?)'
)


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One rule of a chain.

    Attributes:
        number: its place in the chain, from 1, as ``iptables -L --line-numbers`` counts.
        text: what follows ``-A CHAIN``, exactly.
        matches: all must hold, in the order of the text.
        counters: packets and bytes, if they were printed.
    """

    number: int
    text: str
    matches: tuple[m.Match, ...]
    target: t.Target
    counters: tuple[int, int] | None = None


def parse_rule(text: str, number: int = 1, counters: tuple[int, int] | None = None) -> Rule:
    """
    Return the rule of a text, without ``-A CHAIN``; never raises.

    What cannot be understood becomes an Opaque match or an OpaqueTarget.
    """
    common = _COMMON.fullmatch(text)
    if common is not None:
        try:
            return _from_common(text, common, number, counters)
        except ValueError:  # such as an address out of range, which the grammar can place
            pass
    return parse_any_rule(text, number, counters)


def parse_any_rule(text: str, number: int = 1, counters: tuple[int, int] | None = None) -> Rule:
    """Return the same as ``parse_rule``, by the grammar alone."""
    matches: list[m.Match] = []
    target: t.Target | None = None
    for group in split(text):
        counted = _counters(group) if group.kind is Kind.COUNTERS else None
        if counted is not None:
            counters = counted
        elif group.kind not in (Kind.JUMP, Kind.GOTO):
            matches.extend(read_matches(group))
        elif target is None:
            target = read_target(group)
        else:
            target = t.OpaqueTarget(f"{target.text} {group.text}", group.name)
    return Rule(number, text, tuple(matches), target or t.NoTarget(), counters)


def _counters(group: Group) -> tuple[int, int] | None:
    try:
        packets, octets = map(int, group.options[0].args)
    except ValueError:
        return None
    return packets, octets


def _from_common(
    text: str, found: re.Match[str], number: int, counters: tuple[int, int] | None
) -> Rule:
    (
        source,
        not_source,
        source_network,
        destination,
        not_destination,
        destination_network,
        protocol,
        comment,
        quoted,
        unquoted,
        before,
        transport,
        after,
        action,
        name,
        to,
    ) = found.groups()
    matches: list[m.Match] = []
    if source:
        matches.append(m.Address(source, "src", *read_network(source_network), bool(not_source)))
    if destination:
        network = read_network(destination_network)
        matches.append(m.Address(destination, "dst", *network, bool(not_destination)))
    if protocol:
        matches.append(_match(protocol))
    if comment:
        matches.append(m.Comment(comment, unquoted if quoted is None else quoted))
    matches += [_match(one) for one in (before, transport, after) if one]
    if to:
        if name != "DNAT":
            raise ValueError(text)
        target: t.Target = t.Dnat(action, (read_nat_range(to),))
    elif is_chain(name):
        target = t.Jump(action, name)
    else:
        target = _target(action)
    return Rule(number, text, tuple(matches), target, counters)


@lru_cache(maxsize=4096)
def _match(text: str) -> m.Match:
    """Return the only match of a text that recurs in many rules."""
    (group,) = split(text)
    (match,) = read_matches(group)
    return match


@lru_cache(maxsize=64)
def _target(text: str) -> t.Target:
    """Return the target of ``-j EXTENSION``."""
    (group,) = split(text)
    return read_target(group)
