"""``ip -j addr`` and ``ip addr``: the node's interfaces and their addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from itertools import pairwise
from typing import Any

import msgspec

from diagnostics.readers.problems import LineProblem, not_understood
from proxy.model.addresses import pack_address

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

_TITLE = re.compile(r"(\d+): ([^:@\s]+)(?:@\S+)?: <([^>]*)>(.*)")
_ADDRESS = re.compile(r"(inet6?) (\S+)(.*)")
_OTHER_LINES = ("link/", "valid_lft", "altname", "RX", "TX", "inet6 addr", "vxlan", "promiscuity")


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address with the length of its network; ``scope`` is host, link or global."""

    interface: Interface
    scope: str = "global"
    broadcast: Address | None = None
    deprecated: bool = False

    @property
    def address(self) -> Address:
        """The address without its network."""
        return self.interface.ip


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface; ``flags`` are those of ip(8): UP, LOOPBACK, LOWER_UP …"""

    name: str
    index: int
    flags: frozenset[str]
    addresses: tuple[LinkAddress, ...] = ()
    mtu: int = 0

    @property
    def is_up(self) -> bool:
        """Whether it was set up; only then its addresses have routes."""
        return "UP" in self.flags


@dataclass(frozen=True, slots=True)
class Links:
    """All interfaces of a node by name, in the order of the dump."""

    by_name: Mapping[str, Link]
    problems: tuple[LineProblem, ...] = ()

    def __iter__(self) -> Iterator[Link]:
        return iter(self.by_name.values())

    def addresses(self) -> Iterator[tuple[Link, LinkAddress]]:
        """Yield every address with its interface."""
        for link in self:
            for address in link.addresses:
                yield link, address


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """Return an address of either family, or None when *text* is none."""
    packed = pack_address(text.partition("%")[0])
    if packed is None:
        return None
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def read_links(text: str) -> Links:
    """Return the interfaces in the output of ``ip -j addr`` or ``ip addr``."""
    if text.lstrip().startswith("["):
        return _read_json(text)
    return _read_text(text)


def json_rows(text: str, kind: str) -> tuple[list[dict[str, Any]], list[LineProblem]]:
    """Return the objects of the JSON arrays in *text*, which may hold several, one a line."""
    rows: list[dict[str, Any]] = []
    problems = []
    try:
        values = [msgspec.json.decode(text)]
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        values = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                if line.strip():
                    values.append(msgspec.json.decode(line))
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                problems.append(not_understood(number, kind, line))
    for value in values:
        items = value if isinstance(value, list) else [value]
        rows += [item for item in items if isinstance(item, dict)]
        if not all(isinstance(item, dict) for item in items):
            problems.append(LineProblem(0, f"a value that {kind} does not print was left out"))
    return rows, problems


def _read_json(text: str) -> Links:
    rows, problems = json_rows(text, "ip -j addr")
    links: dict[str, Link] = {}
    for row in rows:
        if not row:  # ip prints {} for what a filter leaves out
            continue
        name = row.get("ifname")
        if not isinstance(name, str):
            problems.append(LineProblem(0, "an interface without a name was left out"))
            continue
        found = []
        for item in _list(row.get("addr_info")):
            address = _json_address(item) if isinstance(item, dict) else None
            if address is None:
                problems.append(LineProblem(0, f"{name}: an address that is none was left out"))
            else:
                found.append(address)
        flags = frozenset(flag for flag in _list(row.get("flags")) if isinstance(flag, str))
        links[name] = Link(
            name, _int(row.get("ifindex")), flags, tuple(found), _int(row.get("mtu"))
        )
    return Links(links, tuple(problems))


def _json_address(item: dict[str, Any]) -> LinkAddress | None:
    interface = _interface(f"{item.get('local')}/{item.get('prefixlen')}")
    if interface is None:
        return None
    return LinkAddress(
        interface,
        str(item.get("scope", "global")),
        parse_address(str(item.get("broadcast", ""))),
        bool(item.get("deprecated", False)),
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _interface(text: str) -> Interface | None:
    try:
        return ip_interface(text)
    except ValueError:
        return None


@dataclass(slots=True)
class _Draft:
    name: str
    index: int
    flags: frozenset[str]
    mtu: int
    addresses: list[LinkAddress] = field(default_factory=list)

    def link(self) -> Link:
        return Link(self.name, self.index, self.flags, tuple(self.addresses), self.mtu)


def _read_text(text: str) -> Links:
    drafts: dict[str, _Draft] = {}
    problems = []
    current: _Draft | None = None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if title := _TITLE.match(stripped):
            mtu = re.search(r"\bmtu (\d+)", title[4])
            flags = frozenset(title[3].split(","))
            # A dump of each family, one after the other, has every interface twice.
            new = _Draft(title[2], int(title[1]), flags, int(mtu[1]) if mtu else 0)
            current = drafts.setdefault(new.name, new)
        elif match := _ADDRESS.match(stripped):
            address = _text_address(match)
            if current is None or address is None:
                problems.append(not_understood(number, "ip addr", stripped))
            else:
                current.addresses.append(address)
        elif stripped and not stripped.startswith(_OTHER_LINES) and not line.startswith("    "):
            problems.append(not_understood(number, "ip addr", stripped))
    return Links({name: draft.link() for name, draft in drafts.items()}, tuple(problems))


def _text_address(match: re.Match[str]) -> LinkAddress | None:
    """Read ``inet 10.0.0.1/24 brd 10.0.0.255 scope global secondary eth0``."""
    # A point-to-point address has its own first: inet 10.0.0.1 peer 10.0.0.2/32.
    words = match[3].split()
    network = match[2]
    if "/" not in network:
        network += "/32" if match[1] == "inet" else "/128"
    interface = _interface(network)
    if interface is None:
        return None
    values = dict(pairwise(words))
    return LinkAddress(
        interface,
        values.get("scope", "global"),
        parse_address(values.get("brd", "")),
        "deprecated" in words,
    )
