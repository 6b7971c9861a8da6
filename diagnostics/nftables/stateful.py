"""Statements that keep state, alone in a rule or once per element of a set."""

from __future__ import annotations

from diagnostics.nftables.data_types import Json
from diagnostics.nftables.tokens import Unparsed, Words

STATEFUL = frozenset({"counter", "limit", "quota", "last"})
_BYTE_UNITS = ("bytes", "kbytes", "mbytes")
DEFAULT_BURST_PACKETS = 5


def parse_stateful(words: Words) -> dict[str, Json]:
    """Take a counter, limit, quota or last statement, anonymous or by the name of an object."""
    kind = words.take()
    if words.skip("name"):
        return {kind: words.string()}
    parsers = {"counter": _counter, "limit": _limit, "quota": _quota, "last": _last}
    return {kind: parsers[kind](words)}


def parse_ct_count(words: Words) -> dict[str, Json]:
    """Take ``ct count [over] N``."""
    words.expect("ct", "count")
    over = words.skip("over")
    found: dict[str, Json] = {"val": words.integer()}
    return {"ct count": found | ({"inv": True} if over else {})}


def _counter(words: Words) -> Json:
    if not words.skip("packets"):
        return None
    packets = words.integer()
    words.expect("bytes")
    return {"packets": packets, "bytes": words.integer()}


def _limit(words: Words) -> Json:
    words.expect("rate")
    over = words.skip("over")
    first = words.take()
    unit = ""
    if "/" not in first:
        unit, _, per = words.take().partition("/")
        rate = first
    else:
        rate, _, per = first.partition("/")
    if not rate.isdecimal() or not per:
        raise Unparsed
    burst, burst_unit = _burst(words, unit)
    found: dict[str, Json] = {"rate": int(rate), "burst": burst, "per": per}
    if unit:
        found |= {"rate_unit": unit, "burst_unit": burst_unit}
    return found | ({"inv": True} if over else {})


def _burst(words: Words, unit: str) -> tuple[int, str]:
    if not words.skip("burst"):
        return (0, "bytes") if unit else (DEFAULT_BURST_PACKETS, "packets")
    return words.integer(), words.one_of(("packets", *_BYTE_UNITS))


def _quota(words: Words) -> Json:
    over = words.skip("over")
    if not over:
        words.skip("until")
    found: dict[str, Json] = {"val": words.integer(), "val_unit": words.one_of(_BYTE_UNITS)}
    if words.skip("used"):
        found |= {"used": words.integer(), "used_unit": words.one_of(_BYTE_UNITS)}
    return found | ({"inv": True} if over else {})


def _last(words: Words) -> Json:
    if words.skip("used"):
        words.take()
    return None
