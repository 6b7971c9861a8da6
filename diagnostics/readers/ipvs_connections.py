"""
The connections of IPVS: ``/proc/net/ip_vs_conn`` and ``ipvsadm -Lnc``.

The first writes addresses and ports as hexadecimal numbers and the rest of a connection's life in
seconds, the second as people do (``10.0.0.1:80``, ``01:54``); both are read by the same function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diagnostics.readers.ipvs import place
from diagnostics.readers.problems import LineProblem, not_understood
from proxy.model.addresses import pack_address
from proxy.netfilter.ipvs import RealKey

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "IP": 0, "ESP": 50, "AH": 51}
"""By IPVS' own names; IP is that of a template of persistence by firewall mark."""

_HEADS = ("IPVS connection entries", "pro expire ", "Pro FromIP")
_LISTING = re.compile(r"^(?:IPVS connection entries|Pro FromIP +FPrt )", re.MULTILINE)
_EXPIRES = re.compile(r"(\d+):(\d\d)")
_HEX = re.compile(r"[0-9A-F]{8}")
_HEX_PORT = re.compile(r"[0-9A-F]{4}")


@dataclass(frozen=True, slots=True)
class Connection:
    """
    One connection; a template of persistence has client port 0 and state ``NONE``.

    Attributes:
        protocol: its number, 0 for a template by firewall mark.
        state: as the kernel names it: ESTABLISHED, FIN_WAIT, UDP …
        expires_s: seconds until the kernel forgets it.
        extra: name and data of a persistence engine (``sip …``), "" without.
    """

    protocol: int
    client: RealKey
    virtual: RealKey
    real: RealKey
    state: str
    expires_s: int
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Connections:
    """All connections in the order of the listing, and the lines that are none."""

    connections: tuple[Connection, ...] = ()
    problems: tuple[LineProblem, ...] = ()


def is_connection_listing(text: str) -> bool:
    """Return whether a text is such a listing, by its heading."""
    return _LISTING.search(text[:4096]) is not None


def read_ipvs_connections(text: str) -> Connections:
    """Return the connections of either listing; never raises for what it says."""
    found: list[Connection] = []
    problems: list[LineProblem] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(_HEADS):
            continue
        connection = _read_line(line.split())
        if connection is None:
            problems.append(not_understood(number, "a listing of IPVS connections", line))
        else:
            found.append(connection)
    return Connections(tuple(found), tuple(problems))


def _read_line(words: Sequence[str]) -> Connection | None:
    if len(words) < 6 or words[0] not in PROTOCOLS:
        return None
    expires = _EXPIRES.fullmatch(words[1])
    return _printed(words, expires) if expires else _from_kernel(words)


def _printed(words: Sequence[str], expires: re.Match[str]) -> Connection | None:
    """Read ``TCP 01:54 FIN_WAIT 10.0.0.1:4000 10.96.0.1:443 10.0.0.2:6443``."""
    client, virtual, real = (place(word) for word in words[3:6])
    if client is None or virtual is None or real is None:
        return None
    left = int(expires[1]) * 60 + int(expires[2])
    protocol = PROTOCOLS[words[0]]
    return Connection(protocol, client, virtual, real, words[2], left, " ".join(words[6:]))


def _from_kernel(words: Sequence[str]) -> Connection | None:
    """Read ``TCP C0A80101 9C40 0A600001 01BB 0A000002 192B FIN_WAIT 114``."""
    if len(words) < 9 or not words[8].isdecimal():
        return None
    client, virtual, real = (_hex_place(words[at], words[at + 1]) for at in (1, 3, 5))
    if client is None or virtual is None or real is None:
        return None
    protocol, left = PROTOCOLS[words[0]], int(words[8])
    return Connection(protocol, client, virtual, real, words[7], left, " ".join(words[9:]))


def _hex_place(address: str, port: str) -> RealKey | None:
    """Return a place; an IPv6 address has its colons, an IPv4 one is a single number."""
    packed = bytes.fromhex(address) if _HEX.fullmatch(address) else pack_address(address)
    if packed is None or not _HEX_PORT.fullmatch(port):
        return None
    return RealKey(packed, int(port, 16))
