"""How virtual servers and connections look on a terminal: as ipvsadm prints them, with names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from diagnostics.ipvs_view.recorded import Found
from diagnostics.ipvs_view.report import FORWARDS, flag_words, protocol_name
from diagnostics.ipvs_view.rows import ConnectionRow, RealRow, VirtualRow
from diagnostics.readers.ipvs import Counters, place_text
from kpctl.columns import columns

_STATISTICS = {
    "stats": ("CONNS", "INPKTS", "OUTPKTS", "INBYTES", "OUTBYTES"),
    "rate": ("CPS", "INPPS", "OUTPPS", "INBPS", "OUTBPS"),
}
_HEAD = (
    *("PROT", "ADDRESS", "SERVICE / ENDPOINT", "SCHEDULER / FORWARD"),
    *("WEIGHT", "ACTIVE", "INACTIVE", "FLAGS"),
)
_UNKNOWN = "?"


def virtual_lines(rows: Iterable[VirtualRow], found: Found) -> Iterator[str]:
    """Yield the table: each virtual server and below it its real servers."""
    statistics = found.table.statistics
    if statistics:
        counted = ("PROT", "ADDRESS", "SERVICE / ENDPOINT", *_STATISTICS[statistics])
        return columns([counted, *_counted(rows)], frozenset(range(3, 8)))
    return columns([_HEAD, *_plain(rows, found)], frozenset({4, 5, 6}))


def _plain(rows: Iterable[VirtualRow], found: Found) -> Iterator[Sequence[str]]:
    for row in rows:
        server = row.entry.server
        scheduler = server.scheduler or _UNKNOWN
        flags = " ".join(flag_words(server, row.entry.netmask))
        yield (*_name(row), scheduler, "", "", "", flags)
        for real in row.reals:
            yield (*_real(real), *_settings(real, found), "")


def _settings(row: RealRow, found: Found) -> tuple[str, str, str, str]:
    server = row.entry.server
    forward, weight = FORWARDS.get(server.forward, str(server.forward)), str(server.weight)
    if not found.has_settings:
        forward = weight = _UNKNOWN
    counts = (str(server.active), str(server.inactive))
    return (forward, weight, *(counts if found.has_connections else (_UNKNOWN, _UNKNOWN)))


def _counted(rows: Iterable[VirtualRow]) -> Iterator[Sequence[str]]:
    for row in rows:
        yield (*_name(row), *_numbers(row.entry.counters))
        for real in row.reals:
            yield (*_real(real), *_numbers(real.entry.counters))


def _numbers(counters: Counters | None) -> tuple[str, ...]:
    if counters is None:
        return (_UNKNOWN,) * 5
    totals = (counters.connections, counters.packets_in, counters.packets_out)
    return tuple(map(str, (*totals, counters.bytes_in, counters.bytes_out)))


def _name(row: VirtualRow) -> tuple[str, str, str]:
    key, mark = row.entry.server.key, row.entry.fwmark
    if mark:
        family = "" if len(key.address) == 4 else " IPv6"
        return "FWM", f"{mark}{family}", row.service
    return protocol_name(key.protocol), place_text(key), row.service


def _real(row: RealRow) -> tuple[str, str, str]:
    return "  ->", place_text(row.entry.server.key), row.owner


def connection_lines(rows: Iterable[ConnectionRow]) -> Iterator[str]:
    """Yield the table of connections."""
    head = ("PROT", "EXPIRE", "STATE", "CLIENT", "VIRTUAL", "REAL", "SERVICE", "FROM", "TO")
    return columns([head, *map(_connection, rows)], frozenset({1}))


def _connection(row: ConnectionRow) -> tuple[str, ...]:
    one = row.connection
    left = f"{one.expires_s // 60:02}:{one.expires_s % 60:02}"
    places = map(place_text, (one.client, one.virtual, one.real))
    return (
        protocol_name(one.protocol),
        left,
        one.state,
        *places,
        row.service,
        row.client,
        row.owner,
    )
