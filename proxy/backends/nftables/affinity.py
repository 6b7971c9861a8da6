"""
Which remembered clients must be forgotten: those whose endpoint no longer serves what they called.

Packets write the affinity map, so nothing here knows its content beforehand. It is looked through
only when an endpoint of a service port with session affinity left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from proxy.backends.nftables import layout, requests
from proxy.backends.nftables.elements import ElementValue
from proxy.backends.nftables.requests import Change, Request
from proxy.backends.nftables.table import NftablesTable


def stale_entries(
    table: NftablesTable, remembered: Iterable[tuple[bytes, ElementValue]]
) -> Iterator[Request]:
    """
    Yield one deletion for each stale entry.

    Args:
        table: what the kernel holds now.
        remembered: keys (client, address called, protocol, port) and data (endpoint).
    """
    width = table.settings.family.bits // 8
    item = table.sets[layout.AFFINITY]
    for key, target in remembered:
        if not isinstance(target, bytes):
            continue  # the map holds endpoints only
        frontend = key[width:]
        if not table.learns(frontend + target) and not table.learns(frontend[width:] + target):
            yield from requests.delete_elements(item, [Change(key, b"", None)])
