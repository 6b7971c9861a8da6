"""Rules that nft added to chains of iptables, found among those that the kernel has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from diagnostics.live.kernel import number, text
from diagnostics.live.nftables import Pieces
from diagnostics.nftables.model import Rule, Table
from proxy.netfilter.wire import attributes, iterate_attributes

# Expressions that iptables-nft shows only in part. It writes ranges itself, of ports.
_LOOKUP, _RANGE = b"lookup\0", b"range\0"
_TRANSPORT = 2
_EXPRESSIONS = 4


class KernelNatives:
    """NativeRules of a table in the kernel; a chain is read when it is asked for."""

    def __init__(self, pieces: Pieces, table: Table) -> None:
        self.table = table
        self._pieces = pieces

    def of(self, chain: str, count: int) -> Mapping[int, Rule]:
        """Return the rules by their place from 0; raises ReadError."""
        raw = self._pieces.raw(chain)
        places = [place for place, one in enumerate(raw) if _is_native(one)]
        return {place: self._pieces.rule(chain, place) for place in places if len(raw) == count}


def _is_native(raw: bytes) -> bool:
    if _LOOKUP in raw:
        return True
    return _RANGE in raw and any(base != _TRANSPORT for base in _ranges(raw))


def _ranges(raw: bytes) -> Iterator[int]:
    """Yield the header that each range is about, 0 for none."""
    base = 0
    for _, entry in iterate_attributes(attributes(raw).get(_EXPRESSIONS, memoryview(b""))):
        found = attributes(entry)
        name, body = text(found.get(1)), attributes(found.get(2, memoryview(b"")))
        if name == "payload":
            base = number(body.get(2))
        elif name in ("meta", "ct", "fib"):
            base = 0
        elif name == "range":
            yield base
