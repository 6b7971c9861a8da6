"""How ``conntrack status`` and ``capacity`` look on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diagnostics.conntrack.assess import Notice, span
from diagnostics.conntrack.capacity import Capacity, Size
from diagnostics.conntrack.counters import MEANINGS
from diagnostics.conntrack.growth import Growth
from diagnostics.conntrack.limits import Limits
from diagnostics.conntrack.model import protocol_name
from diagnostics.conntrack.report import Status
from diagnostics.conntrack.shares import Share, endpoint_shares, service_shares, source_shares
from diagnostics.conntrack.survey import Survey, state_names
from kpctl.columns import columns

_UNKNOWN = "?"
_RIGHT = frozenset({0, 1})


def status_lines(status: Status, most: int) -> Iterator[str]:
    """Yield the whole answer; *most* is how many rows each list has."""
    yield from _table(status.limits, status.growth)
    if status.survey is not None:
        yield from _content(status, status.survey, most)
    yield from _counters(status)
    yield from _notices(status.notices)


def _table(limits: Limits, growth: Growth | None) -> Iterator[str]:
    use = _UNKNOWN if limits.use is None else f"{limits.use:.1%}"
    most = "no limit" if limits.maximum == 0 else f"{_number(limits.maximum)} ({use})"
    yield f"Entries:   {_number(limits.count)} of {most}"
    length = _UNKNOWN if limits.list_length is None else f"{limits.list_length:.2f}"
    yield f"Buckets:   {_number(limits.buckets)}, mean list length {length}"
    if limits.count is not None and limits.buckets is not None:
        memory = size_text(limits.memory(limits.count, limits.buckets))
        yield f"Memory:    {memory}, {limits.bytes_per_entry} bytes an entry"
    yield f"Counting:  bytes {_switch(limits.accounting)}, age {_switch(limits.timestamps)}"
    if growth is None:
        yield "Growth:    not known; look twice: --interval 10s, or --since with a former -o json"
        return
    full = "never at this rate" if growth.full_in_s is None else f"in {span(growth.full_in_s)}"
    yield (
        f"Growth:    {growth.per_second:+.1f} entries a second over {span(growth.interval_s)}; "
        f"full {full}"
    )


def _switch(value: bool | None) -> str:
    return _UNKNOWN if value is None else "on" if value else "off"


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value)


def _content(status: Status, found: Survey, most: int) -> Iterator[str]:
    naming, total = status.naming, found.total
    states = [
        (_share_of(n, total), str(n), protocol_name(protocol), state)
        for protocol, state, n in state_names(found)
    ]
    if not states:
        return
    yield ""
    yield from columns([("SHARE", "ENTRIES", "PROTOCOL", "STATE"), *states[:most]], _RIGHT)
    for title, rows in (
        ("SERVICE", service_shares(found, naming, most)),
        ("ENDPOINT", endpoint_shares(found, naming, most)),
        ("CLIENT", source_shares(found, naming, most)),
    ):
        if rows:
            yield ""
            yield from _shares(title, rows, total)


def _shares(title: str, rows: Sequence[Share], total: int) -> Iterator[str]:
    heads = {
        "SERVICE": ("SHARE", "ENTRIES", "PROTOCOL", "SERVICE"),
        "ENDPOINT": ("SHARE", "ENTRIES", "PROTOCOL", "ENDPOINT", "WHO", "SERVICE"),
        "CLIENT": ("SHARE", "ENTRIES", "CLIENT", "WHO"),
    }

    def cells(row: Share) -> tuple[str, ...]:
        counted = (_share_of(row.count, total), str(row.count))
        if title == "SERVICE":
            return (*counted, protocol_name(row.protocol), row.what or f"(none) {row.place}")
        if title == "ENDPOINT":
            return (*counted, protocol_name(row.protocol), row.place, row.owner, row.what)
        return (*counted, row.place, row.owner)

    return columns([heads[title], *map(cells, rows)], _RIGHT)


def _share_of(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "0.0%"


def _counters(status: Status) -> Iterator[str]:
    counters = status.facts.counters
    rows = [
        (name, str(value), MEANINGS[name].what)
        for name, value in (counters.values if counters else {}).items()
        if name in MEANINGS and value
    ]
    if rows:
        yield ""
        yield from columns([("COUNTER", "VALUE", "MEANING"), *rows], frozenset({1}))
    elif counters is not None:
        yield ""
        yield "Counters:  no drops, failed inserts or other losses since the start"


def _notices(notices: Sequence[Notice]) -> Iterator[str]:
    for notice in notices:
        yield ""
        yield f"{notice.level}: {notice.text}"
        if notice.cause:
            yield f"  because: {notice.cause}"
        if notice.remedy:
            yield f"  what to do: {notice.remedy}"
        if notice.proof:
            yield f"  see: {notice.proof}"


def capacity_lines(advice: Capacity, limits: Limits, growth: Growth | None) -> Iterator[str]:
    """Yield the advice."""
    yield from _table(limits, growth)
    yield f"Expected:  {advice.expected} entries ({advice.basis})"
    yield ""
    head = ("", "ENTRIES", "BUCKETS", "LIST, FULL", "MEMORY, FULL")
    yield from columns(
        [head, _size("present", advice.present), _size("advised", advice.advised)],
        frozenset({1, 2, 3, 4}),
    )
    yield ""
    rows = [
        (one.name, _number(one.present), str(one.value), "" if one.differs else "as it is", one.why)
        for one in advice.settings
    ]
    yield from columns([("SETTING", "PRESENT", "ADVISED", "", "WHY"), *rows], frozenset({1, 2}))
    for remark in advice.remarks:
        yield ""
        yield f"note: {remark}"


def _size(name: str, size: Size | None) -> tuple[str, ...]:
    if size is None:
        return (name, *(_UNKNOWN,) * 4)
    numbers = (str(size.entries), str(size.buckets), f"{size.list_length:.1f}")
    return (name, *numbers, size_text(size.memory_bytes))


def size_text(number: float) -> str:
    """Return a number of bytes as ``12.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return ""
