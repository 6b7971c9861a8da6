"""
IPVS, ipsets and devices that accept everything, do nothing, and tell what they were told.

Each keeps lines for a program: ipvsadm(8) ``--restore``, ipset(8) ``restore``, ip(8) ``-batch``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily, unpack_address
from proxy.netfilter.ipset import SetEntry, SetHeader
from proxy.netfilter.ipset_messages import MAX_ELEMENTS
from proxy.netfilter.ipvs import (
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    FLAG_SCHED_MH_FALLBACK,
    FLAG_SCHED_MH_PORT,
    Action,
    Operation,
    RealServer,
    ServerKey,
    VirtualServer,
)

_SERVICES = {6: "-t", 17: "-u", 132: "--sctp-service"}
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_VERBS = {
    Action.NEW_SERVER: "-A",
    Action.SET_SERVER: "-E",
    Action.DELETE_SERVER: "-D",
    Action.NEW_REAL: "-a",
    Action.SET_REAL: "-e",
    Action.DELETE_REAL: "-d",
}
_MH_FLAGS = {FLAG_SCHED_MH_FALLBACK: "mh-fallback", FLAG_SCHED_MH_PORT: "mh-port"}


class AcceptingIpvs:
    """An IpvsPort without a kernel."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def servers(self, family: IPFamily) -> dict[ServerKey, VirtualServer]:
        """Say that there are no virtual servers."""
        del family
        return {}

    def real_servers(self, server: VirtualServer) -> list[RealServer]:
        """Say that there are no real servers."""
        del server
        return []

    def apply(self, operations: Sequence[Operation]) -> list[NetlinkError | None]:
        """Note the changes."""
        self.lines += map(_operation, operations)
        return [None] * len(operations)

    def timeouts(self) -> tuple[int, int, int]:
        """Return the kernel's defaults."""
        return 900, 120, 300

    def set_timeouts(self, tcp_s: int, tcp_fin_s: int, udp_s: int) -> None:
        """Note the time-outs."""
        self.lines.append(f"--set {tcp_s} {tcp_fin_s} {udp_s}")

    def has_scheduler(self, name: str) -> bool:
        """Say yes."""
        del name
        return True

    def close(self) -> None:
        """Do nothing."""


class AcceptingIpset:
    """An IpsetPort without a kernel."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._headers: dict[str, SetHeader] = {}

    def create(self, header: SetHeader, max_elements: int = MAX_ELEMENTS) -> None:
        """Note a set."""
        self._headers[header.name] = header
        options = f"family {'inet6' if header.bits == 128 else 'inet'} maxelem {max_elements}"
        if not header.bits:
            options = "range 0-65535"
        self.lines.append(f"create {header.name} {header.type} {options}")

    def headers(self) -> dict[str, SetHeader]:
        """Return the sets that were made."""
        return dict(self._headers)

    def entries(self, name: str) -> set[SetEntry]:
        """Say that a set is empty."""
        del name
        return set()

    def add(self, header: SetHeader, entries: Iterable[SetEntry]) -> list[NetlinkError | None]:
        """Note the entries."""
        return self._note("add", header, entries)

    def delete(self, header: SetHeader, entries: Iterable[SetEntry]) -> list[NetlinkError | None]:
        """Note that entries go."""
        return self._note("del", header, entries)

    def flush(self, name: str) -> None:
        """Note that all entries go."""
        self.lines.append(f"flush {name}")

    def destroy(self, name: str) -> None:
        """Note that a set goes."""
        self.lines.append(f"destroy {name}")

    def close(self) -> None:
        """Do nothing."""

    def _note(
        self, verb: str, header: SetHeader, entries: Iterable[SetEntry]
    ) -> list[NetlinkError | None]:
        lines = [f"{verb} {header.name} {_entry(header, entry)}" for entry in entries]
        self.lines += lines
        return [None] * len(lines)


class AcceptingLinks:
    """A LinksPort without a kernel."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def link_exists(self, name: str) -> bool:
        """Say no."""
        del name
        return False

    def add_dummy(self, name: str) -> None:
        """Note a device."""
        self.lines.append(f"link add {name} type dummy")

    def delete_link(self, name: str) -> None:
        """Note that a device goes."""
        self.lines.append(f"link delete {name}")

    def addresses_of(self, name: str, family: IPFamily) -> frozenset[bytes]:
        """Say that a device has no addresses."""
        del name, family
        return frozenset()

    def addresses_elsewhere(self, name: str, family: IPFamily) -> frozenset[bytes]:
        """Say that no device has addresses."""
        del name, family
        return frozenset()

    def add_addresses(self, name: str, addresses: Iterable[bytes]) -> list[NetlinkError | None]:
        """Note the addresses."""
        return self._note("add", name, addresses)

    def delete_addresses(self, name: str, addresses: Iterable[bytes]) -> list[NetlinkError | None]:
        """Note that addresses go."""
        return self._note("delete", name, addresses)

    def close(self) -> None:
        """Do nothing."""

    def _note(self, verb: str, name: str, addresses: Iterable[bytes]) -> list[NetlinkError | None]:
        lines = [f"addr {verb} {unpack_address(a)}/{len(a) * 8} dev {name}" for a in addresses]
        self.lines += lines
        return [None] * len(lines)


def _operation(operation: Operation) -> str:
    server = operation.server
    key = server.key
    service = f"{_SERVICES[key.protocol]} {_socket(key.address, key.port)}"
    line = f"{_VERBS[operation.action]} {service}"
    if operation.real is not None:
        line += f" -r {_socket(*operation.real)}"
        return (
            line if operation.action is Action.DELETE_REAL else f"{line} -m -w {operation.weight}"
        )
    return line if operation.action is Action.DELETE_SERVER else f"{line}{_options(server)}"


def _options(server: VirtualServer) -> str:
    options = f" -s {server.scheduler}"
    if server.flags & FLAG_PERSISTENT:
        options += f" -p {server.timeout_s}"
    if flags := [name for flag, name in _MH_FLAGS.items() if server.flags & flag]:
        options += f" -b {','.join(flags)}"
    return f"{options} -o" if server.flags & FLAG_ONE_PACKET else options


def _socket(address: bytes, port: int) -> str:
    text = unpack_address(address)
    return f"[{text}]:{port}" if len(address) == 16 else f"{text}:{port}"


def _entry(header: SetHeader, entry: SetEntry) -> str:
    """Word an entry in the order of its set's type, such as ``hash:ip,port,net``."""
    kinds = header.type.partition(":")[2].split(",")
    addresses = [entry.address, entry.other]
    words = []
    for kind in kinds:
        if kind == "port":
            protocol = f"{_PROTOCOLS[entry.protocol]}:" if header.bits else ""
            words.append(f"{protocol}{entry.port}")
        else:
            text = unpack_address(addresses.pop(0))
            shortened = kind == "net" and entry.prefix not in (0, header.bits)
            words.append(f"{text}/{entry.prefix}" if shortened else text)
    return ",".join(words)
