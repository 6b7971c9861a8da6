"""Everything that is asked of a node's connection tracking, from the kernel or from a dump."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from diagnostics.conntrack.counters import Counters, read_counters, read_payloads
from diagnostics.conntrack.dumps import is_table_alone, lines_of
from diagnostics.conntrack.growth import Sample
from diagnostics.conntrack.limits import Limits, limits_of, live_limits
from diagnostics.conntrack.live import LiveTable
from diagnostics.conntrack.model import NoTable, Table
from diagnostics.conntrack.text import TextTable
from diagnostics.snapshot.archive import open_files
from diagnostics.snapshot.content import decode
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from proxy.conntrack.messages import CT_GET_STATS, nfnetlink_header
from proxy.kernel.conntrack import open_netfilter
from proxy.kernel.netlink import NetlinkError
from proxy.kernel.sysctl import cpu_count
from proxy.model.addresses import IPFamily

CT_GET_STATS_CPU = CT_GET_STATS - 1
"""IPCTNL_MSG_CT_GET_STATS_CPU, the one before IPCTNL_MSG_CT_GET_STATS."""

_COUNTER_FILE = re.compile(
    r"conntrack[-_](?:S|stats?)(?:\.\w+)*|(?:stat[-_])?nf_conntrack[-_]stats?(?:\.\w+)*",
    re.IGNORECASE,
)
_PROC_FILE = "proc/net/stat/nf_conntrack"


@dataclass(frozen=True, slots=True)
class Facts:
    """A node's table, its limits and counters; ``gaps`` say what is missing of them."""

    table: Table
    limits: Limits
    counters: Counters | None
    at_s: float
    gaps: tuple[str, ...] = ()
    live: bool = False
    walkable: bool = True

    @property
    def sample(self) -> Sample | None:
        """The present look, to compare with another one; None when the entries are not known."""
        if self.limits.count is None:
            return None
        return Sample(self.at_s, self.limits.count, self.counters)


def live_facts(root: Path = Path("/")) -> Facts:
    """Return this network namespace's; the table is read when it is walked."""
    limits = live_limits(root, cpu_count())
    gaps = []
    if limits.maximum is None:
        gaps.append(
            "limits of connection tracking: /proc/sys/net/netfilter/nf_conntrack_max is absent; "
            "the module nf_conntrack is not loaded, so nothing is tracked here"
        )
    counters, why = live_counters(root)
    if why:
        gaps.append(why)
    why = _refusal()
    if why:
        gaps.append(why)
    table: Table = NoTable() if why else LiveTable()
    return Facts(table, limits, counters, time.time(), tuple(gaps), live=True, walkable=not why)


def live_sample(root: Path = Path("/")) -> Sample | None:
    """Return another look at count and counters, without the table."""
    count = live_limits(root).count
    return None if count is None else Sample(time.time(), count, live_counters(root)[0])


def live_counters(root: Path = Path("/")) -> tuple[Counters | None, str]:
    """Return the kernel's counters, or None and why they are not known."""
    try:
        with open_netfilter() as netlink:
            request = nfnetlink_header(IPFamily.IPV4)
            found = read_payloads(
                bytes(message.payload) for message in netlink.dump(CT_GET_STATS_CPU, request)
            )
            if found is not None:
                return found, ""
    except NetlinkError:
        pass  # the file tells the same to everybody
    try:
        found = read_counters((root / _PROC_FILE).read_text())
    except OSError as error:
        return None, f"counters: /{_PROC_FILE}: {error.strerror}; run as root"
    return found, "" if found else f"counters: /{_PROC_FILE} is not understood; run: conntrack -S"


def _refusal() -> str:
    """Return why the kernel does not list entries, "" when it does."""
    try:
        with open_netfilter() as netlink:
            netlink.request(CT_GET_STATS, 0, nfnetlink_header(IPFamily.IPV4))
    except NetlinkError as error:
        return f"connections: the kernel does not list them ({error.strerror}); run as root"
    return ""


def recorded_facts(snapshot: NodeSnapshot, path: Path) -> Facts:
    """
    Return those of a dump.

    Args:
        snapshot: The node in it.
        path: The dump, where the counters are looked for too.

    Raises:
        SnapshotError: The path cannot be read.
    """
    gaps = []
    lines = lines_of(snapshot, path)
    if isinstance(lines, Gap):
        gaps.append(str(lines))
    sysctls = snapshot.sysctls()
    if isinstance(sysctls, Gap):
        gaps.append(str(sysctls))
    limits = Limits() if isinstance(sysctls, Gap) else limits_of(sysctls)
    counters = _recorded_counters(path, snapshot.name)
    if counters is None:
        gaps.append("counters: not in the dump; run: conntrack -S > conntrack-S.txt")
    known = not isinstance(lines, Gap)
    table: Table = NoTable() if isinstance(lines, Gap) else TextTable(lines)
    return Facts(table, limits, counters, path.stat().st_mtime, tuple(gaps), walkable=known)


def _recorded_counters(path: Path, node: str) -> Counters | None:
    if is_table_alone(path):
        return None
    files = open_files(path)
    names = [
        name
        for name in files.names
        if _COUNTER_FILE.fullmatch(name.rpartition("/")[2]) or name.endswith(_PROC_FILE)
    ]
    own = [name for name in names if node and node in name.split("/")]
    for name in own or (names if len(names) == 1 else ()):
        if found := read_counters(decode(files.read(name)).text):
            return found
    return None
