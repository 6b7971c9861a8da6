"""
Matches of modules whose options mean something only together.

Every function raises ValueError, KeyError, IndexError or ArithmeticError for words it does not
understand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from diagnostics.iptables import matches as m
from diagnostics.iptables.grammar import Group, Option
from diagnostics.iptables.numbers import read_number, read_probability

_SIDES: dict[str, m.Side] = {"--src-type": "src", "--dst-type": "dst"}
_RECENT_OPERATIONS = {"--set": "set", "--rcheck": "rcheck", "--update": "update"}
_RECENT_OPERATIONS["--remove"] = "remove"
_RECENT_OTHERS = frozenset(
    ("--seconds", "--hitcount", "--reap", "--rttl", "--name", "--mask", "--rsource", "--rdest")
)


def _by_name(group: Group) -> dict[str, Option]:
    found = {option.name: option for option in group.options}
    if len(found) != len(group.options):
        raise ValueError(group.text)
    return found


def _value(options: dict[str, Option], name: str) -> str | None:
    option = options.get(name)
    return option.args[0] if option else None


def _count(options: dict[str, Option], name: str) -> int | None:
    value = _value(options, name)
    return None if value is None else read_number(value)


def _addrtype(group: Group) -> list[m.Match]:
    """One match per side; a limit belongs to both, its words to the side before it."""
    limit: Literal["in", "out"] | None = None
    texts = [group.head] if group.head else []
    sides: list[Option] = []
    pieces: list[str] = []
    for option in group.options:
        if option.name in ("--limit-iface-in", "--limit-iface-out"):
            limit = "in" if option.name.endswith("in") else "out"
            texts.append(option.text)
            continue
        if sides:
            pieces.append(" ".join(texts))
            texts = []
        texts.append(option.text)
        sides.append(option)
    pieces.append(" ".join(texts))
    if not sides:
        raise ValueError(group.text)
    return [
        m.AddrType(text, _SIDES[option.name], _types(option), option.negated, limit)
        for text, option in zip(pieces, sides, strict=True)
    ]


def _types(option: Option) -> frozenset[str]:
    return frozenset(option.args[0].upper().split(","))


def _statistic(group: Group) -> list[m.Match]:
    options = _by_name(group)
    mode = options.pop("--mode").args[0]
    if mode == "random":
        probability = options.pop("--probability")
        found: m.Match = m.Random(
            group.text, read_probability(probability.args[0]), probability.negated
        )
    elif mode == "nth":
        every = options.pop("--every")
        packet = options.pop("--packet", None)
        number = read_number(packet.args[0]) if packet else 0
        found = m.Nth(group.text, read_number(every.args[0]), number, every.negated)
    else:
        raise ValueError(mode)
    if options:
        raise ValueError(group.text)
    return [found]


def _recent(group: Group) -> list[m.Match]:
    options = _by_name(group)
    (operation,) = options.keys() & _RECENT_OPERATIONS.keys()
    if options.keys() - _RECENT_OTHERS - {operation}:
        raise ValueError(group.text)
    return [
        m.Recent(
            group.text,
            _RECENT_OPERATIONS[operation],
            _value(options, "--name") or "DEFAULT",
            "dst" if "--rdest" in options else "src",
            _value(options, "--mask"),
            _count(options, "--seconds"),
            _count(options, "--hitcount"),
            "--reap" in options,
            "--rttl" in options,
            options[operation].negated,
        )
    ]


def _set(group: Group) -> list[m.Match]:
    options = _by_name(group)
    wanted = options.pop("--match-set")
    name, written = wanted.args
    dimensions = written.split(",")
    if not set(dimensions) <= {"src", "dst"}:
        raise ValueError(written)
    sides: tuple[m.Side, ...] = tuple("src" if one == "src" else "dst" for one in dimensions)
    flags = tuple(option.text for option in options.values())
    return [m.IpSet(group.text, name, sides, flags, wanted.negated)]


def _limit(group: Group) -> list[m.Match]:
    options = _by_name(group)
    if any(option.negated for option in group.options) or options.keys() - {
        "--limit",
        "--limit-burst",
    }:
        raise ValueError(group.text)
    return [m.Limit(group.text, "limit", _value(options, "--limit") or "3/hour")]


def _hashlimit(group: Group) -> list[m.Match]:
    options = _by_name(group)
    (kind,) = options.keys() & {"--hashlimit", "--hashlimit-upto"}
    if any(option.negated for option in group.options):
        raise ValueError(group.text)
    return [m.Limit(group.text, "hashlimit", options[kind].args[0])]


WHOLE: dict[str, Callable[[Group], list[m.Match]]] = {
    "addrtype": _addrtype,
    "statistic": _statistic,
    "recent": _recent,
    "set": _set,
    "limit": _limit,
    "hashlimit": _hashlimit,
}
