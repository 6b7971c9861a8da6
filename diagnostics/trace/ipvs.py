"""IPVS as a listener: a packet for a virtual server goes on to one of its real servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from ipaddress import ip_address

from diagnostics.readers.ipvs import IpvsTable, VirtualServerEntry, place_text
from diagnostics.trace.node import Hook
from diagnostics.trace.packet import Packet
from diagnostics.trace.walk import Branch, End, Step, Tri, Verdict
from proxy.netfilter.ipvs import FLAG_PERSISTENT, RealServer, VirtualServer

# ip_vs_core.c: behind source NAT's place at INPUT, behind destination NAT at OUTPUT.
_PRIORITIES = {Hook.INPUT: 99, Hook.OUTPUT: -98}
# What is chosen by these depends on the packet alone: one client always gets the same one.
_HASHES = {
    "sh": "by a hash of the client's address: always the same for one client",
    "mh": "by a hash of the client's address: always the same for one client",
    "dh": "by a hash of the virtual address: the same for all clients",
}
_HEAVIEST = frozenset({"fo", "ovf"})
_WEIGHTED = frozenset({"wrr", "wlc", "sed", "nq", "mh", "sh", "dh", "lblc", "lblcr"})


class IpvsHook:
    """A listener; see Node."""

    is_nat = False
    reroutes = False

    def __init__(self, table: IpvsTable, hook: Hook) -> None:
        self._table = table
        self.hook = hook
        self.priority = _PRIORITIES[hook]

    def run(self, branch: Branch) -> Iterator[End]:
        """Return where a packet for a virtual server may go; any other passes."""
        packet = branch.packet
        entry = None if packet.via_ipvs else self._find(packet)
        if entry is None:
            yield End(branch, Verdict.ACCEPT)
            return
        usable = [real.server for real in entry.reals if real.server.weight > 0]
        server = entry.server
        branch = branch.met(self._met(entry, len(usable)))
        if not usable:
            yield End(branch, Verdict.REJECT, "port unreachable")
            return
        for real, share in _shares(server, usable):
            address = ip_address(real.key.address)
            chosen = replace(packet.to(address, real.key.port), via_ipvs=True)
            yield End(
                branch.share(share).as_(chosen).met(self._chosen(server, real)), Verdict.ACCEPT
            )

    def _find(self, packet: Packet) -> VirtualServerEntry | None:
        found = self._table.find(packet.dst.packed, packet.dport, packet.protocol)
        if found is None and packet.mark:
            found = self._table.by_mark(packet.mark, packet.dst.max_prefixlen)
        return found

    def _met(self, entry: VirtualServerEntry, usable: int) -> Step:
        server = entry.server
        text = f"virtual server {place_text(server.key)} scheduler {server.scheduler}"
        why = f"{usable} of {len(entry.reals)} real servers take new connections"
        if server.flags & FLAG_PERSISTENT:
            why += f"; a client that called in the last {server.timeout_s} s stays where it was"
        return Step(self.hook.value, "ipvs", "", place_text(server.key), text, Tri.YES, why)

    def _chosen(self, server: VirtualServer, real: RealServer) -> Step:
        text = f"-> {place_text(real.key)} weight {real.weight}"
        how = _HASHES.get(server.scheduler, f"by {server.scheduler}")
        why = f"chosen {how}"
        return Step(self.hook.value, "ipvs", "", place_text(real.key), text, Tri.YES, why)


def _shares(
    server: VirtualServer, usable: Sequence[RealServer]
) -> Iterator[tuple[RealServer, Fraction]]:
    """Yield each real server with its share of new connections, of many clients under even load."""
    if server.scheduler in _HEAVIEST:  # the heaviest one alone; ovf: until it has enough
        first = max(usable, key=lambda real: real.weight)
        yield first, Fraction(1)
        return
    weighted = server.scheduler in _WEIGHTED
    total = sum(real.weight if weighted else 1 for real in usable)
    for real in usable:
        yield real, Fraction(real.weight if weighted else 1, total)
