"""
Finds the element of a set or map that covers a key.

Elements of plain values are in one dictionary. Where a field is a prefix, a range or ends in ``*``,
fields are levels of a tree: each node has a dictionary of the values and a sorted list of the
intervals of its field, so that a look-up costs O(log n) per field. Intervals may overlap
(``10.0.0.0/8 . 80`` and ``10.1.0.0/16 . 443``); all that cover the key are followed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from diagnostics.nftables.constants import KeyValue, pack
from diagnostics.nftables.data_types import Json
from diagnostics.nftables.elements import Element, Span, read_elements

Key = Sequence[KeyValue]


class _Node:
    """One field: what follows a value, and what follows each interval."""

    __slots__ = ("_highest", "_spans", "intervals", "points")

    def __init__(self) -> None:
        self.points: dict[int, _Node | Element] = {}
        self.intervals: dict[Span, _Node | Element] = {}
        self._spans: list[Span] = []
        self._highest: list[int] = []

    def add(self, spans: tuple[Span, ...], element: Element) -> None:
        """Add an element by its remaining fields; the first of several equal ones stays."""
        low, high = spans[0]
        key: int | Span = low if low == high else spans[0]
        where: dict[int, _Node | Element] | dict[Span, _Node | Element]
        where = self.points if low == high else self.intervals
        if len(spans) == 1:
            where.setdefault(key, element)  # type: ignore[arg-type]
            return
        child = where.setdefault(key, _Node())  # type: ignore[arg-type]
        if isinstance(child, _Node):
            child.add(spans[1:], element)

    def seal(self) -> None:
        """Sort the intervals; to be called once, before the first look-up."""
        self._spans = sorted(self.intervals)
        highest = -1
        for _, high in self._spans:
            highest = max(highest, high)
            self._highest.append(highest)
        for child in (*self.points.values(), *self.intervals.values()):
            if isinstance(child, _Node):
                child.seal()

    def find(self, key: Sequence[int]) -> Element | None:
        """Return the element that covers a packed key."""
        found = _descend(self.points.get(key[0]), key)
        at = bisect_right(self._spans, key[0], key=lambda span: span[0]) - 1
        while found is None and at >= 0 and self._highest[at] >= key[0]:
            span = self._spans[at]
            if span[1] >= key[0]:
                found = _descend(self.intervals[span], key)
            at -= 1
        return found


def _descend(child: _Node | Element | None, key: Sequence[int]) -> Element | None:
    return child.find(key[1:]) if isinstance(child, _Node) else child


class SetIndex:
    """
    Elements by key.

    Attributes:
        opaque: elements whose key could not be read; a key that was not found may be one of them.
    """

    __slots__ = ("_catch_all", "_plain", "_tree", "_types", "opaque")

    def __init__(self, elements: Iterable[Element], types: tuple[str, ...]) -> None:
        self._types = types
        self._plain: dict[tuple[int, ...], Element] = {}
        self._tree = _Node()
        self._catch_all: Element | None = None
        opaque = []
        for element in elements:
            if element.spans is None:
                opaque.append(element)
            elif not element.spans:
                self._catch_all = element
            else:
                self._add(element.spans, element)
        self.opaque = tuple(opaque)
        self._tree.seal()

    def _add(self, spans: tuple[Span, ...], element: Element) -> None:
        if all(low == high for low, high in spans):
            self._plain.setdefault(tuple(low for low, _ in spans), element)
        else:
            self._tree.add(spans, element)

    def lookup(self, key: Key) -> Element | None:
        """
        Return the element that covers *key*, or None.

        *key* has one value per field of the set: an ``ipaddress`` address, packed bytes, text as
        nft prints it (``tcp``, ``eth0``, ``new``), or an integer (protocol, port, mark, address).
        """
        packed = self._packed(key)
        if packed is None:
            return None
        return self._plain.get(packed) or self._tree.find(packed) or self._catch_all

    def _packed(self, key: Key) -> tuple[int, ...] | None:
        if not key or len(key) != len(self._types):
            return None
        found = []
        for kind, value in zip(self._types, key, strict=True):
            number = pack(kind, value)
            if number is None:
                return None
            found.append(number)
        return tuple(found)


def literal_index(value: Json, types: tuple[str, ...], data: tuple[str, ...] = ()) -> SetIndex:
    """
    Return the index of what stands in a rule: a constant, prefix, range, or anonymous set or map.

    *value* is the right side of a match, or the data of a map or vmap; *types* are the key's types.
    """
    is_set = isinstance(value, dict) and isinstance(value.get("set"), list)
    items = value["set"] if is_set else [{"elem": {"val": value}}]
    return SetIndex(read_elements(items, types, data), types)
