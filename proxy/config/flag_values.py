"""Texts of flag values to values, by the type of the flag."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping

from proxy.config.decode import QUANTITY
from proxy.config.durations import parse_duration
from proxy.config.flag_types import FlagType
from proxy.config.types import VModule
from proxy.config.validation import split_host_port
from proxy.model.addresses import pack_address

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def parse_value(kind: FlagType, text: str) -> object:
    """
    Return the value that *text* means for a flag of *kind*.

    Raises:
        ValueError: With what was expected.
    """
    return _PARSERS[kind](text)


def _bool(text: str) -> bool:
    if text not in _TRUE and text not in _FALSE:
        raise ValueError("expected true or false")
    return text in _TRUE


def _integer(text: str, low: int, high: int) -> int:
    digits = text.lstrip("+-")
    try:
        # Base 0 takes 0x, 0o and 0b; a plain leading zero means octal, as it does in Go.
        is_octal = len(digits) > 1 and digits.startswith("0") and digits.isdigit()
        value = int(text, 8 if is_octal else 0)
    except ValueError:
        raise ValueError("expected an integer") from None
    if not low <= value <= high:
        raise ValueError(f"expected an integer from {low} to {high}")
    return value


def _int(text: str) -> int:
    return _integer(text, -(2**31), 2**31 - 1)


def _uint(text: str) -> int:
    return _integer(text, 0, 2**32 - 1)


def _float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("expected a number") from None
    if not abs(value) <= 3.4e38:
        raise ValueError("expected a number within the range of a float32")
    return value


def _duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds is None:
        raise ValueError('expected a duration such as "30s"')
    return seconds


def _strings(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    try:
        return tuple(next(csv.reader([text], strict=True)))
    except (csv.Error, StopIteration):
        raise ValueError("expected a comma list") from None


def _ip(text: str) -> str:
    if text and pack_address(text) is None:
        raise ValueError("expected an IP address")
    return text


def _ip_port(text: str) -> str:
    if not text or pack_address(text) is not None:
        return text
    host, port = split_host_port(text)
    if host is None or port is None or pack_address(host) is None:
        raise ValueError("expected IP or IP:port")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError("expected a port from 0 to 65535")
    return text


def _gates(text: str) -> dict[str, bool]:
    gates = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f'expected Gate=true or Gate=false, got "{part}"')
        gates[name.strip()] = _bool(value.strip())
    return gates


def _vmodule(text: str) -> tuple[VModule, ...]:
    modules = []
    for part in filter(None, text.split(",")):
        pattern, equals, level = part.partition("=")
        if not equals or not pattern or "=" in level:
            raise ValueError(f'expected pattern=N, got "{part}"')
        modules.append(VModule(pattern, _integer(level, 0, 2**31 - 1)))
    return tuple(modules)


def _quantity(text: str) -> str:
    if QUANTITY.fullmatch(text) is None:
        raise ValueError('expected a quantity such as "64Ki"')
    return text


def _version(text: str) -> str:
    if text in _TRUE:
        return "true"
    if text in _FALSE:
        return "false"
    if text == "raw" or text.startswith("v"):
        return text
    raise ValueError("expected true, false, raw or a version such as v1.36.0")


_PARSERS: Mapping[FlagType, Callable[[str], object]] = {
    FlagType.BOOL: _bool,
    FlagType.INT: _int,
    FlagType.UINT: _uint,
    FlagType.FLOAT: _float,
    FlagType.DURATION: _duration,
    FlagType.STRING: str,
    FlagType.STRINGS: _strings,
    FlagType.IP: _ip,
    FlagType.IP_PORT: _ip_port,
    FlagType.GATES: _gates,
    FlagType.VMODULE: _vmodule,
    FlagType.QUANTITY: _quantity,
    FlagType.VERSION: _version,
}
