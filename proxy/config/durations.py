"""Go duration strings (``1h0m0s``), the only spelling of durations in kube-proxy's files."""

from __future__ import annotations

import re
from fractions import Fraction

_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,  # micro sign
    "\u03bcs": 10**3,  # Greek small letter mu
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_TERM = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_MAX_NANOSECONDS = 2**63 - 1  # a Go duration is an int64
_MAX_LENGTH = 128  # longer texts are refused before any arithmetic


def parse_duration(text: str) -> float | None:
    """Return *text* in seconds (negative allowed), or None when it is no Go duration."""
    sign, body = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if body == "0":
        return 0.0
    if not body or len(body) > _MAX_LENGTH:
        return None
    nanoseconds, position = Fraction(0), 0
    while position < len(body):
        term = _TERM.match(body, position)
        if term is None:
            return None
        nanoseconds += Fraction(term[1]) * _NANOSECONDS[term[2]]
        position = term.end()
    if nanoseconds > _MAX_NANOSECONDS:
        return None
    return sign * float(int(nanoseconds) / Fraction(10**9))


def format_duration(seconds: float) -> str:
    """Return *seconds* in Go's canonical spelling: ``0s``, ``1.5s``, ``15m0s``, ``24h0m0s``."""
    nanoseconds = round(seconds * 10**9)
    sign, nanoseconds = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 10**9:
        unit = "ms" if nanoseconds >= 10**6 else "\u00b5s" if nanoseconds >= 10**3 else "ns"
        return f"{sign}{_decimal(nanoseconds, _NANOSECONDS[unit])}{unit}"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    parts = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{parts}{_decimal(rest, 10**9)}s"


def _decimal(nanoseconds: int, unit: int) -> str:
    whole, fraction = divmod(nanoseconds, unit)
    digits = str(fraction).zfill(len(str(unit)) - 1).rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)
