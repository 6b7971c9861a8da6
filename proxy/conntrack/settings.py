"""
The connection-tracking settings a node proxy makes when it starts, decided without touching them.

Rules and order are kube-proxy's: the table's size first, then its hash buckets, then time-outs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from proxy.config.types import Conntrack

MAX_SCALED_ENTRIES = 1_048_576
"""Where kube-proxy stops scaling with the number of CPUs; ``min`` may still ask for more."""

ENTRIES_PER_BUCKET = 4

NF_CONNTRACK_MAX = "net/netfilter/nf_conntrack_max"
HASHSIZE = "/sys/module/nf_conntrack/parameters/hashsize"


class Change(enum.Enum):
    """When a value is written."""

    IF_DIFFERENT = "if different"
    IF_SMALLER = "if smaller"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class SettingWrite:
    """
    One number to write.

    Attributes:
        path: Below /proc/sys, or absolute.
        value: The wanted number.
        change: Which present values are replaced.
        way_out: The configuration that avoids this write, for error messages.
    """

    path: str
    value: int
    change: Change
    way_out: str

    @property
    def name(self) -> str:
        """The last part of the path, e.g. ``nf_conntrack_max``."""
        return self.path.rpartition("/")[2]


def table_size(max_per_core: int, minimum: int, cpus: int) -> int:
    """Return the wanted nf_conntrack_max; 0 means that the present value stays."""
    if max_per_core <= 0:
        return 0
    scaled = max_per_core * cpus
    if scaled > MAX_SCALED_ENTRIES:
        return MAX_SCALED_ENTRIES
    return max(scaled, minimum)


def setting_writes(settings: Conntrack, cpus: int) -> tuple[SettingWrite, ...]:
    """
    Return the writes in the order in which they are to be made; empty when all is left alone.

    *cpus* is the machine's number of CPUs. Time-outs are whole seconds; a fraction is cut off.
    """
    writes: list[SettingWrite] = []
    size = table_size(settings.max_per_core, settings.min, cpus)
    if size > 0:
        way_out = "conntrack.maxPerCore: 0"
        writes.append(SettingWrite(NF_CONNTRACK_MAX, size, Change.IF_DIFFERENT, way_out))
        writes.append(
            SettingWrite(HASHSIZE, size // ENTRIES_PER_BUCKET, Change.IF_SMALLER, way_out)
        )
    for name, value, way_out in (
        (
            "nf_conntrack_tcp_timeout_established",
            int(settings.tcp_established_timeout_s),
            "conntrack.tcpEstablishedTimeout: 0s",
        ),
        (
            "nf_conntrack_tcp_timeout_close_wait",
            int(settings.tcp_close_wait_timeout_s),
            "conntrack.tcpCloseWaitTimeout: 0s",
        ),
        (
            "nf_conntrack_tcp_be_liberal",
            int(settings.tcp_be_liberal),
            "conntrack.tcpBeLiberal: false",
        ),
        ("nf_conntrack_udp_timeout", int(settings.udp_timeout_s), "conntrack.udpTimeout: 0s"),
        (
            "nf_conntrack_udp_timeout_stream",
            int(settings.udp_stream_timeout_s),
            "conntrack.udpStreamTimeout: 0s",
        ),
    ):
        if value > 0:
            writes.append(SettingWrite(f"net/netfilter/{name}", value, Change.ALWAYS, way_out))
    return tuple(writes)
