"""
In-memory IPVS, ipsets and devices of a node, which refuse what the kernel refuses.

One journal tells in which order everything was done, iptables included. That the fakes answer like
the kernel is proven by one script that runs on both (tests/ipvs/test_fake_ipvs.py).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from proxy.backends.ipvs.names import DEVICE
from proxy.engine.ipvs.ports import IpvsPorts
from proxy.kernel.ipset import SetRefusal
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipset import SetEntry, SetHeader
from proxy.netfilter.ipset_messages import MAX_ELEMENTS
from proxy.netfilter.ipvs import (
    Action,
    Operation,
    RealKey,
    RealServer,
    ServerKey,
    VirtualServer,
)
from tests.support.fake_iptables import FakeIptables

SCHEDULERS = frozenset({"rr", "wrr", "lc", "wlc", "sh", "mh"})
VERBS = {
    Action.NEW_SERVER: "server+",
    Action.SET_SERVER: "server=",
    Action.DELETE_SERVER: "server-",
    Action.NEW_REAL: "real+",
    Action.SET_REAL: "real=",
    Action.DELETE_REAL: "real-",
}
Journal = list[tuple[str, Any]]
Refuse = Callable[[str, Any], int]
"""Given what is done and to what, returns the errno of a refusal, or 0."""


class FakeIpvs:
    """
    Virtual servers of both families.

    Attributes:
        content: virtual servers with their real servers; change it to play another program.
        cut: connections that ended because their real server was deleted.
        asked: how many real servers were listed, by virtual server.
    """

    def __init__(self, journal: Journal, refuse: Refuse) -> None:
        self.content: dict[ServerKey, tuple[VirtualServer, dict[RealKey, RealServer]]] = {}
        self.cut = 0
        self.asked: list[ServerKey] = []
        self._journal = journal
        self._refuse = refuse

    # -- playing others ------------------------------------------------------------------------

    def put(self, server: VirtualServer, *reals: RealServer) -> None:
        """Another program's virtual server."""
        self.content[server.key] = server, {real.key: real for real in reals}

    def connect(self, key: ServerKey, real: RealKey, active: int, inactive: int = 0) -> None:
        """Let a real server have so many connections."""
        reals = self.content[key][1]
        reals[real] = replace(reals[real], active=active, inactive=inactive)

    def weights(self, key: ServerKey) -> dict[RealKey, int]:
        """The weight of each real server."""
        return {real.key: real.weight for real in self.content[key][1].values()}

    # -- the port ------------------------------------------------------------------------------

    def servers(self, family: IPFamily) -> dict[ServerKey, VirtualServer]:
        return {
            key: server
            for key, (server, _) in self.content.items()
            if len(key.address) * 8 == family.bits
        }

    def real_servers(self, server: VirtualServer) -> list[RealServer]:
        self.asked.append(server.key)
        return list(self.content[server.key][1].values()) if server.key in self.content else []

    def apply(self, operations: Sequence[Operation]) -> list[NetlinkError | None]:
        return [NetlinkError(code) if (code := self._do(o)) else None for o in operations]

    def timeouts(self) -> tuple[int, int, int]:
        raise AssertionError("not for the engine")

    def set_timeouts(self, tcp_s: int, tcp_fin_s: int, udp_s: int) -> None:
        raise AssertionError("not for the engine")

    def has_scheduler(self, name: str) -> bool:
        return name in SCHEDULERS

    def close(self) -> None:
        """Nothing to close."""

    # -- inside --------------------------------------------------------------------------------

    def _do(self, operation: Operation) -> int:
        verb, key = VERBS[operation.action], operation.server.key
        subject = key if operation.real is None else (key, operation.real)
        if code := self._refuse(verb, subject):
            return code
        code = self._change(operation) if operation.real is None else self._change_real(operation)
        if not code:
            self._journal.append((verb, subject))
        return code

    def _change(self, operation: Operation) -> int:
        server = operation.server
        is_there = server.key in self.content
        if operation.action is Action.NEW_SERVER:
            if is_there:
                return errno.EEXIST
        elif not is_there:
            return errno.ESRCH
        if operation.action is Action.DELETE_SERVER:
            _, reals = self.content.pop(server.key)
            self.cut += sum(real.active + real.inactive for real in reals.values())
            return 0
        if server.scheduler not in SCHEDULERS:
            return errno.ENOENT
        reals = self.content[server.key][1] if is_there else {}
        self.content[server.key] = server, reals
        return 0

    def _change_real(self, operation: Operation) -> int:
        if operation.server.key not in self.content:
            return errno.ESRCH
        reals, real = self.content[operation.server.key][1], operation.real
        assert real is not None
        if operation.action is Action.NEW_REAL:
            if real in reals:
                return errno.EEXIST
            reals[real] = RealServer(real, operation.weight)
        elif real not in reals:
            return errno.ENOENT
        elif operation.action is Action.SET_REAL:
            held = reals[real]
            reals[real] = RealServer(real, operation.weight, 0, held.active, held.inactive)
        else:
            gone = reals.pop(real)
            self.cut += gone.active + gone.inactive
        return 0


class FakeIpset:
    """
    The sets of both families.

    Attributes:
        sets: header and entries by name; change it to play another program.
        room: how many entries a set of hashes takes.
    """

    def __init__(self, journal: Journal, refuse: Refuse) -> None:
        self.sets: dict[str, tuple[SetHeader, set[SetEntry]]] = {}
        self.room = MAX_ELEMENTS
        self._journal = journal
        self._refuse = refuse

    def create(self, header: SetHeader, max_elements: int = MAX_ELEMENTS) -> None:
        del max_elements
        if self.sets.setdefault(header.name, (header, set()))[0] != header:
            raise SetRefusal(header, errno.EEXIST)

    def headers(self) -> dict[str, SetHeader]:
        return {name: header for name, (header, _) in self.sets.items()}

    def entries(self, name: str) -> set[SetEntry]:
        return set(self._entries(SetHeader(name, "", 0)))

    def _entries(self, header: SetHeader) -> set[SetEntry]:
        if header.name not in self.sets:
            raise SetRefusal(header, errno.ENOENT)
        return self.sets[header.name][1]

    def add(self, header: SetHeader, entries: Iterable[SetEntry]) -> list[NetlinkError | None]:
        return [self._change("entry+", header, entry) for entry in entries]

    def delete(self, header: SetHeader, entries: Iterable[SetEntry]) -> list[NetlinkError | None]:
        return [self._change("entry-", header, entry) for entry in entries]

    def _change(self, verb: str, header: SetHeader, entry: SetEntry) -> NetlinkError | None:
        if header.name not in self.sets:
            return SetRefusal(header, errno.ENOENT)
        if code := self._refuse(verb, (header.name, entry)):
            return SetRefusal(header, code)
        held = self.sets[header.name][1]
        if verb == "entry-":
            held.discard(entry)
        elif entry not in held and header.bits and len(held) >= self.room:
            return SetRefusal(header, _HASH_FULL)
        else:
            held.add(entry)
        self._journal.append((verb, (header.name, entry)))
        return None

    def flush(self, name: str) -> None:
        self._entries(SetHeader(name, "", 0)).clear()

    def destroy(self, name: str) -> None:
        self.sets.pop(name, None)

    def close(self) -> None:
        """Nothing to close."""


_HASH_FULL = 4352  # IPSET_ERR_HASH_FULL


class FakeLinks:
    """Devices and their addresses; change ``devices`` to play another program."""

    def __init__(self, journal: Journal, refuse: Refuse) -> None:
        self.devices: dict[str, set[bytes]] = {}
        self._journal = journal
        self._refuse = refuse

    def link_exists(self, name: str) -> bool:
        return name in self.devices

    def add_dummy(self, name: str) -> None:
        self.devices.setdefault(name, set())

    def delete_link(self, name: str) -> None:
        self.devices.pop(name, None)

    def addresses_of(self, name: str, family: IPFamily) -> frozenset[bytes]:
        return frozenset(a for a in self.devices.get(name, ()) if len(a) * 8 == family.bits)

    def addresses_elsewhere(self, name: str, family: IPFamily) -> frozenset[bytes]:
        others = (self.addresses_of(each, family) for each in self.devices if each != name)
        return frozenset().union(*others)

    def add_addresses(self, name: str, addresses: Iterable[bytes]) -> list[NetlinkError | None]:
        return [self._change("bind", name, address) for address in addresses]

    def delete_addresses(self, name: str, addresses: Iterable[bytes]) -> list[NetlinkError | None]:
        return [self._change("unbind", name, address) for address in addresses]

    def _change(self, verb: str, name: str, address: bytes) -> NetlinkError | None:
        if name not in self.devices:
            raise NetlinkError(errno.ENODEV, name)
        if code := self._refuse(verb, address):
            return NetlinkError(code)
        self._journal.append((verb, address))
        if verb == "bind":
            self.devices[name].add(address)
        else:
            self.devices[name].discard(address)
        return None

    def close(self) -> None:
        """Nothing to close."""


class FakeNode:
    """
    The kernel of a node.

    Attributes:
        journal: everything that was done, in order: what, and to what.
        refuse: returns the errno with which something is refused; 0 by default.
    """

    def __init__(self, *, legacy: bool = True) -> None:
        self.journal: Journal = []
        self.refuse: Refuse = lambda _verb, _subject: 0
        asked = (self.journal, lambda verb, subject: self.refuse(verb, subject))
        self.ipvs, self.ipset, self.links = FakeIpvs(*asked), FakeIpset(*asked), FakeLinks(*asked)
        self.rules = {family: FakeIptables(legacy=legacy) for family in IPFamily}
        for family, tables in self.rules.items():
            tables.watch = lambda family=family: self.journal.append(("rules", family))

    def ports(self, family: IPFamily) -> IpvsPorts:
        """What a reconciler of a family needs."""
        return IpvsPorts(self.ipvs, self.ipset, self.links, self.rules[family])

    def content(self, family: IPFamily) -> dict[str, Any]:
        """All that IPVS mode has in a family."""
        servers = self.ipvs.servers(family)
        sets = {n: e for n, (_, e) in self.ipset.sets.items() if ("-6-" in n) == (family.bits > 32)}
        return {
            "servers": {key: (servers[key], self.ipvs.weights(key)) for key in servers},
            "sets": {name: set(entries) for name, entries in sets.items()},
            "addresses": self.links.addresses_of(DEVICE, family),
            "rules": self.rules[family].ruleset(),
        }

    def done(self) -> list[str]:
        """What was done since the last call, without what it was done to."""
        verbs = [verb for verb, _ in self.journal]
        self.journal.clear()
        return verbs
