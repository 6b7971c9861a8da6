"""NAT statements: what an address or a port is rewritten to."""

from __future__ import annotations

import re

from diagnostics.nftables.data_types import Json
from diagnostics.nftables.expressions import parse_expression, starts_expression
from diagnostics.nftables.tokens import Unparsed, Words
from diagnostics.nftables.values import atom

NAT = frozenset({"dnat", "snat", "masquerade", "redirect"})
_FLAGS = frozenset({"random", "fully-random", "persistent"})
_V4 = r"\d+(?:\.\d+){3}"
_TARGET = re.compile(
    # 10.0.0.1-10.0.0.9:80-90, [fd00::1]-[fd00::9]:80, :8080; either part may be missing
    rf"(?P<v4>{_V4}(?:-{_V4})?)?(?P<v6>\[[^\]]*\](?:-\[[^\]]*\])?)?(?::(?P<port>\d+(?:-\d+)?))?",
    re.ASCII,
)


def parse_nat(words: Words) -> Json:
    """Take a dnat, snat, masquerade or redirect statement with its target and flags."""
    kind = words.take()
    found: dict[str, Json] = {}
    if kind in ("dnat", "snat"):
        found |= _to_address(words)
    elif words.skip("to"):
        found["port"] = _port(words)
    flags = _flags(words)
    if found.get("type_flags") == "prefix":
        flags = ["netmap", *flags]
    if flags:
        found["flags"] = flags if len(flags) > 1 else flags[0]
    return {kind: found or None}


def parse_tproxy(words: Words) -> Json:
    """Take the rest of ``tproxy [ip|ip6] to address:port``."""
    found: dict[str, Json] = {}
    if words.peek() in ("ip", "ip6"):
        found["family"] = words.take()
    words.expect("to")
    return {"tproxy": found | split_target(words.take())}


def _to_address(words: Words) -> dict[str, Json]:
    found: dict[str, Json] = {}
    if words.peek() in ("ip", "ip6"):
        found["family"] = words.take()
    if words.peek() in ("prefix", "interval"):
        found["type_flags"] = words.take()
    if words.skip("addr"):
        words.expect(".", "port")
    words.expect("to")
    if starts_expression(words):
        found["addr"] = parse_expression(words)
        if words.peek().startswith(":"):  # dnat ip to … map { 0 : 10.0.0.1 }:8080
            separator = words.take()
            found |= split_target(separator if separator != ":" else f":{words.take()}")
    else:
        found |= split_target(words.take())
    return found


def _port(words: Words) -> Json:
    if starts_expression(words):
        return parse_expression(words)
    target = split_target(words.take())
    if set(target) != {"port"}:
        raise Unparsed
    return target["port"]


def split_target(word: str) -> dict[str, Json]:
    """Return ``addr`` and ``port`` of ``10.0.0.1:80``, ``[fd00::1]:80``, ``fd00::1`` or ``:80``."""
    match = _TARGET.fullmatch(word)
    if match is not None and word:
        found: dict[str, Json] = {}
        if match["v4"] or match["v6"]:
            found["addr"] = _range((match["v4"] or match["v6"]).replace("[", "").replace("]", ""))
        if match["port"]:
            found["port"] = atom(match["port"])
        return found
    if ":" not in word:
        raise Unparsed
    return {"addr": _range(word)}


def _range(text: str) -> Json:
    first, dash, last = text.partition("-")
    return {"range": [first, last]} if dash else atom(first)


def _flags(words: Words) -> list[str]:
    if not words.peek() or not set(words.peek().split(",")) <= _FLAGS:
        return []
    return words.take().split(",")
