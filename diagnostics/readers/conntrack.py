"""
Conntrack dumps, line by line: ``conntrack -L``, ``-o extended`` and ``/proc/net/nf_conntrack``.

A line has words of the protocol, ``key=value`` pairs of the original direction, then those of the
reply, and flags in brackets. Dumps may have millions of lines, so nothing is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from diagnostics.readers.problems import LineProblem, not_understood
from proxy.model.addresses import canonical_address

_FLAG = re.compile(r"\[([A-Z_]+)\]")
_TUPLE_KEYS = frozenset(
    {"src", "dst", "sport", "dport", "type", "code", "id", "packets", "bytes", "srckey", "dstkey"}
)
_MOST_PROBLEMS = 100
_EVENTS = frozenset({"NEW", "UPDATE", "DESTROY"})


@dataclass(frozen=True, slots=True)
class FlowTuple:
    """One direction of a flow; addresses in canonical text, ports 0 where there are none."""

    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    packets: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """
    One entry of the connection table.

    ``protocol`` is the number; ``state`` is "" for protocols without; ``flags`` are what stands
    in brackets: UNREPLIED, ASSURED, OFFLOAD …
    """

    protocol: int
    state: str
    timeout_s: int | None
    original: FlowTuple
    reply: FlowTuple
    flags: frozenset[str] = frozenset()
    mark: int = 0
    zone: int = 0
    identity: int | None = None

    @property
    def is_dnat(self) -> bool:
        """Whether the destination was rewritten."""
        return (self.original.destination, self.original.destination_port) != (
            self.reply.source,
            self.reply.source_port,
        )

    @property
    def is_snat(self) -> bool:
        """Whether the source was rewritten."""
        return (self.original.source, self.original.source_port) != (
            self.reply.destination,
            self.reply.destination_port,
        )


def read_flows(lines: Iterable[str], problems: list[LineProblem] | None = None) -> Iterator[Flow]:
    """
    Yield the flows in *lines*, in their order.

    Args:
        lines: Of a file or a text, with or without line ends.
        problems: Receives what was skipped, at most 100 entries, the last saying that there
            are more.
    """
    skipped = 0
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("conntrack v"):
            continue
        flow = _read_line(line)
        if flow is not None:
            yield flow
            continue
        skipped += 1
        if problems is None or skipped > _MOST_PROBLEMS:
            continue
        more = skipped == _MOST_PROBLEMS
        what = LineProblem(number, "this line and more are no conntrack entries")
        problems.append(what if more else not_understood(number, "conntrack", line.strip()))


def _read_line(line: str) -> Flow | None:
    words = line.split()
    start = next((i for i, word in enumerate(words) if word.startswith("src=")), None)
    if start is None:
        return None
    try:
        protocol, timeout_s, state = _head(words[:start])
        original, reply, others, flags = _body(words[start:])
        return Flow(
            protocol,
            state,
            timeout_s,
            _tuple(original),
            _tuple(reply),
            frozenset(flags),
            int(others.get("mark", "0"), 0),
            int(others.get("zone", "0")),
            int(others["id"]) if "id" in others else None,
        )
    except (ValueError, KeyError, IndexError):
        return None


def _head(words: list[str]) -> tuple[int, int | None, str]:
    """Read ``[ipv4 2] tcp 6 431999 ESTABLISHED``; an offloaded flow has no timeout."""
    while words and words[0].startswith("["):
        words = words[1:]
    if words[0] in ("ipv4", "ipv6"):
        words = words[2:]
    protocol = int(words[1])
    if not 0 <= protocol <= 255:
        raise ValueError(words[1])
    rest = words[2:]
    timeout_s = int(rest[0]) if rest and rest[0].isdecimal() else None
    states = [word for word in rest if not word.isdecimal()]
    return protocol, timeout_s, states[0] if states else ""


def _body(words: list[str]) -> tuple[dict[str, str], dict[str, str], dict[str, str], set[str]]:
    original: dict[str, str] = {}
    reply: dict[str, str] = {}
    others: dict[str, str] = {}
    flags = set()
    current = original
    for word in words:
        if flag := _FLAG.fullmatch(word):
            flags.add(flag[1])
            continue
        key, equals, value = word.partition("=")
        if not equals:
            continue
        if key == "src" and "src" in current:
            current = reply
        # The id of an ICMP message is within its direction, that of the entry after both.
        in_tuple = key in _TUPLE_KEYS and key not in current and (key != "id" or "type" in current)
        (current if in_tuple else others)[key] = value
    return original, reply, others, flags - _EVENTS


def _tuple(fields: dict[str, str]) -> FlowTuple:
    source, destination = canonical_address(fields["src"]), canonical_address(fields["dst"])
    if source is None or destination is None:
        raise ValueError("no address")
    return FlowTuple(
        source[1],
        destination[1],
        _port(fields.get("sport")),
        _port(fields.get("dport")),
        int(fields["packets"]) if "packets" in fields else None,
        int(fields["bytes"]) if "bytes" in fields else None,
    )


def _port(text: str | None) -> int:
    port = int(text or "0")
    if not 0 <= port <= 0xFFFF:
        raise ValueError(text)
    return port
