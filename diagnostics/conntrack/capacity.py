"""How large the table should be, what that costs, and which settings make it so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diagnostics.conntrack.assess import span
from diagnostics.conntrack.growth import Growth
from diagnostics.conntrack.limits import ESTABLISHED, PREFIX, Limits
from diagnostics.conntrack.survey import Survey
from proxy.config.types import Conntrack
from proxy.conntrack.settings import MAX_SCALED_ENTRIES, table_size

WANTED_USE = 0.5
"""Share of the table that the expected entries may take: the other half is for a burst."""

MOST_MEMORY = 0.10
"""Share of the machine's memory that a full table may take."""

LEAST_ENTRIES = 131_072
"""kube-proxy's smallest table (conntrack.min)."""

_HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One sysctl as it should be.

    Attributes:
        name: with dots, ``net.netfilter.nf_conntrack_max``.
        present: as it is, None when that is not known.
    """

    name: str
    present: int | None
    value: int
    why: str

    @property
    def differs(self) -> bool:
        """Whether it has to be written."""
        return self.present != self.value


@dataclass(frozen=True, slots=True)
class Size:
    """A table of a size; memory in bytes, when it is full."""

    entries: int
    buckets: int
    memory_bytes: int

    @property
    def list_length(self) -> float:
        """Mean number of nodes in a bucket's list, full."""
        return 2 * self.entries / self.buckets if self.buckets else 0.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """
    The advice.

    Attributes:
        expected: entries to make room for.
        basis: how that number came about.
        present, advised: the table as it is (None: not known) and as it should be.
        bytes_per_entry: memory of one entry with its extensions.
        settings: all that are advised, also those in force already.
        remarks: what else to know.
    """

    expected: int
    basis: str
    present: Size | None
    advised: Size
    bytes_per_entry: int
    settings: tuple[Setting, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What the node's proxy sets when it starts; ``assumed``: not known, but the defaults."""

    conntrack: Conntrack
    assumed: bool = False

    @property
    def who(self) -> str:
        """The proxy in words."""
        return "a proxy with default settings" if self.assumed else "the proxy"


@dataclass(frozen=True, slots=True)
class Demand:
    """What a user wants room for; ``entries`` 0: what is there, and its growth until then."""

    entries: int = 0
    horizon_s: float = 0.0


def advise(
    limits: Limits,
    proxy: ProxySettings,
    demand: Demand,
    growth: Growth | None = None,
    found: Survey | None = None,
) -> Capacity:
    """
    Return the advice; never a smaller table than there is.

    Args:
        limits: The node's.
        proxy: What its proxy sets when it starts: advice must not be undone by that.
        demand: What to make room for.
        growth: How fast the table fills, if known.
        found: What is in it, if known.
    """
    expected, basis = _expected(limits, demand, growth)
    entries = max(_power_of_two(expected / WANTED_USE), limits.maximum or 0, LEAST_ENTRIES)
    remarks = []
    if limits.memory_bytes and entries > limits.maximum_by_memory(MOST_MEMORY):
        entries = max(limits.maximum_by_memory(MOST_MEMORY), limits.maximum or 0)
        remarks.append(
            f"the table is held at {entries} entries: more would take over {MOST_MEMORY:.0%} of "
            "the memory when full; shorten time-outs instead"
        )
    buckets = max(entries, limits.buckets or 0)
    advised = Size(entries, buckets, limits.memory(entries, buckets))
    remarks += [*_proxy_remarks(limits, proxy, entries), *_idle(limits, found)]
    if found is not None and found.total:
        remarks.append(
            f"{found.droppable()} of {found.total} entries are not assured: the kernel may throw "
            "those out early when the table is full"
        )
    return Capacity(
        expected,
        basis,
        _present(limits),
        advised,
        limits.bytes_per_entry,
        tuple(_settings(limits, proxy, advised)),
        tuple(remarks),
    )


def _expected(limits: Limits, demand: Demand, growth: Growth | None) -> tuple[int, str]:
    if demand.entries:
        return demand.entries, "asked for"
    count = limits.count or 0
    if growth is not None and demand.horizon_s and growth.per_second > 0:
        later = growth.after(demand.horizon_s, count)
        return later, (
            f"{count} entries now, growing by {growth.per_second:.1f} a second for "
            f"{span(demand.horizon_s)}"
        )
    return count, "the entries of now" if limits.count is not None else "nothing is known of now"


def _power_of_two(least: float) -> int:
    return 1 << max(0, int(-(-least // 1)) - 1).bit_length()


def _present(limits: Limits) -> Size | None:
    if limits.maximum is None or limits.buckets is None:
        return None
    memory = limits.memory(limits.maximum, limits.buckets)
    return Size(limits.maximum, limits.buckets, memory)


def _settings(limits: Limits, proxy: ProxySettings, advised: Size) -> Iterator[Setting]:
    config = proxy.conntrack
    if limits.maximum != 0:  # else there is no limit
        yield Setting(
            f"{PREFIX}nf_conntrack_max",
            limits.maximum,
            advised.entries,
            "twice what is expected, as a power of two, and not less than there is",
        )
    yield Setting(
        f"{PREFIX}nf_conntrack_buckets",
        limits.buckets,
        advised.buckets,
        "one bucket for each entry, the kernel's own ratio: 2 nodes in a list when full",
    )
    for name, wanted, field in (
        (ESTABLISHED, config.tcp_established_timeout_s, "tcpEstablishedTimeout"),
        (
            "nf_conntrack_tcp_timeout_close_wait",
            config.tcp_close_wait_timeout_s,
            "tcpCloseWaitTimeout",
        ),
    ):
        if wanted >= 1:
            why = f"{proxy.who} sets this when it starts (conntrack.{field})"
            yield Setting(PREFIX + name, limits.timeouts_s.get(name), int(wanted), why)


def _proxy_remarks(limits: Limits, proxy: ProxySettings, entries: int) -> Iterator[str]:
    config = proxy.conntrack
    if limits.cpus is None:
        yield (
            f"the number of CPUs is not in the dump, so it is not known what {proxy.who} makes of "
            f"conntrack.maxPerCore: {config.max_per_core}"
        )
        return
    made = table_size(config.max_per_core, config.min, limits.cpus)
    if made and made != entries:
        yield (
            f"{proxy.who} sets nf_conntrack_max to {made} whenever it starts (maxPerCore "
            f"{config.max_per_core} x {limits.cpus} CPUs, min {config.min}); so that it does not "
            f"undo the advice: {_way(limits.cpus, config, entries)}"
        )


def _way(cpus: int, config: Conntrack, entries: int) -> str:
    """Return the configuration that makes a proxy set this many entries."""
    if entries % cpus == 0 and entries <= MAX_SCALED_ENTRIES and config.min <= entries:
        return f"conntrack.maxPerCore: {entries // cpus}"
    if config.max_per_core * cpus <= min(entries, MAX_SCALED_ENTRIES):
        return f"conntrack.min: {entries}"
    return "conntrack.maxPerCore: 0, which leaves the sysctl alone"


def _idle(limits: Limits, found: Survey | None) -> Iterator[str]:
    timeout = limits.timeouts_s.get(ESTABLISHED)
    if found is None or timeout is None or not found.established():
        return
    for hours in (24, 8, 1):
        idle = found.idle_longer(hours * _HOUR_S, timeout)
        if hours * _HOUR_S < timeout and idle > found.total // 10:
            yield (
                f"{idle} established TCP connections were idle for over {hours} h; with "
                f"{ESTABLISHED} = {hours * _HOUR_S} they would be forgotten (it is {timeout})"
            )
            return
