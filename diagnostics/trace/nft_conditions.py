"""Whether an nftables ``match`` holds for a packet."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from diagnostics.nftables.data_types import Json
from diagnostics.nftables.elements import Element
from diagnostics.trace.nft_values import Expressions, Special, Value
from diagnostics.trace.packet import Packet
from diagnostics.trace.walk import Tri, tri

_ONE = Fraction(1)
_ORDER = {
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}


def holds(body: Json, packet: Packet, expressions: Expressions) -> Iterator[tuple[Tri, Fraction]]:
    """Yield whether a match holds, with the probability of each answer."""
    left, right, operation = body["left"], body["right"], str(body["op"])
    if "ct" in left and left["ct"].get("key") == "status":
        yield _status(right, operation, packet), _ONE
        return
    for value, share in expressions.values(left, packet):
        if value is Special.NO_VALUE:
            yield Tri.NO, share
        elif value is Special.UNKNOWN:
            yield Tri.MAYBE, share
        else:
            yield _compare(value, operation, left, right, expressions), share


def _compare(
    value: Value | Special, operation: str, left: Json, right: Json, expressions: Expressions
) -> Tri:
    assert not isinstance(value, Special)
    if operation in _ORDER:
        both = isinstance(value, int) and isinstance(right, int)
        return tri(_ORDER[operation](value, right)) if both else Tri.MAYBE
    choices = right if isinstance(right, list) else [right]
    answers = [_is_in(value, left, choice, expressions) for choice in choices]
    answer = Tri.NO
    if Tri.YES in answers:
        answer = Tri.YES
    elif Tri.MAYBE in answers:
        answer = Tri.MAYBE
    return ~answer if operation == "!=" else answer


def _is_in(value: Value, left: Json, right: Json, expressions: Expressions) -> Tri:
    found = expressions.lookup(right, left, value)
    if isinstance(found, Element):
        return Tri.YES
    return Tri.MAYBE if found is Special.UNKNOWN else Tri.NO


def _status(right: Json, operation: str, packet: Packet) -> Tri:
    have: set[str] = set()
    if packet.is_translated:
        have.add("dnat")
    if packet.source_rewritten:
        have.add("snat")
    wanted = set(right if isinstance(right, list) else [right])
    answer = tri(bool(have & wanted))
    return ~answer if operation == "!=" else answer
