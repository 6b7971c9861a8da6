"""What a count of rules finds: chains, Services and what is wrong with them."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field


class Kind(enum.StrEnum):
    """What is wrong; the first two cannot be in a kernel, only in damaged dumps and in input."""

    DANGLING = "dangling-jump"
    MISSING_SET = "missing-set"
    ORPHAN = "orphan-chain"
    UNREACHABLE_ENDPOINT = "unreachable-endpoint"
    UNKNOWN_ENDPOINT = "unknown-endpoint"
    SHADOWED = "shadowed-rule"
    UNUSED_SET = "unused-set"
    NO_SERVERS = "no-real-servers"


ERRORS = frozenset({Kind.DANGLING, Kind.MISSING_SET})


@dataclass(frozen=True, slots=True)
class Finding:
    """
    Something that has no effect, or cannot have the one it is there for.

    Attributes:
        place: ``ip nat KUBE-SERVICES rule 4``, a chain, or an element of a map.
        text: what stands there, exactly; "" for a whole chain.
        service: ``shop/web:http`` where it is known.
    """

    kind: Kind
    place: str
    why: str
    text: str = ""
    service: str = ""

    @property
    def level(self) -> str:
        """``error`` or ``warning``."""
        return "error" if self.kind in ERRORS else "warning"


@dataclass(frozen=True, slots=True)
class ChainCount:
    """A chain and its rules; ``family`` is ``ip``, ``ip6`` or, in nftables, any other of its."""

    backend: str
    family: str
    table: str
    chain: str
    rules: int


@dataclass(frozen=True, slots=True)
class SetCount:
    """A set or map and its elements; ``backend`` is nftables or ipset."""

    backend: str
    family: str
    table: str
    name: str
    elements: int


Tally = dict[str, Counter[str]]
"""By service port: chains, rules, elements, virtualServers, realServers."""


@dataclass(slots=True)
class Inventory:
    """All that was counted; filled by one function for each kind of rules."""

    chains: list[ChainCount] = field(default_factory=list)
    sets: list[SetCount] = field(default_factory=list)
    services: Tally = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    virtual_servers: int = 0
    real_servers: int = 0
    unnamed: Counter[str] = field(default_factory=Counter)
    """What belongs to no Service, or to none that is named."""

    def credit(self, service: str, what: str, number: int = 1) -> None:
        """Count something for a Service, "" for none."""
        if service:
            self.services.setdefault(service, Counter())[what] += number
        else:
            self.unnamed[what] += number

    def totals(self) -> dict[str, int]:
        """Return the sums of everything that was counted."""
        return {
            "chains": len(self.chains),
            "rules": sum(one.rules for one in self.chains),
            "sets": len(self.sets),
            "elements": sum(one.elements for one in self.sets),
            "virtualServers": self.virtual_servers,
            "realServers": self.real_servers,
        }
