"""What is said of a Service's endpoints and ports on one node."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class Reason(enum.StrEnum):
    """Why an address is used or not; the order is that of the questions asked."""

    # The Service, as a whole.
    HEADLESS = "headless"
    EXTERNAL_NAME = "external-name"
    OTHER_PROXY = "other-proxy"
    SERVICE_UNUSABLE = "service-unusable"
    # The slice.
    NO_SERVICE_LABEL = "no-service-label"
    OTHER_SERVICE = "other-service"
    HEADLESS_SLICE = "headless-slice"
    ADDRESS_TYPE = "address-type"
    FAMILY = "family"
    # The entry.
    NO_ADDRESS = "no-address"
    INVALID_ADDRESS = "invalid-address"
    FURTHER_ADDRESS = "further-address"
    NO_PORTS = "no-ports"
    INVALID_PORT = "invalid-port"
    PORT_NOT_IN_SERVICE = "port-not-in-service"
    DUPLICATE = "duplicate"
    # The pool.
    POOL_UNUSED = "pool-unused"
    NOT_ON_THIS_NODE = "not-on-this-node"
    NOT_READY = "not-ready"
    TERMINATING = "terminating"
    OTHERS_READY = "others-ready"
    ZONE_HINTS = "zone-hints"
    NODE_HINTS = "node-hints"
    READY = "ready"
    NOBODY_READY = "nobody-ready"


class Why(NamedTuple):
    """A reason, and the same in words with the facts."""

    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class PoolUse:
    """Whether a pool has an address; each of ``whys`` had to be otherwise to change that."""

    used: bool
    whys: tuple[Why, ...]

    @property
    def text(self) -> str:
        """All reasons in one line."""
        return ", ".join(why.text for why in self.whys)


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """
    One address of a slice with one of its ports.

    Attributes:
        address: as the slice writes it, "" where it has none.
        port: None where the slice gives none.
        target: ``IP:port`` in canonical form, "" where there is no such thing.
        service_port: ``shop/web:http``, "" when it belongs to none.
        node_name: where the endpoint is by its slice, "" when that does not tell.
        cluster: the pool for traffic that may go anywhere.
        local: the pool for traffic that must stay on this node.
    """

    slice_name: str
    address_type: str
    address: str
    port: int | None
    port_name: str
    protocol: str
    target: str
    service_port: str
    node_name: str
    ready: bool
    serving: bool
    terminating: bool
    zone_hints: tuple[str, ...]
    node_hints: tuple[str, ...]
    cluster: PoolUse
    local: PoolUse

    @property
    def used(self) -> bool:
        """Whether any client of this node may reach it."""
        return self.cluster.used or self.local.used

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of the pools it is in."""
        named = (("cluster", self.cluster), ("local", self.local))
        return tuple(name for name, pool in named if pool.used)


class Reach(NamedTuple):
    """What a client of a frontend gets: pool "cluster" or "local", or "reject" or "drop"."""

    client: str  # pods, node, external
    gets: str


@dataclass(frozen=True, slots=True)
class FrontendReport:
    """An address and port of a service port; ``restricted`` to the Service's source ranges."""

    kind: str
    text: str
    reach: tuple[Reach, ...]
    restricted: bool = False


@dataclass(frozen=True, slots=True)
class PortReport:
    """
    A service port of one family on this node.

    Attributes:
        topology: the hints that are followed: "", "zone" or "node".
        hints: why hints are not followed, "" where there are none or they are.
        notes: what else decides: an address that another Service holds, a port without slices.
    """

    name: str
    family: str
    protocol: str
    frontends: tuple[FrontendReport, ...]
    topology: str
    hints: str
    notes: tuple[str, ...]
