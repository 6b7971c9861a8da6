"""
Whether looking at real packets could hurt this node, judged before tracing is switched on.

Tracing costs the kernel some 10 to 50 µs for each traced packet, and every packet of the node one
rule more; limits in the kernel cap the first. What is refused here is what these do not cover: a
node without reserves, and a question so wide that its answer would be a random sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kpctl.exit_codes import USAGE
from kpctl.live_trace.own_table import not_root, require_support
from kpctl.live_trace.question import LiveTraceError, PacketFilter
from proxy.kernel.rights import may_administer_network
from proxy.model.addresses import IPFamily

_MIB = 1 << 20
_LEGACY_TABLES = {IPFamily.IPV4: "ip_tables_names", IPFamily.IPV6: "ip6_tables_names"}
_ASK_THE_RULES = "ask without --probe and --watch: that reads the rules and traces nothing"


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Where looking ends.

    Attributes:
        load_per_cpu: most processes that run or wait, over the last minute, for each CPU.
        available_bytes: least memory that is available without swapping.
        packets_per_s: most packets a second that the filter may match.
        traced_per_s: most packets a second that the kernel traces; more pass untraced.
    """

    load_per_cpu: float = 10.0
    available_bytes: int = 64 * _MIB
    packets_per_s: int = 500
    traced_per_s: int = 20


@dataclass(frozen=True, slots=True)
class Reserves:
    """
    What the node has left.

    Attributes:
        load_per_cpu: load average of the last minute for each CPU; None if unknown.
        available_bytes: memory available without swapping; None if unknown.
    """

    load_per_cpu: float | None
    available_bytes: int | None


def read_reserves(root: Path = Path("/")) -> Reserves:
    """Read the reserves from proc; *root* is where that is, for tests."""
    load = available = None
    try:
        load = float((root / "proc/loadavg").read_text().split()[0]) / (os.cpu_count() or 1)
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return Reserves(load, available)
    return Reserves(load, available)


def legacy_tables(family: IPFamily, root: Path = Path("/")) -> tuple[str, ...]:
    """Return the tables of iptables-legacy that are in use; no trace shows their rules."""
    try:
        names = (root / "proc/thread-self/net" / _LEGACY_TABLES[family]).read_text().split()
    except OSError:
        return ()
    return tuple(sorted(names))


def objections(
    packets: PacketFilter, limits: Limits, reserves: Reserves | None = None
) -> Iterator[LiveTraceError]:
    """
    Yield everything that speaks against looking, worst first; nothing is sent or changed.

    Args:
        packets: Which packets would be looked at.
        limits: Where looking ends.
        reserves: What the node has left, read now if None.
    """
    if not packets.is_narrow:
        yield _too_wide(packets)
    if not may_administer_network():
        yield not_root()
        return
    try:
        require_support(packets.family)
    except LiveTraceError as error:
        yield error
    yield from _shortages(reserves or read_reserves(), limits)


def require_harmless(
    packets: PacketFilter, limits: Limits, reserves: Reserves | None = None
) -> None:
    """Raise the first of ``objections``."""
    for objection in objections(packets, limits, reserves):
        raise objection


def require_few(packets: PacketFilter, per_second: float, limits: Limits) -> None:
    """Raise LiveTraceError when more packets match than may be traced without harm."""
    if per_second > limits.packets_per_s:
        raise LiveTraceError(
            f"{per_second:,.0f} packets a second match ({packets.text}); more than"
            f" {limits.packets_per_s:,} are not traced, since each costs the kernel time",
            "name one client with --src, or one device with --iface",
        )


def _too_wide(packets: PacketFilter) -> LiveTraceError:
    return LiveTraceError(
        f"{packets.text}: that is too wide, since it may be much of the node's traffic",
        "name an address and a port, or both addresses",
        USAGE,
    )


def _shortages(reserves: Reserves, limits: Limits) -> Iterator[LiveTraceError]:
    load, available = reserves.load_per_cpu, reserves.available_bytes
    if load is None or available is None:
        yield LiveTraceError(
            "how busy this node is cannot be read in /proc, so it may be too busy",
            _ASK_THE_RULES,
        )
    if load is not None and load > limits.load_per_cpu:
        yield LiveTraceError(
            f"this node is too busy: {load:.1f} processes run or wait for each CPU,"
            f" more than {limits.load_per_cpu:g}",
            f"try again later, or {_ASK_THE_RULES}",
        )
    if available is not None and available < limits.available_bytes:
        yield LiveTraceError(
            f"this node has only {available // _MIB} MiB of memory left,"
            f" less than {limits.available_bytes // _MIB} MiB",
            f"try again later, or {_ASK_THE_RULES}",
        )
