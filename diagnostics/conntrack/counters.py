"""
The kernel's counters of connection tracking, and what each of them means.

Read from netlink (CTA_STATS), ``conntrack -S``, or ``/proc/net/stat/nf_conntrack``, which has them
in hexadecimal and kept two columns' names when their meaning changed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proxy.netfilter.wire import NFGENMSG, attributes

# enum ctattr_stats_cpu of linux/netfilter/nfnetlink_conntrack.h
_NUMBERS = {
    2: "found",
    4: "invalid",
    8: "insert",
    9: "insert_failed",
    10: "drop",
    11: "early_drop",
    12: "error",
    13: "search_restart",
    14: "clash_resolve",
    15: "chaintoolong",
}
NAMES = tuple(_NUMBERS.values())
_PROC_NAMES = {"clashres": "clash_resolve", "chainlength": "chaintoolong", "icmp_error": "error"}
_CPU_LINE = re.compile(r"cpu=\d+\s")
_PAIR = re.compile(r"(\w+)=(\d{1,20})\b")
_MOST_DIGITS = 16
"""Of a hexadecimal number of 64 bits."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """
    What a counter says.

    Attributes:
        what: what the kernel counts.
        cause: why it happens, and what is seen of it.
        remedy: what to do when it grows.
    """

    what: str
    cause: str
    remedy: str


MEANINGS: Mapping[str, Meaning] = {
    "insert_failed": Meaning(
        "packets dropped because another entry with the same packets was there first",
        "two packets of one socket that are translated at the same moment, as the A and AAAA "
        "queries of one DNS look-up, whose caller then waits 5 s; or a source address that has no "
        "free port left to masquerade with",
        "a DNS cache on each node, 'options single-request-reopen' in resolv.conf, "
        "masquerading with --random-fully, more source addresses",
    ),
    "drop": Meaning(
        "packets of new connections dropped because there was no room for their entry",
        "the table is full ('nf_conntrack: table full, dropping packet' in dmesg) and held nothing "
        "that could be thrown out, or there was no memory",
        "a higher nf_conntrack_max or shorter time-outs: kpctl conntrack capacity",
    ),
    "early_drop": Meaning(
        "entries thrown out before their time to make room for new ones",
        "the table is full; connections without an answer yet go first, which then seem to hang",
        "a higher nf_conntrack_max or shorter time-outs: kpctl conntrack capacity",
    ),
    "search_restart": Meaning(
        "look-ups begun anew because entries moved between lists meanwhile",
        "entries come and go very fast, or the number of buckets is being changed; costs CPU, "
        "loses nothing",
        "more buckets; fewer short connections",
    ),
    "chaintoolong": Meaning(
        "packets dropped because the list of their bucket was too long",
        "far more entries than buckets, or addresses chosen to collide",
        "more buckets: kpctl conntrack capacity",
    ),
    "invalid": Meaning(
        "packets that belong to no connection and may not open one",
        "packets outside the TCP window, answers by another way, entries that were forgotten; "
        "such packets are not translated, and a client that gets one resets its connection",
        "the proxy's rule that drops them (default), or conntrack.tcpBeLiberal",
    ),
    "clash_resolve": Meaning(
        "collisions of new entries that were settled without losing a packet",
        "parallel packets of one UDP socket; harmless",
        "nothing",
    ),
    "error": Meaning(
        "ICMP packets that could not be understood",
        "damaged ICMP packets or ones with a wrong checksum",
        "nothing, unless it grows fast",
    ),
}


@dataclass(frozen=True, slots=True)
class Counters:
    """Values by name, summed over all CPUs; a name that is not told is absent."""

    values: Mapping[str, int]
    cpus: int = 0

    def get(self, name: str) -> int | None:
        """Return a value, None when it is not known."""
        return self.values.get(name)

    def since(self, before: Counters) -> Counters:
        """Return how much each grew; one that shrank was reset and counts from 0."""
        grown = {
            name: value - old if value >= old else value
            for name, value in self.values.items()
            if (old := before.values.get(name)) is not None
        }
        return Counters(grown, self.cpus)


def _sum(rows: Iterable[Mapping[str, int]]) -> Counters | None:
    total: Counter[str] = Counter()
    cpus = 0
    for row in rows:
        cpus += 1
        for name, value in row.items():
            total[name] += value
    return Counters({name: total[name] for name in NAMES if name in total}, cpus) if cpus else None


def read_payloads(payloads: Iterable[bytes | memoryview]) -> Counters | None:
    """Return the sum of CT_GET_STATS_CPU's answers, one for each CPU; None for none."""
    return _sum(
        {
            _NUMBERS[kind]: int.from_bytes(value, "big")
            for kind, value in attributes(memoryview(payload)[NFGENMSG.size :]).items()
            if kind in _NUMBERS
        }
        for payload in payloads
    )


def read_counters(text: str) -> Counters | None:
    """Return what ``conntrack -S`` or ``/proc/net/stat/nf_conntrack`` says; None for neither."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if lines[0].split()[0] == "entries":
        return _read_proc(lines)
    rows = [dict(_PAIR.findall(line)) for line in lines if _CPU_LINE.match(line)]
    return _sum({name: int(row[name]) for name in NAMES if name in row} for row in rows)


def _read_proc(lines: list[str]) -> Counters | None:
    names = [_PROC_NAMES.get(name, name) for name in lines[0].split()]
    rows = []
    for line in lines[1:]:
        words = line.split()
        if max(map(len, words)) > _MOST_DIGITS:
            return None
        try:
            row = {name: int(word, 16) for name, word in zip(names, words, strict=False)}
        except ValueError:
            return None
        rows.append({name: row[name] for name in NAMES if name in row})
    return _sum(rows)
