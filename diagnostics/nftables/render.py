"""Statements, elements and constants as ``nft list`` prints them, for citing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from diagnostics.nftables.data_types import Json, key_types

_META_ALONE = frozenset(
    ("iif", "oif", "iifname", "oifname", "iiftype", "oiftype", "iifgroup", "oifgroup")
)
_QUOTED = frozenset({"ifname", "iface_index", "day", "time_of_day", "time", "string"})
_OPERATORS = frozenset({"&", "|", "^", "<<", ">>"})
_VERDICTS = frozenset({"accept", "drop", "return", "continue", "notrack"})
Types = Sequence[str]
# What taking apart JSON of an unexpected shape may raise.
MALFORMED = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)


def as_json(value: Json) -> str:
    """Return the text of something that has no other."""
    try:
        return json.dumps(value)
    except RecursionError:
        return "nested too deeply"


def duration(seconds: int) -> str:
    """Return ``2h30m5s``."""
    text = ""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


_NUMBERS: Mapping[str, Callable[[int], str]] = {
    "mark": "0x{:08x}".format,
    "duration": duration,
    "raw": hex,
}


def render_rule(statements: Sequence[Json]) -> str:
    """Return the text of a rule's statements, without comment."""
    return " ".join(render_statement(statement) for statement in statements)


def render_element(key: Json, data: Json, comment: str, types: tuple[Types, Types]) -> str:
    """Return the text of one element: key, comment and data."""
    note = f' comment "{comment}"' if comment else ""
    try:
        text = render_value(key, types[0]) + note
        return text if data is None else f"{text} : {_render_data(data, types[1])}"
    except MALFORMED:
        return as_json([key, data]) + note


def _render_data(data: Json, types: Types) -> str:
    if isinstance(data, dict) and not {"prefix", "range", "concat"} & data.keys():
        return render_statement(data)
    return render_value({"concat": list(data)} if isinstance(data, tuple) else data, types)


def render_statement(statement: Json) -> str:
    """Return the text of one statement; JSON for one that this module does not know."""
    if not isinstance(statement, dict) or len(statement) != 1:
        return as_json(statement)
    name, body = next(iter(statement.items()))
    if name in _VERDICTS and body is None:
        return str(name)
    writer = _STATEMENTS.get(name)
    try:
        return writer(name, body) if writer else as_json(statement)
    except MALFORMED:
        return as_json(statement)


def render_value(value: Json, types: Types = ("integer",)) -> str:
    """Return the text of a constant, concatenation, set or set name of some data types."""
    kind = types[0] if types else "integer"
    if isinstance(value, bool):
        return "exists" if value else "missing"
    if isinstance(value, int):
        return _NUMBERS.get(kind, str)(value)
    if isinstance(value, str):
        return f'"{value}"' if kind in _QUOTED and not value.startswith("@") else value
    if isinstance(value, list):
        return ",".join(render_value(part, types) for part in value)
    return _render_compound(value, types) if isinstance(value, dict) else json.dumps(value)


def _render_compound(value: Mapping[str, Json], types: Types) -> str:
    name = next(iter(value), "")
    writer = _CONSTANTS.get(name)
    return writer(value[name], types) if writer else render_expression(value)


def _concatenation(body: Json, types: Types) -> str:
    padded = [*types, *["integer"] * len(body)]
    return " . ".join(render_value(p, (k,)) for p, k in zip(body, padded, strict=False))


_CONSTANTS: Mapping[str, Callable[[Json, Types], str]] = {
    "concat": _concatenation,
    "prefix": lambda body, _: f"{body['addr']}/{body['len']}",
    "range": lambda body, types: "-".join(render_value(end, types) for end in body),
    "set": lambda body, types: f"{{ {', '.join(_render_item(item, types) for item in body)} }}",
    "elem": lambda body, types: render_value(body.get("val"), types),
    "opaque": lambda body, _: str(body),
}


def _render_item(item: Json, types: Types) -> str:
    if isinstance(item, list) and len(item) == 2:
        return f"{render_value(item[0], types)} : {_render_data(item[1], ())}"
    return render_value(item, types)


def render_expression(expression: Json) -> str:
    """Return the text of an expression; JSON for one that this module does not know."""
    if not isinstance(expression, dict) or not expression:
        return render_value(expression) if expression else json.dumps(expression)
    name, body = next(iter(expression.items()))
    if name in _OPERATORS:
        kind = key_types(body[0])
        parts = (_render_operand(part, kind) for part in body)
        return f" {name} ".join(parts)
    writer = _EXPRESSIONS.get(name)
    return writer(body) if writer else json.dumps(expression)


def _render_operand(value: Json, types: Types) -> str:
    if not isinstance(value, dict) or {"prefix", "range", "concat"} & value.keys():
        return render_value(value, types)
    return render_expression(value)


def _payload(body: Json) -> str:
    if "base" in body:
        return f"@{body['base']},{body['offset']},{body['len']}"
    return f"{body['protocol']} {body['field']}"


def _meta(body: Json) -> str:
    return str(body["key"]) if body["key"] in _META_ALONE else f"meta {body['key']}"


def _ct(body: Json) -> str:
    return " ".join(part for part in ("ct", body.get("dir"), body["key"]) if part)


def _fib(body: Json) -> str:
    flags = body["flags"] if isinstance(body["flags"], list) else [body["flags"]]
    return f"fib {' . '.join(flags)} {body['result']}"


def _numgen(body: Json) -> str:
    offset = f" offset {body['offset']}" if body.get("offset") else ""
    return f"numgen {body['mode']} mod {body['mod']}{offset}"


def _jhash(body: Json) -> str:
    seed = f" seed {body['seed']:#x}" if "seed" in body else ""
    offset = f" offset {body['offset']}" if body.get("offset") else ""
    return f"jhash {render_expression(body['expr'])} mod {body['mod']}{seed}{offset}"


def _symhash(body: Json) -> str:
    offset = f" offset {body['offset']}" if body.get("offset") else ""
    return f"symhash mod {body['mod']}{offset}"


def _look_up(body: Json) -> str:
    return _table("map", body)


def _table(word: str, body: Json) -> str:
    types = key_types(body["key"])
    return f"{render_expression(body['key'])} {word} {render_value(body['data'], types)}"


def _header(name: str) -> Callable[[Json], str]:
    return lambda body: " ".join(p for p in (name, body["name"], body.get("field")) if p)


_EXPRESSIONS: Mapping[str, Callable[[Json], str]] = {
    "payload": _payload,
    "meta": _meta,
    "ct": _ct,
    "fib": _fib,
    "numgen": _numgen,
    "jhash": _jhash,
    "symhash": _symhash,
    "map": _look_up,
    "concat": lambda body: " . ".join(render_expression(part) for part in body),
    "rt": lambda body: " ".join(p for p in ("rt", body.get("family"), body["key"]) if p),
    "socket": lambda body: f"socket {body['key']}",
    "exthdr": lambda body: " ".join(p for p in (body["name"], body.get("field")) if p),
    "tcp option": _header("tcp option"),
}


def _match(name: str, body: Json) -> str:
    left, right, operator = body["left"], body["right"], body["op"]
    types = key_types(left)
    if "&" in left and types == ("tcp_flag",) and isinstance(left["&"][1], (str, list)):
        field, mask = left["&"]
        sign = " != " if operator == "!=" else " "
        flags = f"{render_value(right, types)} / {render_value(mask, types)}"
        return f"{render_expression(field)}{sign}{flags}"
    implicit = operator == "in" or (operator == "==" and not _OPERATORS & left.keys())
    sign = " " if implicit else f" {operator} "
    if isinstance(right, list) and operator != "in":
        return render_expression(left) + sign + " | ".join(render_value(p, types) for p in right)
    return f"{render_expression(left)}{sign}{render_value(right, types)}"


def _vmap(name: str, body: Json) -> str:
    return _table(name, body)


def _mangle(name: str, body: Json) -> str:
    value = _render_operand(body["value"], key_types(body["key"]))
    return f"{render_expression(body['key'])} set {value}"


def _jump(name: str, body: Json) -> str:
    return f"{name} {body['target']}"


def _reject(name: str, body: Json) -> str:
    if body["type"] == "tcp reset":
        return "reject with tcp reset"
    if body["expr"] == "port-unreachable":
        return "reject"
    return f"reject with {body['type']} {body['expr']}"


def _nat(name: str, body: Json) -> str:
    if body is None:
        return name
    words = [name, body.get("family", ""), body.get("type_flags", "")]
    target = _nat_target(body)
    words += ["to", target] if target else []
    flags = body.get("flags", [])
    listed = [flag for flag in ([flags] if isinstance(flags, str) else flags) if flag != "netmap"]
    return " ".join(word for word in (*words, ",".join(listed)) if word)


def _nat_target(body: Json) -> str:
    address, port = body.get("addr"), body.get("port")
    text = "" if address is None else _render_operand(address, ())
    if port is None:
        return text
    if isinstance(port, dict) and "range" not in port:
        return f"{text}:{render_expression(port)}" if text else render_expression(port)
    if ":" in text:
        text = "-".join(f"[{part}]" for part in text.split("-"))
    return f"{text}:{render_value(port)}"


def _counter(name: str, body: Json) -> str:
    if body is None:
        return name
    if isinstance(body, str):
        return f'{name} name "{body}"'
    return f"{name} packets {body['packets']} bytes {body['bytes']}"


def _limit(name: str, body: Json) -> str:
    if isinstance(body, str):
        return f'{name} name "{body}"'
    over = "over " if body.get("inv") else ""
    if "rate_unit" in body:
        unit = f" {body['rate_unit']}"
        burst = f" burst {body['burst']} {body['burst_unit']}" if body.get("burst") else ""
    else:
        unit = ""
        burst = f" burst {body['burst']} packets" if body["burst"] != 5 else ""
    return f"limit rate {over}{body['rate']}{unit}/{body['per']}{burst}"


def _quota(name: str, body: Json) -> str:
    if isinstance(body, str):
        return f'{name} name "{body}"'
    over = "over " if body.get("inv") else ""
    used = f" used {body['used']} {body['used_unit']}" if body.get("used") else ""
    return f"quota {over}{body['val']} {body['val_unit']}{used}"


def _ct_count(name: str, body: Json) -> str:
    return f"{name} {'over ' if body.get('inv') else ''}{body['val']}"


def _ct_object(name: str, body: Json) -> str:
    return f'{name} set "{body}"'


def _log(name: str, body: Json) -> str:
    words = [name]
    for key, value in (body or {}).items():
        words += [key, f'"{value}"' if key == "prefix" else str(value)]
    return " ".join(words)


def _queue(name: str, body: Json) -> str:
    if body is None:
        return name
    flags = body.get("flags", [])
    words = [name]
    if flags:
        words += ["flags", ",".join([flags] if isinstance(flags, str) else flags)]
    return " ".join([*words, "to", _render_operand(body.get("num", 0), ())])


def _update(name: str, body: Json) -> str:
    key, timeout = body["elem"], ""
    if "elem" in key:
        timeout = f" timeout {duration(key['elem']['timeout'])}"
        key = key["elem"]["val"]
    data = f" : {_render_operand(body['data'], ())}" if "data" in body else ""
    stateful = "".join(f" {render_statement(one)}" for one in body.get("stmt", ()))
    target = body["map" if "map" in body else "set"]
    return f"{body['op']} {target} {{ {render_expression(key)}{timeout}{stateful}{data} }}"


_STATEMENTS: Mapping[str, Callable[[str, Json], str]] = {
    "match": _match,
    "vmap": _vmap,
    "mangle": _mangle,
    "jump": _jump,
    "goto": _jump,
    "reject": _reject,
    "dnat": _nat,
    "snat": _nat,
    "masquerade": _nat,
    "redirect": _nat,
    "counter": _counter,
    "limit": _limit,
    "quota": _quota,
    "ct count": _ct_count,
    "ct helper": _ct_object,
    "ct timeout": _ct_object,
    "ct expectation": _ct_object,
    "log": _log,
    "queue": _queue,
    "set": _update,
    "map": _update,
    "opaque": lambda _, body: str(body),
    "meter": lambda _, body: (
        f"meter {body['name']} size {body['size']} "
        f"{{ {render_expression(body['key'])} {render_statement(body['stmt'])} }}"
    ),
    "last": lambda name, _: name,
    "fwd": lambda _, body: f'fwd to "{body["dev"]}"',
    "dup": lambda _, body: f'dup to "{body["addr"]}"',
    "flow": lambda _, body: f"flow {body['op']} {body['flowtable']}",
    "tproxy": lambda _, body: " ".join(
        word for word in ("tproxy", body.get("family"), "to", _nat_target(body)) if word
    ),
}
