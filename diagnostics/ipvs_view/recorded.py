"""
Virtual servers of a snapshot: what its dumps, each of which knows a part, know together.

``ipvsadm -Sn`` has schedulers and weights, ``-Ln`` also numbers of connections, and ``-Ln --stats``
and ``--rate`` have counters in place of both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from diagnostics.ipvs_view.live import RATE
from diagnostics.readers.ipvs import IpvsTable, RealServerEntry, VirtualServerEntry
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap, Part, gap
from proxy.netfilter.ipvs import RealKey, ServerKey

_Key = tuple[ServerKey, int]


@dataclass(frozen=True, slots=True)
class Found:
    """
    Virtual servers and which of their fields mean something.

    Attributes:
        has_settings: schedulers, flags, weights and ways of forwarding are known.
        has_connections: active and inactive connections are known.
    """

    table: IpvsTable
    has_settings: bool = True
    has_connections: bool = True


NOTHING = Found(IpvsTable())


def recorded_table(snapshot: NodeSnapshot, statistics: str = "") -> Found | Gap:
    """
    Return a snapshot's virtual servers.

    Args:
        snapshot: Its listings of IPVS are read.
        statistics: ``stats`` or ``rate`` for counters, which a dump must have, else "".
    """
    saved, listed = snapshot.ipvs(), snapshot.ipvs_counters()
    if statistics:
        return _counted(saved, listed, statistics)
    if not isinstance(listed, Gap) and not listed.statistics:
        return Found(listed)
    if not isinstance(saved, Gap):
        return Found(saved, has_settings=not saved.statistics, has_connections=False)
    return saved


def _counted(saved: IpvsTable | Gap, listed: IpvsTable | Gap, statistics: str) -> Found | Gap:
    if isinstance(listed, Gap) or listed.statistics != statistics:
        if not isinstance(saved, Gap) and not saved.servers:
            return NOTHING  # where there is nothing, nothing was counted
        why = listed.why if isinstance(listed, Gap) else "the listing was made without them"
        word = "rates" if statistics == RATE else "counters"
        how = f"run: ipvsadm -Ln --{statistics} > {Part.IPVS_LIST.value}"
        return gap(Part.IPVS_LIST, f"{why}: no {word}", how)
    if isinstance(saved, Gap) or saved.statistics:
        return Found(listed, has_settings=False, has_connections=False)
    settings = {(entry.server.key, entry.fwmark): entry for entry in saved.servers}
    servers = tuple(_with_settings(entry, settings) for entry in listed.servers)
    known = all((entry.server.key, entry.fwmark) in settings for entry in listed.servers)
    return Found(replace(listed, servers=servers), has_settings=known, has_connections=False)


def _with_settings(
    entry: VirtualServerEntry, settings: dict[_Key, VirtualServerEntry]
) -> VirtualServerEntry:
    saved = settings.get((entry.server.key, entry.fwmark))
    if saved is None:
        return entry
    reals: dict[RealKey, RealServerEntry] = {real.server.key: real for real in saved.reals}
    counted = tuple(
        replace(reals.get(real.server.key, real), counters=real.counters) for real in entry.reals
    )
    return replace(entry, server=saved.server, reals=counted, netmask=saved.netmask)
