"""
Entries of ``conntrack -L`` and ``/proc/net/nf_conntrack``, a million of them in a few seconds.

Lines in the usual form are taken apart by one regular expression; what does not match goes through
``diagnostics.readers.conntrack``, which knows all forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from diagnostics.conntrack.model import ASSURED, OFFLOADED, SEEN_REPLY, UNKNOWN_S, Detail, Entry
from diagnostics.readers.conntrack import Flow, FlowTuple, read_flows
from diagnostics.readers.problems import LineProblem, not_understood
from proxy.conntrack.entries import TCP_STATES
from proxy.conntrack.stale import place
from proxy.model.addresses import pack_address

_USUAL = re.compile(
    rb"(?:ipv[46] +\d+ )?[a-z]+ +(\d{1,3}) (?:(\d{1,9}) )?(?:([A-Z_][A-Z_0-9]*) )?"
    rb"src=(\S+) dst=(\S+) sport=(\d{1,5}) dport=(\d{1,5})(?: packets=\d+ bytes=\d+)?"
    rb"( \[UNREPLIED\])? src=(\S+) dst=\S+ sport=(\d{1,5}) dport=(\d{1,5})"
    rb"(?: packets=\d+ bytes=\d+)?( \[ASSURED\])? (?:mark=|use=|zone=|secctx=)"
)
_AGE = re.compile(r" delta-time=(\d{1,12})\b")
_STATES = {name.encode(): number for number, name in enumerate(TCP_STATES)}
_MOST_PROBLEMS = 100
_TCP = 6
_MOST_16_BITS = 0xFFFF


class TextTable:
    """
    A dump.

    Args:
        sources: Begin to read the lines of each of the dump's files.
    """

    def __init__(self, sources: Iterable[Callable[[], Iterable[bytes]]]) -> None:
        self._sources = tuple(sources)
        self.problems: list[LineProblem] = []
        self.notes: list[str] = []

    def entries(self) -> Iterator[Entry]:
        """Yield the entries in the order of their lines; what is none is put into ``problems``."""
        self.problems = []
        for lines in self._sources:
            for number, line in enumerate(lines(), 1):
                entry = read_line(line)
                if entry is not None:
                    yield entry
                else:
                    self._complain(number, line)

    def _complain(self, number: int, line: bytes) -> None:
        if len(self.problems) >= _MOST_PROBLEMS:
            return
        text = line.decode("utf-8", "replace").strip()
        if text and not text.startswith("conntrack v"):
            self.problems.append(not_understood(number, "conntrack", text))

    def detail(self, raw: bytes) -> Detail | None:
        """Return what a line says."""
        return read_detail(raw.decode("utf-8", "replace"))


def read_detail(line: str) -> Detail | None:
    """Return what a line of a dump says, None when it is no entry."""
    flow = next(read_flows([line]), None)
    age = _AGE.search(line)
    return None if flow is None else Detail(flow, float(age[1]) if age else None)


def read_line(line: bytes) -> Entry | None:
    """Return what is counted of a line, None when it is no entry."""
    found = _USUAL.match(line)
    if found is None:
        return _read_unusual(line)
    (protocol, left, state, client, called, client_port, port, unreplied, target, target_port,
     reply_port, assured) = found.groups()  # fmt: skip
    try:
        if max(int(protocol) << 8, int(client_port), int(reply_port)) > _MOST_16_BITS:
            return None
        return Entry(
            int(protocol),
            _packed(client),
            _packed(called) + int(port).to_bytes(2, "big"),
            _packed(target) + int(target_port).to_bytes(2, "big"),
            (0 if unreplied else SEEN_REPLY) | (ASSURED if assured else 0),
            _STATES.get(state, 0) if state and protocol == b"6" else 0,
            int(left) if left else UNKNOWN_S,
            line,
        )
    except (ValueError, OverflowError):
        return _read_unusual(line)


@lru_cache(maxsize=1 << 14)
def _packed(address: bytes) -> bytes:
    packed = pack_address(address.decode("ascii"))
    if packed is None:
        raise ValueError(address)
    return packed


def _read_unusual(line: bytes) -> Entry | None:
    flow = next(read_flows([line.decode("utf-8", "replace")]), None)
    return None if flow is None else entry_of(flow, line)


def entry_of(flow: Flow, raw: bytes) -> Entry:
    """Return what is counted of an entry that was read in full."""
    state = flow.state.encode()
    return Entry(
        flow.protocol,
        pack_address(flow.original.source) or b"",
        _called(flow.original),
        place(flow.reply.source, flow.reply.source_port),
        _status(flow.flags),
        _STATES.get(state, 0) if flow.protocol == _TCP else 0,
        UNKNOWN_S if flow.timeout_s is None else flow.timeout_s,
        raw,
    )


def _called(ends: FlowTuple) -> bytes:
    return place(ends.destination, ends.destination_port)


def _status(flags: frozenset[str]) -> int:
    status = 0 if "UNREPLIED" in flags else SEEN_REPLY
    status |= ASSURED if "ASSURED" in flags else 0
    return status | (OFFLOADED if flags & {"OFFLOAD", "HW_OFFLOAD"} else 0)
