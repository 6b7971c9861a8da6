"""
``ipvsadm -Sn``: the rules that would make these virtual servers again.

Addresses are numeric (``-n``). A line looks like ``-A -t 10.96.0.1:443 -s rr -p 10800`` or
``-a -t 10.96.0.1:443 -r 10.0.0.2:6443 -m -w 1``; forms and options are those of ipvsadm(8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from diagnostics.readers.problems import LineProblem, not_understood
from proxy.model.addresses import pack_address, unpack_address
from proxy.netfilter.ipvs import (
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    FLAG_SCHED_MH_FALLBACK,
    FLAG_SCHED_MH_PORT,
    FORWARD_MASQ,
    RealKey,
    RealServer,
    ServerKey,
    VirtualServer,
)

# linux/ip_vs.h: IP_VS_CONN_F_*
FORWARD_TUNNEL, FORWARD_ROUTE = 2, 3
FLAG_SCHED_3 = 0x20
DEFAULT_PERSISTENCE_S = 300
_PROTOCOLS = {"-t": 6, "-u": 17, "--sctp-service": 132}

_LONG = {
    "--add-service": "-A", "--add-server": "-a", "--tcp-service": "-t", "--udp-service": "-u",
    "--fwmark-service": "-f", "--scheduler": "-s", "--persistent": "-p", "--ops": "-o", "ops": "-o",
    "--sched-flags": "-b", "--netmask": "-M", "--ipv6": "-6", "--real-server": "-r",
    "--masquerading": "-m", "--ipip": "-i", "--gatewaying": "-g", "--weight": "-w",
    "--u-threshold": "-x", "--l-threshold": "-y",
}  # fmt: skip
_FORWARDS = {"-m": FORWARD_MASQ, "-i": FORWARD_TUNNEL, "-g": FORWARD_ROUTE}
SCHEDULER_FLAGS = {
    "flag-1": FLAG_SCHED_MH_FALLBACK,
    "flag-2": FLAG_SCHED_MH_PORT,
    "flag-3": FLAG_SCHED_3,
    "sh-fallback": FLAG_SCHED_MH_FALLBACK,
    "sh-port": FLAG_SCHED_MH_PORT,
    "mh-fallback": FLAG_SCHED_MH_FALLBACK,
    "mh-port": FLAG_SCHED_MH_PORT,
}
_WITH_VALUE = frozenset({"-s", "-b", "-M", "-r", "-w", "-x", "-y", "pe", "--pe", *_PROTOCOLS, "-f"})


@dataclass(frozen=True, slots=True)
class Counters:
    """``--stats`` totals, or with ``--rate`` the same per second."""

    connections: int
    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class RealServerEntry:
    """A real server; ``counters`` are None unless the listing shows them."""

    server: RealServer
    counters: Counters | None = None


@dataclass(frozen=True, slots=True)
class VirtualServerEntry:
    """
    A virtual server with its real servers, in the order of the dump.

    One by firewall mark has ``fwmark`` other than 0, and in its key, as in the kernel, the zero
    address of its family, port 0 and protocol 0. ``netmask`` is that of persistence, as printed.
    """

    server: VirtualServer
    reals: tuple[RealServerEntry, ...] = ()
    fwmark: int = 0
    netmask: str = ""
    counters: Counters | None = None


@dataclass(frozen=True, slots=True)
class IpvsTable:
    """All virtual servers; ``statistics`` is "stats" or "rate" where the listing has those."""

    servers: tuple[VirtualServerEntry, ...] = ()
    problems: tuple[LineProblem, ...] = ()
    statistics: str = ""
    _by_key: dict[ServerKey, VirtualServerEntry] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def find(self, address: bytes, port: int, protocol: int) -> VirtualServerEntry | None:
        """
        Return the virtual server for a packet's destination.

        As in the kernel, one with port 0 and persistence takes all ports of its address that no
        other one has.
        """
        if not self._by_key:  # once for all packets of a trace
            self._by_key.update((e.server.key, e) for e in self.servers if not e.fwmark)
        exact = self._by_key.get(ServerKey(address, port, protocol))
        if exact is not None:
            return exact
        wildcard = self._by_key.get(ServerKey(address, 0, protocol))
        if wildcard is not None and wildcard.server.flags & FLAG_PERSISTENT:
            return wildcard
        return None

    def by_mark(self, mark: int, bits: int = 32) -> VirtualServerEntry | None:
        """Return the virtual server for a firewall mark in the family of *bits*-long addresses."""
        for entry in self.servers:
            if entry.fwmark == mark and mark and len(entry.server.key.address) * 8 == bits:
                return entry
        return None


@dataclass(slots=True)
class Draft:
    """A virtual server that is still being read."""

    server: VirtualServer
    fwmark: int = 0
    netmask: str = ""
    counters: Counters | None = None
    reals: list[RealServerEntry] = field(default_factory=list)

    @property
    def identity(self) -> tuple[ServerKey, int]:
        """What tells virtual servers apart."""
        return self.server.key, self.fwmark

    def entry(self) -> VirtualServerEntry:
        """Return what was read."""
        return VirtualServerEntry(
            self.server, tuple(self.reals), self.fwmark, self.netmask, self.counters
        )


def place(text: str) -> RealKey | None:
    """Return the address and port of ``10.0.0.1:80``, ``[fd00::1]:80`` or an address alone."""
    address, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in address and not address.startswith("[")):
        address, port = text, "0"
    packed = pack_address(address.removeprefix("[").removesuffix("]"))
    if packed is None or not (port.isascii() and port.isdigit()) or int(port) > 0xFFFF:
        return None
    return RealKey(packed, int(port))


def place_text(key: RealKey | ServerKey) -> str:
    """Return ``10.0.0.1:80`` or ``[fd00::1]:80``, as ipvsadm prints it."""
    address = unpack_address(key.address)
    return f"[{address}]:{key.port}" if ":" in address else f"{address}:{key.port}"


def read_ipvsadm_save(text: str) -> IpvsTable:
    """
    Return the virtual servers in the output of ``ipvsadm -Sn``.

    A real server whose virtual server is not in the dump is a problem, and left out.
    """
    drafts: dict[tuple[ServerKey, int], Draft] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            done = _read_line(_options(words), drafts)
        except ValueError:
            done = False
        if not done:
            problems.append(not_understood(number, "ipvsadm -Sn", line))
    return IpvsTable(tuple(draft.entry() for draft in drafts.values()), tuple(problems))


def _options(words: Sequence[str]) -> dict[str, str]:
    """Return the options of a line with their values, by short name; ValueError if one is odd."""
    found: dict[str, str] = {}
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        name, equals, value = word.partition("=")
        name = _LONG.get(name, name)
        if name in _WITH_VALUE:
            found[name] = value if equals else rest.pop() if rest else ""
        elif name == "-p":  # its seconds may be left out
            given = rest.pop() if rest and rest[-1].isdigit() else value
            found[name] = given or str(DEFAULT_PERSISTENCE_S)
        else:
            found[name] = ""
    return found


def _read_line(options: dict[str, str], drafts: dict[tuple[ServerKey, int], Draft]) -> bool:
    identity = _identity(options)
    if identity is None:
        return False
    if "-A" in options:
        drafts[identity] = _virtual(options, *identity)
        return True
    draft = drafts.get(identity)
    real = place(options.get("-r", ""))
    if "-a" not in options or draft is None or real is None:
        return False
    forward = next((_FORWARDS[name] for name in options if name in _FORWARDS), FORWARD_ROUTE)
    weight = int(options.get("-w", "1"))
    draft.reals.append(RealServerEntry(RealServer(real, weight, forward)))
    return True


def _identity(options: dict[str, str]) -> tuple[ServerKey, int] | None:
    if "-f" in options:
        size = 16 if "-6" in options else 4
        return ServerKey(bytes(size), 0, 0), int(options["-f"], 0)
    for name, protocol in _PROTOCOLS.items():
        if name in options:
            key = place(options[name])
            return None if key is None else (ServerKey(key.address, key.port, protocol), 0)
    return None


def _virtual(options: dict[str, str], key: ServerKey, fwmark: int) -> Draft:
    flags = FLAG_ONE_PACKET if "-o" in options else 0
    for name in filter(None, options.get("-b", "").split(",")):
        flags |= SCHEDULER_FLAGS.get(name, 0)
    timeout_s = 0
    if "-p" in options:
        flags |= FLAG_PERSISTENT
        timeout_s = int(options["-p"])
    server = VirtualServer(key, options.get("-s", ""), flags, timeout_s)
    return Draft(server, fwmark, options.get("-M", ""))
