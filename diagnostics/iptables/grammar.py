"""
Splits the text of a rule into groups of options: what belongs to one ``-m``, ``-j``, ``-s`` …

Nothing is judged here, and nothing is lost: every word of the text is in exactly one group. As in
iptables, an option belongs to the module named last, to an earlier one that knows it, or to the
one that the protocol loads by itself; a ``!`` may stand before an option or before its value.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from diagnostics.iptables.options import (
    BASIC,
    COUNTERS,
    GOTO,
    JUMP,
    MATCH,
    MATCHES,
    PROTOCOLS,
    TARGETS,
)

# A quote may open anywhere in a word; inside, a backslash escapes. A cut text lacks its end.
_WORD = re.compile(r'(?:"(?:\\.|[^"\\])*(?:"|\\?\Z)|[^\s"])+', re.DOTALL)
_QUOTED = re.compile(r'"((?:\\.|[^"\\])*)(?:"|\\?\Z)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_OPTION = re.compile(r"--?[A-Za-z0-9]")
# Modules that -p loads without -m, by protocol number.
_AUTOLOADED = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmp6", 132: "sctp", 136: "udplite"}


class Kind(enum.Enum):
    """What opened a group."""

    BASIC = enum.auto()
    MATCH = enum.auto()
    JUMP = enum.auto()
    GOTO = enum.auto()
    COUNTERS = enum.auto()
    UNKNOWN = enum.auto()


class Option(NamedTuple):
    """One option with its words; *text* is exact, with the ``!`` if there is one."""

    name: str
    args: tuple[str, ...]
    negated: bool
    text: str


@dataclass(slots=True)
class Group:
    """
    Options that belong together.

    Attributes:
        name: the module, the target, the chain, or the basic option.
        head: the words that opened the group, exactly; "" if an option did.
    """

    kind: Kind
    name: str
    head: str = ""
    options: list[Option] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All words of the group."""
        return " ".join(filter(None, (self.head, *(option.text for option in self.options))))


def unquote(word: str) -> str:
    """Return what a word means: without quotes, and without the backslashes inside them."""
    if '"' not in word:
        return word
    return _QUOTED.sub(lambda quoted: _ESCAPED.sub(r"\1", quoted[1]), word)


def split(text: str) -> list[Group]:
    """Return the groups of the text after ``-A CHAIN``, in the order of their first word."""
    return _Splitter(text).run()


class _Splitter:
    """Walks over the words once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans = [found.span() for found in _WORD.finditer(text)]
        self._words = [text[start:end] for start, end in self._spans]
        self._at = 0
        self._groups: list[Group] = []
        self._opened: Group | None = None
        self._protocol: int | None = None

    def run(self) -> list[Group]:
        while self._at < len(self._words):
            start = self._at
            negated = self._words[start] == "!" and start + 1 < len(self._words)
            if negated:
                self._at += 1
            self._option(start, negated)
        return self._groups

    def _option(self, start: int, negated: bool) -> None:
        word = self._words[self._at]
        self._at += 1
        name, equals, value = word.partition("=")
        if not _OPTION.match(word):
            self._add(Group(Kind.UNKNOWN, "", self._from(start)))
        elif not negated and word in MATCH:
            self._open(Kind.MATCH, start)
        elif not negated and word in JUMP:
            self._open(Kind.JUMP, start)
        elif not negated and word in GOTO:
            self._open(Kind.GOTO, start)
        elif equals and name.startswith("--"):
            option = Option(name, (unquote(value),), negated, self._from(start))
            self._place(option)
        else:
            self._place(self._read(word, start, negated))

    def _open(self, kind: Kind, start: int) -> None:
        name = ""
        if self._at < len(self._words):
            name = unquote(self._words[self._at])
            self._at += 1
        self._opened = self._add(Group(kind, name, self._from(start)))

    def _read(self, name: str, start: int, negated: bool) -> Option:
        """Return the option at hand with as many words as it takes."""
        count = self._count(name)
        first = self._at
        if count != 0 and self._is_negated_value(name):
            negated = True
            first = self._at = self._at + 1
        if count is None:
            while self._at < len(self._words) and not self._begins_option(self._at):
                self._at += 1
        else:
            self._at = min(self._at + count, len(self._words))
        args = tuple(unquote(word) for word in self._words[first : self._at])
        return Option(name, args, negated, self._from(start))

    def _is_negated_value(self, name: str) -> bool:
        following = self._words[self._at : self._at + 2]
        return (
            name != "--comment"
            and len(following) == 2
            and following[0] == "!"
            and not _OPTION.match(following[1])
        )

    def _begins_option(self, at: int) -> bool:
        word = self._words[at]
        return word == "!" or bool(_OPTION.match(word))

    def _count(self, name: str) -> int | None:
        """Return the number of words that an option takes, None if it is not known."""
        if name in BASIC:
            return 0 if BASIC[name] == "-f" else 1
        if name in COUNTERS:
            return 2
        owner = self._owner(name)
        return None if owner is None else _known(owner).get(name)

    def _owner(self, name: str) -> Group | None:
        """Return the group that knows an option; the one opened last comes first."""
        if self._opened is not None and name in _known(self._opened):
            return self._opened
        for group in reversed(self._groups):
            if name in _known(group):
                return group
        loaded = _AUTOLOADED.get(self._protocol or 0)
        if loaded is not None and name in MATCHES[loaded]:
            return Group(Kind.MATCH, loaded)
        return None

    def _place(self, option: Option) -> None:
        """Put an option into the group it belongs to."""
        if option.name in BASIC:
            basic = option._replace(name=BASIC[option.name])
            self._add(Group(Kind.BASIC, basic.name, "", [basic]))
            if basic.name == "-p" and basic.args:
                name = basic.args[0]
                self._protocol = int(name) if name.isdecimal() else PROTOCOLS.get(name)
            return
        if option.name in COUNTERS:
            self._add(Group(Kind.COUNTERS, "", "", [option]))
            return
        owner = self._owner(option.name) or self._opened
        if owner is None:
            owner = Group(Kind.UNKNOWN, "")
        if not any(owner is group for group in self._groups):
            self._add(owner)
        owner.options.append(option)

    def _add(self, group: Group) -> Group:
        self._groups.append(group)
        return group

    def _from(self, start: int) -> str:
        """Return the text from a word to the last one that was taken."""
        return self._text[self._spans[start][0] : self._spans[self._at - 1][1]]


def _known(group: Group) -> Mapping[str, int]:
    if group.kind is Kind.MATCH:
        return MATCHES.get(group.name, {})
    if group.kind is Kind.JUMP:
        return TARGETS.get(group.name, {})
    return {}
