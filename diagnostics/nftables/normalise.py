"""One shape for what versions of nft, and its text and JSON, say differently."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diagnostics.nftables.constants import Plain, canonical
from diagnostics.nftables.data_types import Json, key_types
from diagnostics.nftables.stateful import DEFAULT_BURST_PACKETS
from diagnostics.nftables.values import seconds

_REJECT_DEFAULTS = {"ip": "icmp", "ip6": "icmpv6"}
# Statements whose body may be {} in one version and null in another.
_BODIES_MAY_BE_EMPTY = frozenset({"masquerade", "redirect", "log", "queue", "counter", "notrack"})


def normalise(statement: Json, family: str) -> Json:
    """
    Return a statement in the shape that this package promises.

    Against libnftables-JSON as printed: constants are names (ports are numbers), flags are a string
    or a list of two and more, ``reject`` says with what, ``numgen`` has an offset, ``limit`` a
    burst, ``ct`` keys carry their family (``ip saddr``), and xtables extensions are opaque.
    """
    if not isinstance(statement, dict) or len(statement) != 1:
        return {"opaque": str(statement)}
    name, body = next(iter(statement.items()))
    if name == "xt":
        return {"opaque": _xt_text(body)}
    body = expression(body)
    if not body and name in _BODIES_MAY_BE_EMPTY:
        return {name: None}
    rule = _STATEMENTS.get(name)
    return {name: rule(body, family) if rule and (body or name == "reject") else body}


def expression(value: Json) -> Json:
    """Return an expression, and all expressions inside it, in their normal shape."""
    if isinstance(value, list):
        return [expression(part) for part in value]
    if not isinstance(value, dict):
        return value
    found = {name: expression(part) for name, part in value.items()}
    if isinstance(numgen := found.get("numgen"), dict):
        found["numgen"] = {"offset": 0, **numgen}
    if isinstance(ct := found.get("ct"), dict):
        found["ct"] = _ct(ct)
    if isinstance(look_up := found.get("map"), dict) and "key" in look_up and "data" in look_up:
        types = key_types(look_up["key"])
        found["map"] = look_up | {"data": constants(look_up["data"], types)}
    return found


def constants(value: Json, types: Sequence[str]) -> Json:
    """Return a constant, or a set of them, of some data types with names as nft prints them."""
    if isinstance(value, (str, int)):
        return _plain(value, types[0])
    if isinstance(value, list):
        named = [constants(part, types) for part in value]
        return named[0] if len(named) == 1 else named
    if not isinstance(value, dict):
        return value
    return {name: _compound(name, part, types) for name, part in value.items()}


def _compound(name: str, value: Json, types: Sequence[str]) -> Json:
    if name == "set" and isinstance(value, list):
        return [_item(item, types) for item in value]
    if name == "concat" and isinstance(value, list):
        padded = [*types, *["integer"] * len(value)]
        return [constants(part, (kind,)) for part, kind in zip(value, padded, strict=False)]
    if name == "range" and isinstance(value, list):
        return [constants(part, types) for part in value]
    if name == "elem" and isinstance(value, dict) and "val" in value:
        return value | {"val": constants(value["val"], types)}
    return value


def _item(item: Json, types: Sequence[str]) -> Json:
    if isinstance(item, list) and len(item) == 2:
        return [constants(item[0], types), item[1]]
    return constants(item, types)


def _plain(value: Plain, kind: str) -> Plain:
    if kind == "duration" and isinstance(value, str):
        found = seconds(value)
        return value if found is None else found
    return canonical(kind, value)


def _ct(body: Json) -> Json:
    family = body.get("family")
    if family in ("ip", "ip6") and body.get("key") in ("saddr", "daddr"):
        rest = {name: part for name, part in body.items() if name != "family"}
        return rest | {"key": f"{family} {body['key']}"}
    return body


def _xt_text(body: Json) -> str:
    if isinstance(body, dict):
        return f"xt {body.get('type')} {body.get('name')}"
    return "xt"


def _match(body: Json, family: str) -> Json:
    left, right = body.get("left"), body.get("right")
    types = key_types(left)
    if isinstance(right, dict) and isinstance(right.get("|"), list):
        right = _flags(right["|"])
    if isinstance(left, dict) and isinstance(left.get("&"), list) and len(left["&"]) == 2:
        mask = left["&"][1]
        if isinstance(mask, dict) and isinstance(mask.get("|"), list):
            mask = _flags(mask["|"])
        left = {"&": [left["&"][0], constants(mask, types)]}
    return body | {"left": left, "right": constants(right, types)}


def _flags(parts: Json) -> Json:
    """Return the list of names that ``a | b | c`` combines, however it was nested."""
    found: list[Json] = []
    for part in parts:
        nested = part.get("|") if isinstance(part, dict) else None
        found.extend(_flags(nested) if isinstance(nested, list) else [part])
    return found


def _vmap(body: Json, family: str) -> Json:
    if "key" not in body or "data" not in body:
        return body
    return body | {"data": constants(body["data"], key_types(body["key"]))}


def _mangle(body: Json, family: str) -> Json:
    return body | {"value": constants(body.get("value"), key_types(body.get("key")))}


def _reject(body: Json, family: str) -> Json:
    if not body:
        return {"type": _REJECT_DEFAULTS.get(family, "icmpx"), "expr": "port-unreachable"}
    kind = body.get("type")
    if "expr" not in body:
        return body
    return body | {"expr": constants(body["expr"], (f"{kind}_code",))}


def _limit(body: Json, family: str) -> Json:
    if not isinstance(body, dict) or "rate_unit" in body:
        return body
    return {name: part for name, part in body.items() if name != "burst_unit"} | {
        "burst": body.get("burst") or DEFAULT_BURST_PACKETS
    }


def _nat(body: Json, family: str) -> Json:
    found = dict(body)
    if found.get("type_flags") in ("concat", ["concat"]):
        del found["type_flags"]
    for name in ("flags", "type_flags"):
        if isinstance(found.get(name), list) and len(found[name]) == 1:
            found[name] = found[name][0]
    return found


_STATEMENTS: dict[str, Callable[[Json, str], Json]] = {
    "match": _match,
    "vmap": _vmap,
    "mangle": _mangle,
    "reject": _reject,
    "limit": _limit,
    "dnat": _nat,
    "snat": _nat,
    "masquerade": _nat,
    "redirect": _nat,
    "queue": _nat,
}
