"""ipsets and their entries as plain data (``linux/netfilter/ipset/ip_set.h``)."""

from __future__ import annotations

from typing import NamedTuple


class SetHeader(NamedTuple):
    """
    A set without its entries.

    ``type`` is ipset(8)'s name, ``hash:ip,port``; ``bits`` is 32 for IPv4, 128 for IPv6 and 0 for
    ``bitmap:port``, which knows no family.
    """

    name: str
    type: str
    bits: int


class SetEntry(NamedTuple):
    """
    One entry; what the set's type does not have stays at its default.

    Attributes:
        address: packed, first ``ip``.
        protocol, port: of ``port``; a bitmap has no protocol.
        other: packed, second ``ip`` or the ``net``.
        prefix: length of ``net`` in bits, 0 when the type has none.
    """

    address: bytes = b""
    protocol: int = 0
    port: int = 0
    other: bytes = b""
    prefix: int = 0
