"""
The bytes of ctnetlink: requests to list and delete tracked UDP flows, and the entries it lists.

Numbers are those of ``linux/netfilter/nfnetlink_conntrack.h`` and, for the filter flags,
``net/netfilter/nf_internals.h``. Filters by tuple exist since kernel 5.8; an older kernel ignores
them and lists more, so whoever reads the answer decides on each entry.
"""

from __future__ import annotations

import re
import struct

from proxy.conntrack.stale import Place, Search
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import NFGENMSG, NFPROTO_IPV4, NFPROTO_IPV6, attr, attributes, nested

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
CT_NEW = _SUBSYSTEM | 0
CT_GET = _SUBSYSTEM | 1
CT_DELETE = _SUBSYSTEM | 2
CT_GET_STATS = _SUBSYSTEM | 5

IPPROTO_UDP = 17

_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_BY_SOURCE, _BY_DESTINATION, _BY_PROTOCOL = 1 << 0, 1 << 1, 1 << 3
_BY_SOURCE_PORT, _BY_DESTINATION_PORT = 1 << 4, 1 << 5

_NESTED_BIT = 0x8000


def _ip_attributes(family: IPFamily) -> tuple[int, int]:
    """Return CTA_IP_V*_SRC and CTA_IP_V*_DST."""
    return (1, 2) if family is IPFamily.IPV4 else (3, 4)


def nfnetlink_header(family: IPFamily) -> bytes:
    """Return the nfgenmsg that opens the payload of every request."""
    number = NFPROTO_IPV4 if family is IPFamily.IPV4 else NFPROTO_IPV6
    return NFGENMSG.pack(number, 0, 0)


def dump_request(family: IPFamily, search: Search) -> bytes:
    """Return the payload of a CT_GET dump of the family's UDP entries that *search* describes."""
    source, destination = _ip_attributes(family)
    flags, addresses, ports = _BY_PROTOCOL, b"", b""
    if search.destination is not None:
        flags |= _BY_DESTINATION
        addresses = attr(destination, search.destination)
    if search.port is not None:
        flags |= _BY_DESTINATION_PORT
        ports = attr(_PROTO_DST_PORT, search.port)
    payload = nfnetlink_header(family) + _tuple(_TUPLE_ORIG, addresses, ports)
    reply_flags = 0
    if search.reply_source is not None:
        reply_flags = _BY_SOURCE | _BY_SOURCE_PORT | _BY_PROTOCOL
        payload += _tuple(
            _TUPLE_REPLY,
            attr(source, search.reply_source[:-2]),
            attr(_PROTO_SRC_PORT, search.reply_source[-2:]),
        )
    return payload + nested(
        _FILTER,
        attr(_FILTER_ORIG_FLAGS, struct.pack("=I", flags)),
        attr(_FILTER_REPLY_FLAGS, struct.pack("=I", reply_flags)),
    )


def _tuple(kind: int, addresses: bytes, ports: bytes) -> bytes:
    protocol = attr(_PROTO_NUM, bytes((IPPROTO_UDP,)))
    return nested(
        kind,
        nested(_TUPLE_IP, addresses),
        nested(_TUPLE_PROTO, protocol, ports),
    )


def delete_request(family: IPFamily, entry: memoryview) -> bytes | None:
    """
    Return the payload of a CT_DELETE for exactly the listed *entry*, or None when it has no tuple.

    It names the entry by its reply tuple, so that a newer flow of the same client to the same
    frontend, which has another endpoint, is missed. The id, a hash of the entry's address in
    memory and its original tuple, rules out a flow that the endpoint itself opened; it alone
    would not do, since a new entry may take the old one's memory. The zone makes it hit in that
    zone. Never a request without a tuple: to the kernel that means the whole table.
    """
    fields = attributes(entry[NFGENMSG.size :])
    if _TUPLE_REPLY not in fields or _ID not in fields:
        return None
    reply = attr(_TUPLE_REPLY | _NESTED_BIT, bytes(fields[_TUPLE_REPLY]))
    request = nfnetlink_header(family) + reply
    for kind in (_ID, _ZONE):
        if kind in fields:
            request += attr(kind, bytes(fields[kind]))
    return request


class EntryReader:
    """Reads the two ends that matter out of listed entries of one family."""

    def __init__(self, family: IPFamily) -> None:
        self._source, self._destination = _ip_attributes(family)
        self._match_usual = _usual_layout(family).match

    def ends(self, entry: memoryview) -> tuple[Place, Place] | None:
        """
        Return (original destination, reply source) of a listed entry.

        None when the entry is not UDP, or lacks one of them.
        """
        usual = self._match_usual(entry)
        if usual is not None:
            address, port, reply_address, reply_port = usual.groups()
            return address + port, reply_address + reply_port
        fields = attributes(entry[NFGENMSG.size :])
        destination = self._end(fields.get(_TUPLE_ORIG), self._destination, _PROTO_DST_PORT)
        reply_source = self._end(fields.get(_TUPLE_REPLY), self._source, _PROTO_SRC_PORT)
        return None if destination is None or reply_source is None else (destination, reply_source)

    @staticmethod
    def _end(tuple_: memoryview | None, address: int, port: int) -> Place | None:
        if tuple_ is None:
            return None
        parts = attributes(tuple_)
        if _TUPLE_IP not in parts or _TUPLE_PROTO not in parts:
            return None
        addresses, protocol = attributes(parts[_TUPLE_IP]), attributes(parts[_TUPLE_PROTO])
        if bytes(protocol.get(_PROTO_NUM, b"")) != bytes((IPPROTO_UDP,)):
            return None
        if address not in addresses or port not in protocol:
            return None
        return bytes(addresses[address]) + bytes(protocol[port])


def _usual_layout(family: IPFamily) -> re.Pattern[bytes]:
    """
    Return a pattern for a UDP entry outside zones, with what ``ends`` wants in four groups.

    Matching it takes a tenth of walking the attributes, which counts with a million entries. What
    does not match is walked.
    """
    source, destination = _ip_attributes(family)
    size = family.bits // 8
    any_address, any_port = b".{%d}" % size, b".."

    def field(kind: int, length: int, pattern: bytes) -> bytes:
        padding = b"\0" * (-length & 3)
        return re.escape(struct.pack("=HH", length + 4, kind)) + pattern + padding

    def tuple_(kind: int, addresses: tuple[bytes, bytes], ports: tuple[bytes, bytes]) -> bytes:
        protocol = re.escape(bytes((IPPROTO_UDP,)))
        ips = field(source, size, addresses[0]) + field(destination, size, addresses[1])
        ends = field(_PROTO_SRC_PORT, 2, ports[0]) + field(_PROTO_DST_PORT, 2, ports[1])
        ips_length, protocol_length = 2 * (4 + size), 3 * 8
        return field(
            kind | _NESTED_BIT,
            4 + ips_length + 4 + protocol_length,
            field(_TUPLE_IP | _NESTED_BIT, ips_length, ips)
            + field(
                _TUPLE_PROTO | _NESTED_BIT, protocol_length, field(_PROTO_NUM, 1, protocol) + ends
            ),
        )

    wanted_address, wanted_port = b"(" + any_address + b")", b"(..)"
    return re.compile(
        b".{%d}" % NFGENMSG.size
        + tuple_(_TUPLE_ORIG, (any_address, wanted_address), (any_port, wanted_port))
        + tuple_(_TUPLE_REPLY, (wanted_address, any_address), (wanted_port, any_port)),
        re.DOTALL,
    )
