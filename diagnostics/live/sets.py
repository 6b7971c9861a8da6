"""
Named sets and maps of a running node: one element is asked for at a time.

Intervals, and keys whose bytes are not certain, are looked up in the whole set, which nft lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diagnostics.live.errors import ReadError
from diagnostics.live.kernel import KernelSet
from diagnostics.live.packed import Undecoded, element, key_types_of, packed_key, types_of
from diagnostics.nftables.elements import Element, read_elements
from diagnostics.nftables.index import Key, SetIndex
from diagnostics.nftables.json_reader import set_kind
from diagnostics.nftables.model import NamedSet

_INTERVAL, _MAP, _TIMEOUT, _DYNAMIC, _OBJECTS = 4, 8, 16, 32, 64
_FLAGS = {2: "constant", _INTERVAL: "interval", _TIMEOUT: "timeout", _DYNAMIC: "dynamic"}

AskElement = Callable[[bytes], bytes | None]
"""Returns the attributes of the element of a packed key."""


class KernelIndex(SetIndex):
    """Looks keys up in the kernel; each is asked for once."""

    __slots__ = ("_ask", "_data_types", "_found")

    def __init__(self, types: tuple[str, ...], data_types: tuple[str, ...], ask: AskElement):
        super().__init__((), types)
        self._data_types = data_types
        self._ask = ask
        self._found: dict[tuple[int, ...], Element | None] = {}

    def lookup(self, key: Key) -> Element | None:
        """Return the element of a key, see ``SetIndex.lookup``."""
        values = self._packed(key)
        if values is None:
            return None
        if values not in self._found:
            self._found[values] = self._element(values)
        return self._found[values]

    def _element(self, values: tuple[int, ...]) -> Element | None:
        found = self._ask(packed_key(self._types, values))
        if found is None:
            return None
        try:
            source = element(found, self._types, self._data_types)
        except (Undecoded, KeyError, ValueError) as error:
            raise ReadError(f"an element of a map could not be read: {error}") from error
        return read_elements([source], self._types, self._data_types)[0]


@dataclass(frozen=True, slots=True)
class KernelNamedSet(NamedSet):
    """
    A set whose elements stay in the kernel.

    Attributes:
        kernel_index: looks one key up.
        read_all: lists the whole set, for those who want all elements.
    """

    kernel_index: KernelIndex | None = None
    read_all: Callable[[], NamedSet] | None = None

    @property
    def elements(self) -> tuple[Element, ...]:
        """Return all elements, see ``NamedSet.elements``."""
        return self.read_all().elements if self.read_all else ()

    @property
    def index(self) -> SetIndex:
        """Return what looks keys up one at a time."""
        return self.kernel_index or SetIndex(self.elements, self.key_types)


def kernel_set(header: KernelSet, ask: AskElement, read_all: Callable[[], NamedSet]) -> NamedSet:
    """Return a named set that asks for single elements, or all of it where that cannot be done."""
    if header.flags & (_INTERVAL | _OBJECTS):
        return read_all()
    try:
        types = key_types_of(header)
        data = types_of(header.data_type) if header.flags & _MAP else ()
    except Undecoded:
        return read_all()
    return KernelNamedSet(
        header.name,
        set_kind(data),
        types,
        data,
        frozenset(name for bit, name in _FLAGS.items() if header.flags & bit),
        header.timeout_ms // 1000 or None,
        kernel_index=KernelIndex(types, data, ask),
        read_all=read_all,
    )
