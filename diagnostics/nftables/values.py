"""Constants in the text of rules and sets: numbers, addresses, prefixes, ranges, elements."""

from __future__ import annotations

import re

from diagnostics.nftables.constants import number
from diagnostics.nftables.data_types import Json
from diagnostics.nftables.stateful import STATEFUL, parse_stateful
from diagnostics.nftables.tokens import Unparsed, Words, unquote

VERDICTS = frozenset({"accept", "drop", "return", "continue"})
JUMPS = frozenset({"jump", "goto"})

_SIDE = r"0x[0-9a-fA-F]+|\d+(?:\.\d+\.\d+\.\d+)?|[0-9a-fA-F]*:[0-9a-fA-F:.]*"
_PREFIX = re.compile(r"([0-9a-fA-F.:]*[.:][0-9a-fA-F.:]*|\d+)/(\d{1,3})", re.ASCII)
_RANGE = re.compile(rf"({_SIDE})-({_SIDE})", re.ASCII)
_DURATION = re.compile(
    r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:\d+ms)?", re.ASCII
)
_UNIT_SECONDS = (604800, 86400, 3600, 60, 1)


def seconds(text: str) -> int | None:
    """Return the whole seconds of ``2h30m5s392ms``, or None when it is no duration."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return number(text)
    return sum(
        int(part or 0) * unit for part, unit in zip(match.groups(), _UNIT_SECONDS, strict=True)
    )


def atom(word: str) -> Json:
    """Return one constant: an int, a string, a prefix, a range, or a list of flags."""
    found = number(word)
    if found is not None:
        return found
    if word.startswith('"'):
        first, dash, last = word.partition('"-"')
        return {"range": [first[1:], last[:-1]]} if dash else unquote(word)
    match = _PREFIX.fullmatch(word)
    if match is not None:
        return {"prefix": {"addr": match[1], "len": int(match[2])}}
    match = _RANGE.fullmatch(word)
    if match is not None:
        return {"range": [atom(match[1]), atom(match[2])]}
    if "," in word:
        return [atom(part) for part in word.split(",") if part]
    return word


def parse_value(words: Words) -> Json:
    """Take a constant, a concatenation of constants, a set or the name of a set."""
    if words.peek() == "{":
        return {"set": parse_items(words)}
    found = _flags(words)
    if words.peek() != ".":
        return found
    parts = [found]
    while words.skip("."):
        parts.append(_flags(words))
    return {"concat": parts}


def _flags(words: Words) -> Json:
    if words.skip("("):
        inner = _flags(words)
        words.expect(")")
        return inner
    word = words.take()
    if word in "{}),.|":
        raise Unparsed
    found = atom(word)
    if words.peek() != "|":
        return found
    flags = [found]
    while words.skip("|"):
        flags.append(atom(words.take()))
    return {"|": flags}


def parse_items(words: Words) -> list[Json]:
    """Take ``{ element, element … }``; what is no element becomes ``{"opaque": text}``."""
    words.expect("{")
    items: list[Json] = []
    while not words.skip("}"):
        if words.done:
            raise Unparsed
        items.extend(parse_element(words))
        if words.peek() != "}":
            words.expect(",")
    return items


def parse_element(words: Words) -> list[Json]:
    """Take one element with its attributes and its data; several when written as ``a,b``."""
    key = parse_value(words)
    keys = key if isinstance(key, list) else [key]
    attributes = _attributes(words)
    if attributes:
        keys = [{"elem": {"val": one, **attributes}} for one in keys]
    if not words.skip(":"):
        return keys
    data = parse_data(words)
    return [[one, data] for one in keys]


def parse_data(words: Words) -> Json:
    """Take what a map returns: a verdict, a constant or a concatenation."""
    word = words.peek()
    if word in VERDICTS:
        return {words.take(): None}
    if word in JUMPS:
        return {words.take(): {"target": words.string()}}
    return parse_value(words)


def _attributes(words: Words) -> dict[str, Json]:
    found: dict[str, Json] = {}
    while True:
        word = words.peek()
        if word in ("timeout", "expires"):
            words.take()
            found[word] = seconds(words.take())
        elif word == "comment":
            words.take()
            found[word] = words.string()
        elif word in STATEFUL:
            found |= parse_stateful(words)
        else:
            return found
