"""The elements of sets and maps: their keys as intervals of packed values, and what they carry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from diagnostics.nftables.constants import canonical, pack, pack_wildcard, width
from diagnostics.nftables.data_types import Json
from diagnostics.nftables.render import MALFORMED, as_json, render_element
from diagnostics.nftables.tokens import Unparsed, Words, unquote
from diagnostics.nftables.values import atom, parse_element

Span = tuple[int, int]
Types = tuple[tuple[str, ...], tuple[str, ...]]
CATCH_ALL = "*"

_PART = r'(?:"[^"]*"|[^\s,{}()"|]+)'
_JOINED = rf"{_PART}(?: \. {_PART})*"
# 10.96.0.10 . tcp . 80 comment "shop/web" : goto lb-3
_USUAL = re.compile(
    rf'\s*({_JOINED})(?: comment "([^"]*)")?'
    rf"(?: : (?:(goto|jump) ({_PART})|(accept|drop|return|continue)|({_JOINED})))?\s*(?:,(?=\s)|$)"
)
_constant = lru_cache(maxsize=4096)(atom)


@dataclass(frozen=True, slots=True)
class Element:
    """
    One element of a set or a map; all but its key is taken apart when it is asked for.

    Attributes:
        spans: per key field the lowest and highest packed value (constants.pack) that it covers;
            None when the key could not be read, () for the catch-all ``*``.
        source: the element in the shape of libnftables-JSON(5).
        types: the data types of the key's fields and of the data's.
    """

    spans: tuple[Span, ...] | None
    source: Json
    types: Types

    @property
    def key(self) -> Json:
        """The key as nft prints it: a constant, or ``{"concat"|"prefix"|"range": …}``."""
        return _named(_carried(self.source).get("val"), self.types[0])

    @property
    def data(self) -> Json:
        """None in a set; a verdict, a constant, or a tuple of constants in a map."""
        if isinstance(self.source, list) and len(self.source) == 2:
            return _data(self.source[1], self.types[1])
        return None

    @property
    def comment(self) -> str:
        """The comment, "" when there is none."""
        return str(_carried(self.source).get("comment") or "")

    @property
    def timeout(self) -> int | None:
        """Whole seconds of its own timeout; None when it has none."""
        return _whole(_carried(self.source).get("timeout"))

    @property
    def expires(self) -> int | None:
        """Whole seconds that were left when the dump was made; None when it does not expire."""
        return _whole(_carried(self.source).get("expires"))

    @property
    def text(self) -> str:
        """Return ``10.96.0.10 . tcp . 80 comment "shop/web" : goto lb-3``."""
        return render_element(self.key, self.data, self.comment, self.types)


def read_elements(
    source: str | Sequence[Json], key_types: tuple[str, ...], data_types: tuple[str, ...] = ()
) -> tuple[Element, ...]:
    """Return the elements of nft text without the outer braces, or of nft's JSON list."""
    raw = parse_elements(source) if isinstance(source, str) else source
    types = (key_types, data_types)
    return tuple(_safely(item, types) for item in raw)


def parse_elements(text: str) -> Iterator[Json]:
    """Yield elements as nft's JSON has them; what is no element is ``{"opaque": text}``."""
    at = 0
    # Words are slow: all elements up to the first with something special are taken at once.
    while (match := _USUAL.match(text, at)) is not None and match.end() > at:
        at = match.end()
        yield _usual(match)
    words = Words(text[at:])
    while not words.done:
        start = words.at
        try:
            found = parse_element(words)
            if not words.done:
                words.expect(",")
        except (Unparsed, RecursionError):
            words.at = start
            yield {"opaque": _skip_element(words)}
        else:
            yield from found


def _usual(match: re.Match[str]) -> Json:
    key, comment, jump, target, verdict, data = match.groups()
    found = _joined(key)
    if comment is not None:
        found = {"elem": {"val": found, "comment": comment}}
    if jump:
        return [found, {jump: {"target": unquote(target)}}]
    if verdict:
        return [found, {verdict: None}]
    return [found, _joined(data)] if data else found


def _joined(text: str) -> Json:
    if " . " not in text:
        return _constant(text)
    return {"concat": [_constant(part) for part in text.split(" . ")]}


def _skip_element(words: Words) -> str:
    start, depth = words.at, 0
    while not words.done:
        word = words.take()
        depth += (word == "{") - (word == "}")
        if depth <= 0 and word == ",":
            return words.between(start, words.at - 1)
    return words.between(start, words.at)


def _safely(item: Json, types: Types) -> Element:
    try:
        return Element(_spans(_carried(item).get("val"), types[0]), item, types)
    except MALFORMED:
        return Element(None, {"opaque": as_json(item)}, types)


def _carried(item: Json) -> dict[str, Json]:
    """Return the key as ``val`` with its attributes, whether nft printed some or not."""
    if isinstance(item, list) and len(item) == 2:
        item = item[0]
    if isinstance(item, dict) and isinstance(item.get("elem"), dict):
        return dict(item["elem"])
    return {"val": item}


def _whole(value: Json) -> int | None:
    return value if isinstance(value, int) else None


def _named(value: Json, types: tuple[str, ...]) -> Json:
    if isinstance(value, dict) and isinstance(value.get("concat"), list):
        pairs = zip(value["concat"], types, strict=False)
        return {"concat": [_named(part, (kind,)) for part, kind in pairs]}
    if isinstance(value, (str, int)) and types:
        return canonical(types[0], value)
    return value


def _data(value: Json, types: tuple[str, ...]) -> Json:
    if isinstance(value, dict) and isinstance(value.get("concat"), list):
        padded = [*types, *["integer"] * len(value["concat"])]
        return tuple(
            _named(part, (kind,)) for part, kind in zip(value["concat"], padded, strict=False)
        )
    return _named(value, types)


def _spans(value: Json, types: tuple[str, ...]) -> tuple[Span, ...] | None:
    if value == CATCH_ALL and types != ("ifname",):
        return ()
    parts = [value]
    if isinstance(value, dict) and isinstance(value.get("concat"), list):
        parts = value["concat"]
    if not types or len(parts) != len(types):
        return None
    found = []
    for part, kind in zip(parts, types, strict=True):
        span = _span(part, kind)
        if span is None:
            return None
        found.append(span)
    return tuple(found)


def _span(value: Json, kind: str) -> Span | None:
    if isinstance(value, (str, int)):
        if kind == "ifname" and isinstance(value, str) and value.endswith("*"):
            return pack_wildcard(value)
        point = pack(kind, value)
        return None if point is None else (point, point)
    if isinstance(value, list):
        found = bits(value, kind)
        return None if found is None else (found, found)
    return _interval(value, kind) if isinstance(value, dict) else None


def _interval(value: dict[str, Json], kind: str) -> Span | None:
    if isinstance(value.get("prefix"), dict):
        return _prefix(value["prefix"], kind)
    ends = value.get("range")
    if not isinstance(ends, list) or len(ends) != 2:
        return None
    low, high = (pack(kind, end) if isinstance(end, (str, int)) else None for end in ends)
    return None if low is None or high is None or low > high else (low, high)


def bits(value: Json, kind: str) -> int | None:
    """Return the bits of a flag or a list of flags, as of a match with ``in``; None: unknown."""
    found = 0
    for flag in value if isinstance(value, list) else [value]:
        packed = pack(kind, flag) if isinstance(flag, (str, int)) else None
        if packed is None:
            return None
        found |= packed
    return found


def _prefix(prefix: dict[str, Json], kind: str) -> Span | None:
    address, length = prefix.get("addr"), prefix.get("len")
    low = pack(kind, address) if isinstance(address, (str, int)) else None
    free = width(kind) - length if isinstance(length, int) else -1
    if low is None or not 0 <= free <= width(kind):
        return None
    mask = (1 << free) - 1
    return low & ~mask, low | mask
