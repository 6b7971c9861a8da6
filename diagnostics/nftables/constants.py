"""
The symbolic constants of nft's data types: names to numbers and back, and values to integers.

Numbers are those of linux/netfilter/nf_conntrack_common.h, linux/rtnetlink.h, linux/in.h and
linux/if_ether.h; the same as ``nft describe`` lists.

A packed value is an integer of the type's width, whatever the type: addresses and Ethernet
addresses big-endian, interface names as their 16 zero-padded bytes, everything else by its number.
So every prefix, range and trailing ``*`` is an interval of integers.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from proxy.model.addresses import pack_address

Plain = str | int | bool
KeyValue = str | int | bytes | IPv4Address | IPv6Address

IFNAME_BYTES = 16

_PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "comp": 108,
    "sctp": 132,
    "udplite": 136,
}
CT_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
CT_STATUSES = {
    "expected": 1,
    "seen-reply": 2,
    "assured": 4,
    "confirmed": 8,
    "snat": 16,
    "dnat": 32,
    "dying": 512,
}
_ICMP = {
    "echo-reply": 0,
    "destination-unreachable": 3,
    "source-quench": 4,
    "redirect": 5,
    "echo-request": 8,
    "router-advertisement": 9,
    "router-solicitation": 10,
    "time-exceeded": 11,
    "parameter-problem": 12,
}
_ICMPV6 = {
    "destination-unreachable": 1,
    "packet-too-big": 2,
    "time-exceeded": 3,
    "parameter-problem": 4,
    "echo-request": 128,
    "echo-reply": 129,
    "mld-listener-query": 130,
    "mld-listener-report": 131,
    "mld-listener-done": 132,
    "nd-router-solicit": 133,
    "nd-router-advert": 134,
    "nd-neighbor-solicit": 135,
    "nd-neighbor-advert": 136,
    "nd-redirect": 137,
    "mld2-listener-report": 143,
}
_FIB_TYPES = {
    "unspec": 0,
    "unicast": 1,
    "local": 2,
    "broadcast": 3,
    "anycast": 4,
    "multicast": 5,
    "blackhole": 6,
    "unreachable": 7,
    "prohibit": 8,
}
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

NAMES: Mapping[str, Mapping[str, int]] = {
    "inet_proto": _PROTOCOLS,
    "ct_state": CT_STATES,
    "ct_status": CT_STATUSES,
    "ct_dir": {"original": 0, "reply": 1},
    "fib_addrtype": _FIB_TYPES,
    "nf_proto": {"ipv4": 2, "ipv6": 10},
    "pkt_type": {"host": 0, "broadcast": 1, "multicast": 2, "other": 3},
    "ether_type": {"ip": 0x0800, "arp": 0x0806, "8021q": 0x8100, "vlan": 0x8100, "ip6": 0x86DD},
    "icmp_type": _ICMP,
    "icmpv6_type": _ICMPV6,
    "tcp_flag": {
        "fin": 1,
        "syn": 2,
        "rst": 4,
        "psh": 8,
        "ack": 16,
        "urg": 32,
        "ecn": 64,
        "cwr": 128,
    },
    "dscp": {
        "cs0": 0,
        "cs1": 8,
        "cs2": 16,
        "cs3": 24,
        "cs4": 32,
        "cs5": 40,
        "cs6": 48,
        "cs7": 56,
        "af11": 10,
        "af12": 12,
        "af13": 14,
        "af21": 18,
        "af22": 20,
        "af23": 22,
        "af31": 26,
        "af32": 28,
        "af33": 30,
        "af41": 34,
        "af42": 36,
        "af43": 38,
        "ef": 46,
    },
    "day": {name: number for number, name in enumerate(_DAYS)},
    "icmp_code": {
        "net-unreachable": 0,
        "host-unreachable": 1,
        "prot-unreachable": 2,
        "port-unreachable": 3,
        "net-prohibited": 9,
        "host-prohibited": 10,
        "admin-prohibited": 13,
    },
    "icmpv6_code": {
        "no-route": 0,
        "admin-prohibited": 1,
        "addr-unreachable": 3,
        "port-unreachable": 4,
        "policy-fail": 5,
        "reject-route": 6,
    },
    "icmpx_code": {
        "no-route": 0,
        "port-unreachable": 1,
        "host-unreachable": 2,
        "admin-prohibited": 3,
    },
}
_BY_NUMBER = {
    kind: {number: name for name, number in reversed(list(names.items()))}
    for kind, names in NAMES.items()
}
# Other spellings that nft or /etc/protocols use for the same number.
_ALIASES = {"icmpv6": "ipv6-icmp", "router-advertisment": "router-advertisement"}

# Types of which a match without operator tests bits: ``ct state new`` is true if that bit is set.
BITMASKS = frozenset({"ct_state", "ct_status", "tcp_flag", "ct_label"})

_BITS = {
    "ipv4_addr": 32,
    "ipv6_addr": 128,
    "inet_proto": 8,
    "inet_service": 16,
    "ether_addr": 48,
    "ifname": IFNAME_BYTES * 8,
    "iface_index": IFNAME_BYTES * 8,
    "ct_state": 32,
    "ct_status": 32,
    "tcp_flag": 8,
    "icmp_type": 8,
    "icmpv6_type": 8,
}
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+", re.ASCII)

# Names of base chain priorities, nft(8), "standard priority names".
PRIORITIES = {
    "raw": -300,
    "mangle": -150,
    "dstnat": -100,
    "filter": 0,
    "security": 50,
    "srcnat": 100,
}
_BRIDGE_PRIORITIES = {"dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}


def priority_number(text: str, family: str) -> int:
    """Return the number of ``dstnat - 10``, ``filter`` or ``-110``; 0 for what cannot be read."""
    match = re.fullmatch(r"([a-z]+)?\s*([+-]?)\s*(\d*)", text.strip(), re.ASCII)
    if match is None:
        return 0
    names = _BRIDGE_PRIORITIES if family == "bridge" else PRIORITIES
    offset = int(match[2] + match[3]) if match[3] else 0
    return names.get(match[1] or "", 0) + offset


def width(kind: str) -> int:
    """Return the bits of a data type; 32 for those that are not listed."""
    return _BITS.get(kind, 32)


def number(text: str) -> int | None:
    """Return a decimal or hexadecimal number, or None."""
    return int(text, 0) if _NUMBER.fullmatch(text) and _is_plain(text) else None


def _is_plain(text: str) -> bool:
    return text.startswith("0x") or text == "0" or not text.startswith("0")


def canonical(kind: str, value: Plain) -> Plain:
    """Return a constant as ``nft`` prints it by default: names of numbers, numbers of services."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        names = _BY_NUMBER.get(kind)
        return names.get(value, value) if names else value
    value = _ALIASES.get(value, value)
    if kind == "inet_service":
        port = service_port(value)
        return value if port is None else port
    return value


@lru_cache(maxsize=1024)
def service_port(name: str) -> int | None:
    """Return the port of a service name by /etc/services, or None."""
    try:
        return socket.getservbyname(name)
    except (OSError, ValueError):
        return None


def pack(kind: str, value: KeyValue) -> int | None:
    """
    Return a value of a data type as an integer, or None when it cannot be one.

    Integers are taken as they are, so that ``6`` and ``"tcp"`` are the same protocol.
    """
    if isinstance(value, int):
        return int(value) if 0 <= value < 1 << width(kind) else None
    if isinstance(value, (IPv4Address, IPv6Address)):
        return int(value) if value.max_prefixlen == width(kind) else None
    if isinstance(value, bytes):
        return int.from_bytes(value, "big") if len(value) * 8 == width(kind) else None
    packer = _PACKERS.get(kind)
    if packer is not None:
        return packer(value)
    return _pack_named(kind, value)


def _pack_named(kind: str, text: str) -> int | None:
    if kind == "inet_service":
        found = number(text)
        return found if found is not None else service_port(text)
    known = NAMES.get(kind, {}).get(_ALIASES.get(text, text))
    return number(text) if known is None else known


def _pack_ipv4(text: str) -> int | None:
    packed = pack_address(text)
    return int.from_bytes(packed, "big") if packed and len(packed) == 4 else None


def _pack_ipv6(text: str) -> int | None:
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
    except (OSError, ValueError):
        return None


def _pack_ether(text: str) -> int | None:
    if not re.fullmatch(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}", text):
        return None
    return int.from_bytes(bytes(int(part, 16) for part in text.split(":")), "big")


def _pack_ifname(text: str) -> int | None:
    raw = text.encode(errors="surrogateescape")
    return int.from_bytes(raw.ljust(IFNAME_BYTES, b"\0"), "big") if len(raw) < 17 else None


def pack_wildcard(text: str) -> tuple[int, int] | None:
    """Return the interval of interface names that ``veth*`` stands for."""
    raw = text.removesuffix("*").encode(errors="surrogateescape")
    if len(raw) > IFNAME_BYTES:
        return None
    low, high = raw.ljust(IFNAME_BYTES, b"\0"), raw.ljust(IFNAME_BYTES, b"\xff")
    return int.from_bytes(low, "big"), int.from_bytes(high, "big")


_PACKERS: Mapping[str, Callable[[str], int | None]] = {
    "ipv4_addr": _pack_ipv4,
    "ipv6_addr": _pack_ipv6,
    "ether_addr": _pack_ether,
    "ifname": _pack_ifname,
    "iface_index": _pack_ifname,
}
