"""Kernels that accept everything and do nothing, for ``--dry-run`` and for measurements."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.kernel.nftables import KernelRequest
from proxy.netfilter.statements import Verdict


class AcceptingNft:
    """An NftPort without a kernel: it starts empty, takes all requests and counts them."""

    def __init__(self) -> None:
        self.requests = 0

    def apply(self, requests: Sequence[KernelRequest]) -> float:
        """Count the requests."""
        self.requests += len(requests)
        return 0.0

    def table_comment(self, table: str) -> str | None:
        """Say that there is no table yet."""
        del table
        return None

    def chains(self, table: str) -> frozenset[str]:
        """Say that there are no chains."""
        del table
        return frozenset()

    def sets(self, table: str) -> frozenset[str]:
        """Say that there are no sets."""
        del table
        return frozenset()

    def elements(self, table: str, name: str) -> list[tuple[bytes, bytes | Verdict]]:
        """Say that no client is remembered."""
        del table, name
        return []


class AcceptingIptables:
    """An iptables port without a kernel: it starts empty and keeps what it was fed, in order."""

    def __init__(self) -> None:
        self.inputs: list[str] = []

    def restore(self, text: str) -> float:
        """Keep the input."""
        self.inputs.append(text)
        return 0.0

    def chains(self, table: str) -> frozenset[str]:
        """Say that there are no chains."""
        del table
        return frozenset()

    def content(self, table: str) -> None:
        """Say that nobody knows."""
        del table

    def rules(self, table: str, chain: str) -> list[str]:
        """Say that there are no rules."""
        del table, chain
        return []

    def has_rule(self, table: str, chain: str, arguments: Sequence[str]) -> bool:
        """Say that there is no such rule."""
        del table, chain, arguments
        return False
