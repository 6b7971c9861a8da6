"""The text of a rule as the statements that ``nft -j`` would print for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diagnostics.nftables.constants import BITMASKS
from diagnostics.nftables.data_types import Json, key_types
from diagnostics.nftables.expressions import (
    parse_expression,
    parse_key,
    parse_table,
    starts_expression,
)
from diagnostics.nftables.nat import NAT, parse_nat, parse_tproxy
from diagnostics.nftables.stateful import STATEFUL, parse_ct_count, parse_stateful
from diagnostics.nftables.tokens import Unparsed, Words
from diagnostics.nftables.values import JUMPS, VERDICTS, atom, parse_data, parse_value, seconds

_OPERATORS = frozenset({"==", "!=", "<", ">", "<=", ">=", "!"})
_SET_OPERATIONS = frozenset({"add", "update", "delete"})
_CT_OBJECTS = {"helper", "timeout", "expectation"}
_LOG_NUMBERS = frozenset({"group", "snaplen", "queue-threshold"})
# After something unknown the rule is taken up again at one of these, which no match contains.
_RESUME = VERDICTS | JUMPS | STATEFUL | NAT | {"reject", "log", "queue", "notrack"}


def parse_statements(text: str) -> tuple[Json, ...]:
    """
    Return the statements of a rule's text, without comment and handle.

    Shapes are those of libnftables-JSON(5). Words that are not understood become one
    ``{"opaque": text}`` up to the next verdict, jump, NAT, counter or log statement.
    """
    words = Words(text)
    found: list[Json] = []
    while not words.done:
        start = words.at
        try:
            found.append(_statement(words))
        except (Unparsed, RecursionError):
            words.at = start
            found.append({"opaque": _skip(words)})
    return tuple(found)


def _skip(words: Words) -> str:
    start, depth = words.at, 0
    while not words.done:
        word = words.take()
        depth += (word == "{") - (word == "}")
        if depth <= 0 and words.peek() in _RESUME:
            break
    return words.between(start, words.at)


def _statement(words: Words) -> Json:
    word = words.peek()
    if word in _BY_WORD:
        return _BY_WORD[word](words)
    if word in _SET_OPERATIONS and words.peek(1).startswith("@"):
        return _set_statement(words)
    if word == "ct" and words.peek(1) == "count":
        return parse_ct_count(words)
    parser = _AFTER_WORD.get(word)
    if parser is not None:
        words.take()
        return parser(words)
    return _expression_statement(words)


def _expression_statement(words: Words) -> Json:
    left = parse_key(words)
    if words.skip("vmap"):
        return {"vmap": {"key": left, "data": parse_table(words)}}
    if words.skip("set"):
        return _mangle(words, left)
    if words.skip("map"):
        left = {"map": {"key": left, "data": parse_table(words)}}
    return {"match": _match(words, left)}


def _mangle(words: Words, key: Json) -> Json:
    object_kind = key.get("ct", {}).get("key") if isinstance(key.get("ct"), dict) else None
    if object_kind in _CT_OBJECTS:
        return {f"ct {object_kind}": words.string()}
    value = parse_expression(words) if starts_expression(words) else parse_value(words)
    return {"mangle": {"key": key, "value": value}}


def _match(words: Words, left: Json) -> Json:
    operator = words.take() if words.peek() in _OPERATORS else ""
    if words.peek() in ("exists", "missing"):
        return {"op": operator or "==", "left": left, "right": words.take() == "exists"}
    right = parse_expression(words) if _is_computed(words) else parse_value(words)
    if words.skip("/"):
        return {"op": operator or "==", "left": {"&": [left, atom(words.take())]}, "right": right}
    if not operator:
        tests_bits = key_types(left)[0] in BITMASKS and "&" not in left
        operator = "in" if tests_bits and not _is_set(right) else "=="
    return {"op": operator, "left": left, "right": right}


def _is_computed(words: Words) -> bool:
    return words.peek() in ("meta", "ct", "fib", "numgen", "jhash") and starts_expression(words)


def _is_set(value: Json) -> bool:
    return (isinstance(value, dict) and "set" in value) or (
        isinstance(value, str) and value.startswith("@")
    )


def _set_statement(words: Words) -> Json:
    operation, name = words.take(), words.take()
    words.expect("{")
    key: Json = parse_key(words)
    timeout, statements = None, []
    while words.peek() not in (":", "}"):
        if words.skip("timeout"):
            timeout = seconds(words.take())
        elif words.peek() == "ct":
            statements.append(parse_ct_count(words))
        elif words.peek() in STATEFUL:
            statements.append(parse_stateful(words))
        else:
            raise Unparsed
    found: dict[str, Json] = {
        "op": operation,
        "elem": key if timeout is None else {"elem": {"val": key, "timeout": timeout}},
    }
    if words.skip(":"):
        data = parse_key(words) if starts_expression(words) else parse_data(words)
        found |= {"data": data, "map": name}
    else:
        found["set"] = name
    words.expect("}")
    kind = "map" if "map" in found else "set"
    return {kind: found | ({"stmt": statements} if statements else {})}


def _reject(words: Words) -> Json:
    if not words.skip("with"):
        return {"reject": None}
    if words.skip("tcp"):
        words.expect("reset")
        return {"reject": {"type": "tcp reset"}}
    kind = words.one_of(("icmp", "icmpv6", "icmpx"))
    words.skip("type")
    return {"reject": {"type": kind, "expr": atom(words.take())}}


def _log(words: Words) -> Json:
    found: dict[str, Json] = {}
    while True:
        word = words.peek()
        if word in ("prefix", "level"):
            words.take()
            found[word] = words.string()
        elif word in _LOG_NUMBERS:
            words.take()
            found[word] = words.integer()
        elif word == "flags":
            words.take()
            words.expect("all")
            found["flags"] = "all"
        else:
            return {"log": found or None}


def _queue(words: Words) -> Json:
    found: dict[str, Json] = {}
    if words.skip("flags"):
        found["flags"] = atom(words.take())
    if words.skip("to") or words.skip("num"):
        target = parse_expression(words) if starts_expression(words) else atom(words.take())
        found["num"] = target
    while words.peek().split(",")[0] in ("bypass", "fanout"):
        found["flags"] = atom(words.take())
    return {"queue": found or None}


def _notrack(words: Words) -> Json:
    return {"notrack": None}


def _flow(words: Words) -> Json:
    words.one_of(("add", "offload"))
    return {"flow": {"op": "add", "flowtable": words.take()}}


def _forward(words: Words) -> Json:
    words.expect("to")
    return {"fwd": {"dev": words.string()}}


def _duplicate(words: Words) -> Json:
    words.expect("to")
    return {"dup": {"addr": words.string()}}


def _xt(words: Words) -> Json:
    kind = words.one_of(("match", "target"))
    return {"xt": {"type": kind, "name": words.string()}}


_BY_WORD: Mapping[str, Callable[[Words], Json]] = {
    **dict.fromkeys(VERDICTS | JUMPS, parse_data),
    **dict.fromkeys(STATEFUL, parse_stateful),
    **dict.fromkeys(NAT, parse_nat),
}
_AFTER_WORD: Mapping[str, Callable[[Words], Json]] = {
    "reject": _reject,
    "log": _log,
    "queue": _queue,
    "notrack": _notrack,
    "flow": _flow,
    "fwd": _forward,
    "dup": _duplicate,
    "tproxy": parse_tproxy,
    "xt": _xt,
}
