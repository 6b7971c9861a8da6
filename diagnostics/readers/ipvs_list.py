"""
``ipvsadm -Ln``, also with ``--stats``, ``--rate`` or ``--exact``: the table that people read.

With statistics it has counters in place of scheduler and weights, so that those are "" and 1.
"""

from __future__ import annotations

import re

from diagnostics.readers.ipvs import (
    DEFAULT_PERSISTENCE_S,
    FORWARD_ROUTE,
    FORWARD_TUNNEL,
    SCHEDULER_FLAGS,
    Counters,
    Draft,
    IpvsTable,
    RealServerEntry,
    place,
)
from diagnostics.readers.problems import LineProblem, not_understood
from proxy.netfilter.ipvs import (
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    FORWARD_MASQ,
    RealServer,
    ServerKey,
    VirtualServer,
)

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_FORWARDS = {"Masq": FORWARD_MASQ, "Local": 1, "Tunnel": FORWARD_TUNNEL, "Route": FORWARD_ROUTE}
# Without --exact ipvsadm shortens 123456789 to 123456K, in powers of ten.
_SUFFIXES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_NUMBER = re.compile(r"(\d+)([KMGT]?)")
_FLAGS = re.compile(r"\(([\w,-]+)\)")


def read_ipvsadm_list(text: str) -> IpvsTable:
    """Return the virtual servers in the output of ``ipvsadm -Ln``."""
    drafts: list[Draft] = []
    problems: list[LineProblem] = []
    statistics = ""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if (
            not words
            or line.startswith("IP Virtual Server")
            or words[:2] == ["->", "RemoteAddress:Port"]
        ):
            continue
        if words[0] == "Prot":
            statistics = "stats" if "Conns" in words else "rate" if "CPS" in words else ""
            continue
        if not _read_line(words, drafts, bool(statistics)):
            problems.append(not_understood(number, "ipvsadm -Ln", line))
    return IpvsTable(tuple(draft.entry() for draft in drafts), tuple(problems), statistics)


def _read_line(words: list[str], drafts: list[Draft], counted: bool) -> bool:
    if words[0] == "->":
        real = _real(words[1:], counted)
        if real is None or not drafts:
            return False
        drafts[-1].reals.append(real)
        return True
    draft = _virtual(words, counted)
    if draft is None:
        return False
    drafts.append(draft)
    return True


def _virtual(words: list[str], counted: bool) -> Draft | None:
    fwmark, key = 0, None
    rest = words[2:]
    if words[0] == "FWM" and len(words) > 1 and words[1].isdigit():
        fwmark = int(words[1])
        ipv6 = rest[:1] == ["IPv6"]
        rest = rest[1:] if ipv6 else rest
        key = ServerKey(bytes(16 if ipv6 else 4), 0, 0)
    elif words[0] in _PROTOCOLS and len(words) > 1:
        found = place(words[1])
        key = found and ServerKey(found.address, found.port, _PROTOCOLS[words[0]])
    if key is None:
        return None
    if counted:
        counters = _counters(rest)
        return Draft(VirtualServer(key, ""), fwmark, "", counters) if counters else None
    if not rest:
        return None
    flags, timeout_s, netmask = _flags(rest[1:])
    return Draft(VirtualServer(key, rest[0], flags, timeout_s), fwmark, netmask)


def _flags(words: list[str]) -> tuple[int, int, str]:
    """Return flags, seconds of persistence and its netmask from what follows the scheduler."""
    flags, timeout_s, netmask = 0, 0, ""
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        if word == "persistent":
            flags |= FLAG_PERSISTENT
            timeout_s = int(following) if following.isdecimal() else DEFAULT_PERSISTENCE_S
        elif word == "mask":
            netmask = following
        elif word == "ops":
            flags |= FLAG_ONE_PACKET
        elif match := _FLAGS.fullmatch(word):
            for name in match[1].split(","):
                flags |= SCHEDULER_FLAGS.get(name, 0)
    return flags, timeout_s, netmask


def _real(words: list[str], counted: bool) -> RealServerEntry | None:
    key = place(words[0]) if words else None
    if key is None:
        return None
    if counted:
        counters = _counters(words[1:])
        return RealServerEntry(RealServer(key, 1), counters) if counters else None
    if len(words) < 5 or words[1] not in _FORWARDS:
        return None
    numbers = [_number(word) for word in words[2:5]]
    if None in numbers:
        return None
    weight, active, inactive = (number or 0 for number in numbers)
    return RealServerEntry(RealServer(key, weight, _FORWARDS[words[1]], active, inactive))


def _counters(words: list[str]) -> Counters | None:
    numbers = [number for number in map(_number, words) if number is not None]
    if len(numbers) != 5 or len(words) != 5:
        return None
    return Counters(*numbers)


def _number(word: str) -> int | None:
    match = _NUMBER.fullmatch(word)
    return int(match[1]) * _SUFFIXES.get(match[2], 1) if match and word.isascii() else None
