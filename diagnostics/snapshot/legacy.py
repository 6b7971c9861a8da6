"""
What the legacy iptables backend holds beside the one in use, through libiptc.

``iptables-save`` shows one backend only, and rules in the other one are obeyed all the same. Which
of a proxy's chains are there, and how many packets went into them, tells a second rule set that is
alive from a forgotten one. libiptc makes a table by opening it, so only tables that exist are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PREFIX = "KUBE-"
_NAMES = {"IPv4": "proc/net/ip_tables_names", "IPv6": "proc/net/ip6_tables_names"}


def legacy_counters(root: Path) -> str:
    """
    Return a line for each of a proxy's chains and for each rule that leads into one.

        IPv4 nat KUBE-SERVICES
        IPv4 nat PREROUTING -> KUBE-SERVICES 12 packets 720 bytes

    "" when there are no legacy tables. Raises OSError when they cannot be read.
    """
    return "".join(f"{line}\n" for line in _lines(root))


def _lines(root: Path) -> Iterator[str]:
    for family, path in _NAMES.items():
        names = root / path
        tables = names.read_text().split() if names.exists() else []
        for name in sorted(tables):
            for line in _table_lines(_open(family, name)):
                yield f"{family} {name} {line}"


def _open(family: str, name: str) -> Any:
    import iptc  # looks for its libraries with other programs: only where there is a table

    kind = iptc.Table if family == "IPv4" else iptc.Table6
    try:
        table = kind(name)
        table.refresh()
    except iptc.IPTCError as error:
        raise OSError(f"legacy table {name}: {error}") from error
    return table


def _table_lines(table: Any) -> Iterator[str]:
    built_in = []
    for chain in table.chains:
        if table.builtin_chain(chain.name):
            built_in.append(chain)
        elif chain.name.startswith(_PREFIX):
            yield chain.name
    for chain in built_in:
        for rule in chain.rules:
            if rule.target is not None and str(rule.target.name).startswith(_PREFIX):
                packets, octets = rule.get_counters()
                yield f"{chain.name} -> {rule.target.name} {packets} packets {octets} bytes"
