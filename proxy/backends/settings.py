"""What the data planes must know of the node and the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Self

from proxy.model.addresses import IPFamily, Network


@dataclass(frozen=True, slots=True)
class LocalTraffic:
    """
    How traffic of this cluster's pods is told apart; at most one attribute is set.

    Nothing set means it cannot be told apart: no packet is masqueraded for coming from outside.
    """

    network: Network | None = None
    interface: str = ""
    interface_prefix: str = ""

    def __bool__(self) -> bool:
        return bool(self.network or self.interface or self.interface_prefix)


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Settings of one family's table.

    Attributes:
        masquerade_bit: 0..31, the packet mark bit that asks for masquerading.
        node_port_addresses: packed addresses that accept NodePort traffic; None means all.
        service_cidrs: ranges whose unallocated addresses are dropped.
        comments: write Services' names into map elements.
    """

    family: IPFamily
    masquerade_bit: int = 14
    masquerade_all: bool = False
    local_traffic: LocalTraffic = field(default_factory=LocalTraffic)
    node_port_addresses: frozenset[bytes] | None = None
    service_cidrs: tuple[Network, ...] = ()
    comments: bool = True

    @classmethod
    def extending(cls, base: Settings, **own: Any) -> Self:
        """Return a mode's settings: the common ones of *base*, and its *own*."""
        common = {each.name: getattr(base, each.name) for each in fields(base)}
        return cls(**common, **own)

    @property
    def mark(self) -> int:
        """The mark bit as a mask."""
        return 1 << self.masquerade_bit
