"""
Removal of virtual servers, device and ipsets of IPVS mode.

kube-proxy's own clean-up flushes every virtual server of the host. Others (keepalived) have some
too, so here the sets and the device, which are ours by name, tell which virtual servers are: those
of an address on the device or in a set of addresses, and those of a node's address and NodePort.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

from proxy.backends.ipvs import names
from proxy.engine.cleanup.outcome import FAILURES, Outcome, counted
from proxy.model.addresses import IPFamily, Network, unpack_address
from proxy.netfilter.ipset import SetEntry, SetHeader
from proxy.netfilter.ipvs import Action, Operation, RealServer, ServerKey, VirtualServer

_TCP, _UDP, _SCTP = 6, 17, 132
_PROTOCOLS = {_TCP: "TCP", _UDP: "UDP", _SCTP: "SCTP"}
_FRONTENDS = (
    names.CLUSTER_IP,
    names.EXTERNAL_IP,
    names.EXTERNAL_IP_LOCAL,
    names.LOAD_BALANCER,
    names.LOAD_BALANCER_LOCAL,
    names.NODE_PORT_SCTP,
    names.NODE_PORT_LOCAL_SCTP,
)
_NODE_PORTS = (
    (names.NODE_PORT_TCP, _TCP),
    (names.NODE_PORT_LOCAL_TCP, _TCP),
    (names.NODE_PORT_UDP, _UDP),
    (names.NODE_PORT_LOCAL_UDP, _UDP),
)
# The nft backend lets go of the sets of deleted rules a moment after it acknowledged the deletion.
_BUSY_WAITS_S = (0.01, 0.03, 0.1, 0.3)


class ServersPort(Protocol):
    """The kernel's virtual servers; OSError."""

    def servers(self, family: IPFamily, /) -> Mapping[ServerKey, VirtualServer]:
        """Return all virtual servers of a family."""

    def real_servers(self, server: VirtualServer, /) -> Sequence[RealServer]:
        """Return a virtual server's real servers."""

    def apply(self, operations: Sequence[Operation], /) -> Sequence[OSError | None]:
        """Make the changes in order; return each one's refusal, or None."""


class SetsPort(Protocol):
    """The kernel's ipsets; OSError."""

    def headers(self) -> Mapping[str, SetHeader]:
        """Return all sets by name."""

    def entries(self, name: str, /) -> Collection[SetEntry]:
        """Return the entries of a set; ValueError when it is of a type not in use here."""

    def destroy(self, name: str, /) -> object:
        """Delete a set that no rule uses; EBUSY otherwise."""


class LinksPort(Protocol):
    """Devices and addresses; OSError."""

    def link_exists(self, name: str, /) -> bool:
        """Return whether there is such a device."""

    def addresses_of(self, name: str, family: IPFamily, /) -> frozenset[bytes]:
        """Return the packed addresses of a device; none when it is not there."""

    def addresses_elsewhere(self, name: str, family: IPFamily, /) -> frozenset[bytes]:
        """Return the packed addresses of all other devices."""

    def delete_addresses(
        self, name: str, addresses: Iterable[bytes], /
    ) -> Sequence[OSError | None]:
        """Take addresses from a device; return each one's refusal, or None."""

    def delete_link(self, name: str, /) -> object:
        """Delete a device."""


@dataclass(frozen=True, slots=True)
class IpvsKernel:
    """The ports; None for what the kernel does not have or has not loaded."""

    links: LinksPort
    servers: ServersPort | None = None
    sets: SetsPort | None = None


def remove_ipvs(
    kernel: IpvsKernel,
    exclude: Sequence[Network] = (),
    *,
    busy_stay: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> Outcome:
    """
    Remove virtual servers, then kube-ipvs0, then the ipsets of both families.

    The iptables rules of IPVS mode must be gone: a set that one uses stays, which is an error in
    the outcome. Costs nothing but two look-ups on a node that has neither device nor sets.

    Args:
        kernel: The ports to use.
        exclude: Virtual servers with addresses in these networks stay (``ipvs.excludeCIDRs``).
        busy_stay: Deleting a virtual server cuts its connections. With True those that have
            some stay, with their addresses, the device and the sets, and are named in
            ``remaining``: call again every few seconds while it is not empty, and at last
            without this. Their real servers get weight 0: no new connection is theirs.
        pause: Waits some seconds.

    """
    removal = _Removal(kernel, tuple(exclude), Outcome(), pause)
    try:
        removal.run(busy_stay=busy_stay)
    except FAILURES as error:
        removal.outcome.errors.append(f"Cannot read what IPVS mode left: {error}")
    return removal.outcome


@dataclass(slots=True)
class _Removal:
    kernel: IpvsKernel
    exclude: tuple[Network, ...]
    outcome: Outcome
    pause: Callable[[float], None]

    def run(self, *, busy_stay: bool) -> None:
        links = self.kernel.links
        device = links.link_exists(names.DEVICE)
        sets = self._own_sets()
        if not device and not sets:
            return
        bound = frozenset(a for f in IPFamily for a in links.addresses_of(names.DEVICE, f))
        if busy := self._remove_servers(self._ownership(sets, bound), busy_stay=busy_stay):
            self.outcome.remaining += [_name(key) for key in busy]
            self._remove_addresses(bound.difference(key.address for key in busy))
            return
        if device:
            self._remove_device()
        self._destroy_sets(sets)

    def _own_sets(self) -> list[str]:
        if self.kernel.sets is None:
            return []
        there = self.kernel.sets.headers()
        own = [kind.name(family) for family in IPFamily for kind in names.SETS]
        return [name for name in own if name in there]

    def _ownership(self, present: Sequence[str], bound: frozenset[bytes]) -> _Ownership:
        """Read what tells our virtual servers, while it is there."""
        links = self.kernel.links
        return _Ownership(
            bound.union(e.address for e in self._entries(present, names.IPVS_IPS)),
            frozenset(
                ServerKey(entry.address, entry.port, entry.protocol)
                for kind in _FRONTENDS
                for entry in self._entries(present, kind)
            ),
            frozenset(
                (protocol, entry.port)
                for kind, protocol in _NODE_PORTS
                for entry in self._entries(present, kind)
            ),
            frozenset(a for f in IPFamily for a in links.addresses_elsewhere(names.DEVICE, f)),
            self.exclude,
        )

    def _entries(self, present: Sequence[str], kind: names.SetKind) -> Iterator[SetEntry]:
        """Yield what a set holds in either family."""
        if self.kernel.sets is None:
            return
        for family in IPFamily:
            if (name := kind.name(family)) in present:
                try:
                    yield from self.kernel.sets.entries(name)
                except (OSError, ValueError) as error:
                    self.outcome.errors.append(f"ipset {name} cannot be read: {error}")

    def _remove_servers(self, owned: _Ownership, *, busy_stay: bool) -> list[ServerKey]:
        """Remove what is owned; return those that stay for their connections."""
        port = self.kernel.servers
        if port is None:
            return []
        busy: list[ServerKey] = []
        operations: list[Operation] = []
        for family in IPFamily:
            for server in filter(owned.has, port.servers(family).values()):
                if busy_stay and _is_busy(reals := port.real_servers(server)):
                    busy.append(server.key)
                    self._quiesce(port, server, reals)
                else:
                    operations.append(Operation(Action.DELETE_SERVER, server))
        if operations:
            refusals = port.apply(operations)
            self._report("virtual server", [_name(o.server.key) for o in operations], refusals)
        return busy

    def _quiesce(
        self, port: ServersPort, server: VirtualServer, reals: Sequence[RealServer]
    ) -> None:
        """
        Take no new connections: nobody keeps these endpoints up to date any more.

        The running mode translates before IPVS sees a packet, but not for a Service without
        endpoints, and refuses those only where packets are forwarded.
        """
        operations = [
            Operation(Action.SET_REAL, server, real.key, 0) for real in reals if real.weight
        ]
        for error in filter(None, port.apply(operations) if operations else ()):
            self.outcome.errors.append(f"virtual server {_name(server.key)}: {error}")

    def _remove_addresses(self, addresses: frozenset[bytes]) -> None:
        """Unbind: else packets to these addresses would reach what listens on this node."""
        ours = sorted(a for a in addresses if not ip_address(a).is_link_local)
        if ours:
            refusals = self.kernel.links.delete_addresses(names.DEVICE, ours)
            self._report(f"{names.DEVICE} address", [unpack_address(a) for a in ours], refusals)

    def _remove_device(self) -> None:
        try:
            self.kernel.links.delete_link(names.DEVICE)
            self.outcome.removed.append(f"device {names.DEVICE}")
        except FAILURES as error:
            self.outcome.errors.append(f"device {names.DEVICE}: {error}")

    def _report(
        self, noun: str, subjects: Sequence[str], refusals: Sequence[OSError | None]
    ) -> None:
        refused = [(s, error) for s, error in zip(subjects, refusals, strict=True) if error]
        self.outcome.errors += [f"{noun} {subject}: {error}" for subject, error in refused]
        if removed := len(subjects) - len(refused):
            self.outcome.removed.append(counted(removed, noun))

    def _destroy_sets(self, present: Sequence[str]) -> None:
        sets = self.kernel.sets
        if sets is None:
            return
        left = list(present)
        for wait_s in (*_BUSY_WAITS_S, None):
            left = [name for name in left if not self._destroy(sets, name, final=wait_s is None)]
            if not left or wait_s is None:
                break
            self.pause(wait_s)
        removed = len(present) - len(left)
        if removed:
            self.outcome.removed.append(counted(removed, "ipset"))

    def _destroy(self, sets: SetsPort, name: str, *, final: bool) -> bool:
        """Return whether the set is gone; say why not the last time."""
        try:
            sets.destroy(name)
        except FAILURES as error:
            number = getattr(error, "errno", None)
            if number == errno.ENOENT:
                return True
            if final:
                why = "a rule uses it" if number == errno.EBUSY else str(error)
                self.outcome.errors.append(f"ipset {name} stays: {why}")
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Ownership:
    """Tells a proxy's virtual servers from those of others."""

    addresses: frozenset[bytes]
    frontends: frozenset[ServerKey]
    node_ports: frozenset[tuple[int, int]]  # protocol, port
    node_addresses: frozenset[bytes]
    exclude: tuple[Network, ...]

    def has(self, server: VirtualServer) -> bool:
        """Return whether a virtual server is a proxy's, and to be removed."""
        key = server.key
        port = (key.protocol, key.port)
        is_node_port = port in self.node_ports and key.address in self.node_addresses
        if not (is_node_port or key.address in self.addresses or key in self.frontends):
            return False
        address = ip_address(key.address)
        return not any(
            address in network for network in self.exclude if network.version == address.version
        )


def _is_busy(reals: Sequence[RealServer]) -> bool:
    return any(real.active or real.inactive for real in reals)


def _name(key: ServerKey) -> str:
    """Return a server as ``10.0.0.1:80/TCP`` or ``[fd00::1]:80/TCP``."""
    address = unpack_address(key.address)
    host = f"[{address}]" if len(key.address) == 16 else address
    return f"{host}:{key.port}/{_PROTOCOLS.get(key.protocol, key.protocol)}"
