"""Whether an nftables ``match`` holds for a packet."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from diagnostics.nftables.constants import BITMASKS, NAMES
from diagnostics.nftables.data_types import Json, key_types
from diagnostics.nftables.elements import Element, bits
from diagnostics.trace.nft_values import Expressions, Special, Value, as_number, merged
from diagnostics.trace.packet import Packet
from diagnostics.trace.walk import Tri, tri

_ONE = Fraction(1)
_NEGATIONS = frozenset({"!=", "!"})
_ORDER = {
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}


def holds(body: Json, packet: Packet, expressions: Expressions) -> list[tuple[Tri, Fraction]]:
    """Return whether a match holds, with the probability of each answer."""
    return merged(_holds(body, packet, expressions))


def _holds(body: Json, packet: Packet, expressions: Expressions) -> Iterator[tuple[Tri, Fraction]]:
    left, right, operation = body["left"], body["right"], str(body["op"])
    for value, share in expressions.values(left, packet):
        if value is Special.NO_VALUE:
            yield Tri.NO, share
        elif value is Special.UNKNOWN:
            yield Tri.MAYBE, share
        elif _is_status(left):
            yield _status(value, right, operation), share
        elif isinstance(right, bool):
            yield tri((value != "") == (right == (operation != "!="))), share
        else:
            yield _compare(value, operation, left, right, expressions), share


def _compare(
    value: Value | Special, operation: str, left: Json, right: Json, expressions: Expressions
) -> Tri:
    assert not isinstance(value, Special)
    if operation in _ORDER:
        kind = key_types(left)[0]
        first, second = as_number(value, kind), as_number(right, kind)
        known = first is not None and second is not None
        return tri(_ORDER[operation](first, second)) if known else Tri.MAYBE
    kind = key_types(left)[0]
    if isinstance(right, list) and kind in BITMASKS and operation in ("==", "!="):
        wanted = bits(right, kind)
        found = wanted is not None and value in (wanted, _named(kind, wanted))
        return tri(found == (operation == "=="))
    choices = right if isinstance(right, list) else [right]
    answers = [_is_in(value, left, choice, expressions) for choice in choices]
    answer = Tri.NO
    if Tri.YES in answers:
        answer = Tri.YES
    elif Tri.MAYBE in answers:
        answer = Tri.MAYBE
    return ~answer if operation in _NEGATIONS else answer


def _named(kind: str, number: int) -> str | None:
    return next((name for name, bit in NAMES.get(kind, {}).items() if bit == number), None)


def _is_in(value: Value, left: Json, right: Json, expressions: Expressions) -> Tri:
    found = expressions.lookup(right, left, value)
    if isinstance(found, Element):
        return Tri.YES
    return Tri.MAYBE if found is Special.UNKNOWN else Tri.NO


def _is_status(left: Json) -> bool:
    return "ct" in left and left["ct"].get("key") == "status"


def _status(value: Value | Special, right: Json, operation: str) -> Tri:
    """
    Compare the status of a connection that is being opened.

    Beside the bits that have names the kernel sets one for each side when NAT has decided, so that
    the whole never equals one name.
    """
    wanted = bits(right, "ct_status")
    if wanted is None or not isinstance(value, int):
        return Tri.MAYBE
    if operation in ("in", "!"):
        return tri(bool(value & wanted) == (operation == "in"))
    return Tri.MAYBE if wanted == 0 else tri(operation == "!=")
