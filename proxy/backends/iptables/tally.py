"""
How many rules there are in which chain, kept up to date at the cost of a change.

A node may have 40,000 chains of service ports. Which of them exist with how many rules is kept as
one number: the sum of a hash for each of them, which is the same in whatever order they are added,
and from which a chain that is gone can be subtracted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from proxy.backends.iptables import names
from proxy.backends.iptables.rules import PortRules
from proxy.backends.xtables import FILTER, NAT

# The chains, by table, that hold rules of several service ports.
SHARED_CHAINS = (
    (NAT, names.SERVICES),
    (NAT, names.NODEPORTS),
    (FILTER, names.SERVICES),
    (FILTER, names.EXTERNAL_SERVICES),
    (FILTER, names.NODEPORTS),
    (FILTER, names.PROXY_FIREWALL),
)
_HASH_BITS = (1 << 61) - 1


class Tally(NamedTuple):
    """
    The rules of one service port, counted.

    Attributes:
        shared: how many are in each of SHARED_CHAINS.
        own: how many are in chains of its own.
        chains: sum of the hashes of its own chains; only this process can compare it.
    """

    shared: tuple[int, ...]
    own: int
    chains: int


def tally(rules: PortRules) -> Tally:
    """Count the rules of one service port."""
    found = Counter((rule.table, rule.chain) for rule in rules.shared)
    own = {chain: len(texts) for chain, texts in rules.chains.items()}
    shared = _one_object(tuple(found[place] for place in SHARED_CHAINS))
    return Tally(shared, sum(own.values()), chain_sum(own))


def chain_sum(rules: Mapping[str, int]) -> int:
    """Return the number that stands for chains with as many rules; 0 for none."""
    # Not of a tuple: sums of such hashes are often alike when two chains exchange their counts.
    return sum(hash(f"{chain} {count}") & _HASH_BITS for chain, count in rules.items())


class Totals:
    """The sums over all service ports."""

    def __init__(self, tallies: Iterable[Tally] = ()) -> None:
        self.own = 0
        self.chains = 0
        self._shared = [0] * len(SHARED_CHAINS)
        for one in tallies:
            self.add(one)

    def add(self, one: Tally) -> None:
        """Count a service port."""
        self._change(one, 1)

    def subtract(self, one: Tally) -> None:
        """Count a service port no longer."""
        self._change(one, -1)

    def shared(self, table: str) -> dict[str, int]:
        """Return how many rules of service ports the shared chains of a table hold."""
        counts = zip(SHARED_CHAINS, self._shared, strict=True)
        return {chain: count for (where, chain), count in counts if where == table}

    def _change(self, one: Tally, sign: int) -> None:
        self.own += sign * one.own
        self.chains += sign * one.chains
        for place, count in enumerate(one.shared):
            if count:
                self._shared[place] += sign * count


@lru_cache(maxsize=256)
def _one_object(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Most service ports have the same counts: keep them once."""
    return counts
