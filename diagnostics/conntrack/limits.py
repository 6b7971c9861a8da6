"""How large the table may be and how long it keeps entries: sysctls, memory and CPUs of a node."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diagnostics.readers.sysctl import Sysctls

PREFIX = "net.netfilter."
TIMEOUTS = (
    "nf_conntrack_tcp_timeout_established",
    "nf_conntrack_tcp_timeout_close_wait",
    "nf_conntrack_tcp_timeout_time_wait",
    "nf_conntrack_tcp_timeout_syn_sent",
    "nf_conntrack_udp_timeout",
    "nf_conntrack_udp_timeout_stream",
)
ESTABLISHED = "nf_conntrack_tcp_timeout_established"
BUCKET_BYTES = 8
"""A bucket is one pointer (struct hlist_nulls_head)."""

EXTENSION_BYTES = 128
"""What NAT, counters and timestamps of one entry take: NF_CT_EXT_PREALLOC of the kernel."""

USUAL_ENTRY_BYTES = 256
"""Size of struct nf_conn on 64-bit kernels since 5.15, for a node that does not tell it."""

_MOST = (1 << 32) - 1
"""No sysctl of conntrack is larger; a dump may say anything."""

_MEMORY = re.compile(r"^MemTotal:\s+(\d+) kB", re.MULTILINE)
_SLAB = re.compile(r"^nf_conntrack(?:_[0-9a-f]+)?\s+\d+\s+\d+\s+(\d+)\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What bounds the table; None is what could not be read.

    Attributes:
        count: entries now.
        maximum: nf_conntrack_max.
        buckets: of the hash table, which all network namespaces share.
        accounting, timestamps: whether entries made from now on count bytes and know their age.
        timeouts_s: in seconds, by the name of the sysctl.
        memory_bytes: of the machine.
        entry_bytes: what the kernel allocates for struct nf_conn.
    """

    count: int | None = None
    maximum: int | None = None
    buckets: int | None = None
    accounting: bool | None = None
    timestamps: bool | None = None
    timeouts_s: Mapping[str, int] = field(default_factory=dict)
    memory_bytes: int | None = None
    entry_bytes: int | None = None
    cpus: int | None = None

    @property
    def use(self) -> float | None:
        """Share of the limit that is taken, 0 and more; None when it is not known or unlimited."""
        if self.count is None or not self.maximum:
            return None
        return self.count / self.maximum

    @property
    def list_length(self) -> float | None:
        """
        Mean number of nodes in a bucket's list.

        Each entry is in two lists, one for each direction.
        """
        if self.count is None or not self.buckets:
            return None
        return 2 * self.count / self.buckets

    @property
    def bytes_per_entry(self) -> int:
        """Memory of an entry with its extensions."""
        return (self.entry_bytes or USUAL_ENTRY_BYTES) + EXTENSION_BYTES

    def memory(self, entries: int, buckets: int) -> int:
        """Return the bytes that a table with so many entries and buckets takes."""
        return entries * self.bytes_per_entry + buckets * BUCKET_BYTES

    def maximum_by_memory(self, share: float) -> int:
        """Return how many entries, with a bucket each, fit into a share of the machine's memory."""
        return int((self.memory_bytes or 0) * share) // (self.bytes_per_entry + BUCKET_BYTES)


def limits_of(sysctls: Sysctls, count: int | None = None) -> Limits:
    """Return the limits in a dump of sysctls; *count* where that does not tell the entries."""
    return _limits(lambda name: sysctls.number(PREFIX + name), count)


def live_limits(root: Path = Path("/"), cpus: int | None = None) -> Limits:
    """Return the limits of this network namespace; *root* is where proc and sys are."""

    def number(name: str) -> int | None:
        try:
            return int((root / "proc/sys/net/netfilter" / name).read_text())
        except (OSError, ValueError):
            return None

    memory = _first(_MEMORY, root / "proc/meminfo")
    return _limits(
        number,
        None,
        memory_bytes=None if memory is None else memory << 10,
        entry_bytes=_first(_SLAB, root / "proc/slabinfo"),
        cpus=cpus,
    )


def _limits(
    number: Callable[[str], int | None],
    count: int | None,
    *,
    memory_bytes: int | None = None,
    entry_bytes: int | None = None,
    cpus: int | None = None,
) -> Limits:
    def sane(name: str) -> int | None:
        value = number(name)
        return value if value is not None and 0 <= value <= _MOST else None

    accounting, timestamps = sane("nf_conntrack_acct"), sane("nf_conntrack_timestamp")
    timeouts = {name: sane(name) for name in TIMEOUTS}
    told = sane("nf_conntrack_count")
    return Limits(
        count=told if count is None else count,
        maximum=sane("nf_conntrack_max"),
        buckets=sane("nf_conntrack_buckets"),
        accounting=None if accounting is None else bool(accounting),
        timestamps=None if timestamps is None else bool(timestamps),
        timeouts_s={name: value for name, value in timeouts.items() if value is not None},
        memory_bytes=memory_bytes,
        entry_bytes=entry_bytes,
        cpus=cpus,
    )


def _first(pattern: re.Pattern[str], path: Path) -> int | None:
    try:
        found = pattern.search(path.read_text())
    except OSError:
        return None
    return int(found[1]) if found else None
