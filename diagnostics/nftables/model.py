"""
An nftables ruleset as the kernel lists it.

Rules and elements keep what was read and are taken apart when they are first looked at: a trace
needs few of the many that a node has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diagnostics.nftables.collector import paused_collector
from diagnostics.nftables.data_types import Json
from diagnostics.nftables.elements import Element, read_elements
from diagnostics.nftables.index import Key, SetIndex
from diagnostics.nftables.render import render_rule
from diagnostics.nftables.rules import read_statements


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One rule.

    Attributes:
        handle: None when the dump has no handles.
        number: place in its chain, from 1.
        family: of its table.
        source: its text without handle and comment, or nft's JSON statements.
        comment: "" when there is none.
    """

    handle: int | None
    number: int
    family: str
    source: str | tuple[Json, ...]
    comment: str = ""
    _parsed: list[tuple[Json, ...]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @property
    def expressions(self) -> tuple[Json, ...]:
        """Return the statements in the shape of libnftables-JSON(5), see ``normalise``."""
        if not self._parsed:
            self._parsed.append(read_statements(self.source, self.family))
        return self._parsed[0]

    @property
    def text(self) -> str:
        """Return the rule as ``nft list`` prints it, with its comment, without its handle."""
        text = self.source if isinstance(self.source, str) else render_rule(self.expressions)
        return f'{text} comment "{self.comment}"'.strip() if self.comment else text


@dataclass(frozen=True, slots=True)
class Chain:
    """
    A chain; ``hook``, ``type`` and ``policy`` are None unless it is a base chain.

    ``priority`` is a number, 0 for a regular chain; ``device`` names are joined by ", ".
    """

    name: str
    hook: str | None
    type: str | None
    priority: int
    policy: str | None
    device: str | None
    rules: Sequence[Rule]
    comment: str = ""


@dataclass(frozen=True, slots=True)
class NamedSet:
    """
    A named set or map.

    Attributes:
        kind: ``set``, ``map``, or ``vmap`` for a map of verdicts.
        key_types, data_types: nft's names, one per field; no data types in a set.
        flags: ``interval``, ``timeout``, ``dynamic``, ``constant``. JSON of nft 1.0 leaves
            ``dynamic`` out.
        timeout: default of its elements in seconds.
        source: elements as nft text without the outer braces, or nft's JSON list.
    """

    name: str
    kind: str
    key_types: tuple[str, ...]
    data_types: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()
    timeout: int | None = None
    size: int | None = None
    comment: str = ""
    source: str | tuple[Json, ...] = ()
    _index: list[SetIndex] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def elements(self) -> tuple[Element, ...]:
        """Return all elements in the order of the dump; taken apart at every call."""
        return read_elements(self.source, self.key_types, self.data_types)

    @property
    def index(self) -> SetIndex:
        """Return the elements by key; built once."""
        if not self._index:
            with paused_collector():
                self._index.append(SetIndex(self.elements, self.key_types))
        return self._index[0]

    def lookup(self, key: Key) -> Element | None:
        """Return the element that covers *key*, see ``SetIndex.lookup``."""
        return self.index.lookup(key)


@dataclass(frozen=True, slots=True)
class Table:
    """
    A table; flowtables and stateful objects are left out.

    Of its ``flags``, ``dormant`` says that its base chains are not registered. JSON of nft 1.0
    leaves flags and comments of tables out.
    """

    family: str
    name: str
    chains: Mapping[str, Chain]
    sets: Mapping[str, NamedSet]
    comment: str = ""
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NftRuleset:
    """
    Tables by family and name, in the order of the dump.

    ``gaps`` says what of the dump could not be read, one sentence each.
    """

    tables: Mapping[tuple[str, str], Table]
    gaps: tuple[str, ...] = ()
