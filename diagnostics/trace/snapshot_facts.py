"""The facts of a snapshot, as the walk asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diagnostics.readers.ipset import IpSet as ReadSet
from diagnostics.readers.routing import REJECTING
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from diagnostics.trace.facts import IpSet, Route
from diagnostics.trace.packet import Address, Packet

_LOCAL = "local"


class SnapshotFacts:
    """Facts of one node; what the snapshot lacks is None."""

    def __init__(self, node: NodeSnapshot) -> None:
        self._node = node

    def is_local(self, address: Address) -> bool | None:
        """Return whether an address is one of the node's own."""
        routing = self._node.routing()
        return None if isinstance(routing, Gap) else routing.is_local(address)

    def address_types(self, address: Address) -> frozenset[str] | None:
        """Return what iptables' addrtype calls an address."""
        routing = self._node.routing()
        if isinstance(routing, Gap):
            return None
        kind = routing.address_type(address)
        return None if kind is None else frozenset({kind})

    def route(self, address: Address, packet: Packet | None = None) -> Route | None:
        """Return the route to an address, as policy rules choose for a packet."""
        routing = self._node.routing()
        if isinstance(routing, Gap):
            return None
        if packet is None:
            answer = routing.route(address)
        else:
            answer = routing.route(address, packet.src, packet.mark, packet.iif or "")
        if answer is None:
            return None
        refusal = answer.type if answer.type in REJECTING else ""
        is_local = answer.type == _LOCAL
        return Route(answer.device, answer.source, refusal, is_local, answer.certain)

    def device_addresses(self, device: str) -> tuple[Address, ...] | None:
        """Return the addresses of an interface in the kernel's order."""
        links = self._node.links()
        if isinstance(links, Gap):
            return None
        link = links.by_name.get(device)
        return tuple(entry.address for entry in link.addresses) if link else None

    def ipset(self, name: str) -> IpSet | None:
        """Return an ipset by name."""
        sets = self._node.ipsets()
        if isinstance(sets, Gap):
            return None
        found = sets.get(name)
        return None if found is None else _Set(found)

    def recent(self, name: str) -> frozenset[Address] | None:
        """Return the addresses that a ``-m recent`` list holds."""
        lists = self._node.recent()
        if isinstance(lists, Gap):
            return None
        return lists.lists.get(name)

    def setting(self, name: str) -> int | None:
        """Return a kernel setting that is a number."""
        return self._node.setting(name)


@dataclass(frozen=True, slots=True)
class _Set:
    found: ReadSet

    def contains(self, packet: Packet, dimensions: Sequence[str]) -> bool | None:
        """Return whether an entry matches; the fields are those that the set's type names."""
        parts = self.found.type.partition(":")[2].split(",")
        fields: list[object] = []
        for part, side in zip(parts, dimensions, strict=False):
            fields.append(_field(part, side, packet, self.found.type))
        return self.found.contains(fields)


def _field(part: str, side: str, packet: Packet, kind: str) -> object:
    if part in ("ip", "net"):
        return packet.src if side == "src" else packet.dst
    if part == "port":
        port = packet.sport if side == "src" else packet.dport
        if kind.startswith("bitmap"):
            return port
        return None if port is None else (packet.protocol, port)
    if part == "iface":
        return packet.iif if side == "src" else packet.oif
    if part == "mark":
        return packet.mark
    return None
