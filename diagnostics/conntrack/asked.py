"""Which entry ``explain`` is asked about: a pasted line, or the client's packets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diagnostics.conntrack.model import Detail, Entry, Table
from diagnostics.conntrack.text import read_detail
from diagnostics.trace.packet import PROTOCOLS
from proxy.conntrack.entries import Direction
from proxy.conntrack.stale import place
from proxy.model.addresses import canonical_address, pack_address


class AskedError(ValueError):
    """A line or tuple cannot be understood; the text says what is wrong and what is needed."""


@dataclass(frozen=True, slots=True)
class Tuple:
    """The packets of a client; a source port of 0 stands for any."""

    protocol: int
    packets: Direction


def read_line(text: str) -> Detail:
    """Return the entry in a pasted line; raises AskedError."""
    detail = read_detail(text.strip())
    if detail is None:
        raise AskedError(
            f"{text.strip()[:80]!r} is no line of conntrack -L: it needs the protocol's name and "
            "number, and src= and dst= of both directions"
        )
    return detail


def read_tuple(src: str, dst: str, ports: tuple[int, int], protocol: str) -> Tuple:
    """
    Return the packets that options describe; *ports* are source and destination.

    Raises AskedError.
    """
    source, destination = canonical_address(src), canonical_address(dst)
    for option, text, found in (("--src", src, source), ("--dst", dst, destination)):
        if found is None:
            raise AskedError(f"{option} {text!r} is no IP address" if text else f"{option} needed")
    assert source is not None
    assert destination is not None
    if source[0] is not destination[0]:
        raise AskedError(f"--src {src} and --dst {dst} are of different IP families")
    number = PROTOCOLS.get(protocol.upper())
    if number is None:
        raise AskedError(f"--protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
    if not ports[1]:
        raise AskedError("--dport needed")
    return Tuple(number, Direction(source[1], ports[0], destination[1], ports[1]))


def search(table: Table, asked: Tuple) -> tuple[Detail, ...]:
    """Return the entries with these packets, in the direction of the client or of the answers."""
    return tuple(_search(table, table.entries(), asked))


def _search(table: Table, entries: Iterable[Entry], asked: Tuple) -> Iterable[Detail]:
    wanted = asked.packets
    called = place(wanted.destination, wanted.destination_port)
    source = pack_address(wanted.source)
    for entry in entries:
        # Reading an entry in full takes ten times as long as counting it.
        if entry.protocol != asked.protocol or (
            entry.called != called and entry.target[:-2] != source
        ):
            continue
        detail = table.detail(bytes(entry.raw))
        if detail is not None and _is(detail, wanted):
            yield detail


def _is(detail: Detail, wanted: Direction) -> bool:
    return any(
        (ends.source, ends.destination, ends.destination_port)
        == (wanted.source, wanted.destination, wanted.destination_port)
        and wanted.source_port in (0, ends.source_port)
        for ends in (detail.flow.original, detail.flow.reply)
    )
