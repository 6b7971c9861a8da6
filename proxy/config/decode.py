"""
Plain values of a file to typed fields, collecting every problem instead of the first.

Unknown fields and duplicate keys are warnings: kube-proxy starts with them, so an old or new
file keeps a node working. Wrong types are errors, as they are for kube-proxy.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proxy.config import text
from proxy.config.durations import parse_duration
from proxy.config.gates import gate_problems
from proxy.config.problems import Problem
from proxy.config.schema import TREE, Field, Kind, Tree
from proxy.config.types import VModule

_INT32 = range(-(2**31), 2**31)
_UINT32 = range(2**32)
QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_MAX_SHOWN = 60  # characters of an offending value in a message


@dataclass(slots=True)
class Decoded:
    """Fields by path as far as they could be read, and what was wrong with the rest."""

    values: dict[str, object] = field(default_factory=dict)
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


class _WrongType(Exception):
    """A value is not of the field's kind; the arguments are a sub-path and what is expected."""


def decode_fields(document: text.Mapping) -> Decoded:
    """Return the typed fields of a KubeProxyConfiguration; apiVersion and kind are skipped."""
    decoded = Decoded()
    _decode_section(document, TREE, "", decoded, known=("apiVersion", "kind"))
    gates = document.get("featureGates")
    if "featureGates" in decoded.values and isinstance(gates, text.Mapping):
        decoded.warnings += gate_problems(_gates(gates), gates.lines)
    return decoded


def _decode_section(
    section: text.Mapping, tree: Tree, prefix: str, decoded: Decoded, known: tuple[str, ...] = ()
) -> None:
    for key in section.duplicates:
        message = "written more than once in the same mapping; the last one counts"
        line = section.lines.get(key)
        decoded.warnings.append(Problem(prefix + key, message, "duplicate-key", line=line))
    for key, value in section.items():
        if key in known:
            continue
        node = tree.get(key)
        line = section.lines.get(key)
        if node is None:
            problem = Problem(prefix + key, _unknown(key, tree), "unknown-field", value, line=line)
            decoded.warnings.append(problem)
        elif value is None:
            continue  # null is the same as leaving it out
        elif isinstance(node, Field):
            _decode_leaf(node, value, line, decoded)
        elif isinstance(value, text.Mapping):
            _decode_section(value, node, f"{prefix}{key}.", decoded)
        else:
            message = f"expected a mapping, got {show(value)}"
            decoded.errors.append(Problem(prefix + key, message, "type", value, line=line))


def _unknown(key: str, tree: Tree) -> str:
    by_lower = {name.lower(): name for name in tree}
    close = difflib.get_close_matches(key.lower(), by_lower, n=1, cutoff=0.8)
    hint = f'; did you mean "{by_lower[close[0]]}"?' if close else ""
    return f"unknown field, ignored{hint}"


def _decode_leaf(node: Field, value: object, line: int | None, decoded: Decoded) -> None:
    try:
        decoded.values[node.path] = _DECODERS[node.kind](value)
    except _WrongType as wrong:
        sub_path, expected, got = wrong.args
        message = f"expected {expected or node.kind.value}, got {show(got)}"
        decoded.errors.append(Problem(node.path + sub_path, message, "type", got, line=line))
    if isinstance(value, text.Mapping):
        for key in value.duplicates:
            path, where = f"{node.path}.{key}", value.lines.get(key)
            message = "written more than once in the same mapping; the last one counts"
            decoded.warnings.append(Problem(path, message, "duplicate-key", line=where))


def show(value: object) -> str:
    """Return *value* as a short piece of JSON for a message; sections only by their kind."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise _WrongType("", "", value)
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise _WrongType("", "", value)
    return value


def _integer(value: object, allowed: range) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # YAML's 1e3 and 10.0 are integers to kube-proxy too
    if isinstance(value, bool) or not isinstance(value, int):
        raise _WrongType("", "", value)
    if value not in allowed:
        limits = f"an integer from {allowed.start} to {allowed.stop - 1}"
        raise _WrongType("", limits, value)
    return value


def _int32(value: object) -> int:
    return _integer(value, _INT32)


def _uint32(value: object) -> int:
    return _integer(value, _UINT32)


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _WrongType("", "", value)
    if not abs(value) <= 3.4e38:  # also refuses NaN, which no JSON number can be
        raise _WrongType("", "a number within the range of a float32", value)
    return float(value)


def _duration(value: object) -> float:
    seconds = parse_duration(value) if isinstance(value, str) else None
    if seconds is None:
        raise _WrongType("", "", value)
    return seconds


def _duration_or_nanoseconds(value: object) -> float:
    if isinstance(value, str):
        return _duration(value)
    return _integer(value, range(-(2**63), 2**63)) / 10**9


def _quantity(value: object) -> str:
    shown = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(shown, str) or QUANTITY.fullmatch(shown) is None:
        raise _WrongType("", "", value)
    return shown


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _WrongType("", "", value)
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise _WrongType(f"[{index}]", "a string", item)
    return tuple(value)


def _gates(value: object) -> dict[str, bool]:
    if not isinstance(value, dict):
        raise _WrongType("", "", value)
    for name, enabled in value.items():
        if not isinstance(enabled, bool):
            raise _WrongType(f".{name}", "true or false", enabled)
    return dict(value)


def _vmodule(value: object) -> tuple[VModule, ...]:
    if not isinstance(value, list):
        raise _WrongType("", "", value)
    return tuple(_vmodule_item(item, f"[{index}]") for index, item in enumerate(value))


def _vmodule_item(item: object, path: str) -> VModule:
    if not isinstance(item, dict) or not item.keys() <= {"filePattern", "verbosity"}:
        raise _WrongType(path, "a mapping with filePattern and verbosity", item)
    pattern, verbosity = item.get("filePattern", ""), item.get("verbosity", 0)
    if not isinstance(pattern, str):
        raise _WrongType(f"{path}.filePattern", "a string", pattern)
    if isinstance(verbosity, bool) or not isinstance(verbosity, int) or verbosity not in _UINT32:
        raise _WrongType(f"{path}.verbosity", Kind.UINT32.value, verbosity)
    return VModule(pattern, verbosity)


_DECODERS: Mapping[Kind, Callable[[object], object]] = {
    Kind.STRING: _string,
    Kind.BOOL: _bool,
    Kind.INT32: _int32,
    Kind.UINT32: _uint32,
    Kind.FLOAT: _float,
    Kind.DURATION: _duration,
    Kind.DURATION_OR_NANOSECONDS: _duration_or_nanoseconds,
    Kind.QUANTITY: _quantity,
    Kind.STRINGS: _strings,
    Kind.GATES: _gates,
    Kind.VMODULE: _vmodule,
}
