"""
One entry of the connection table: the bytes to ask for it by its packets, and what it says.

Numbers are those of ``linux/netfilter/nfnetlink_conntrack.h`` and ``nf_conntrack_common.h``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from proxy.conntrack.messages import nfnetlink_header
from proxy.model.addresses import IPFamily, pack_address, unpack_address
from proxy.netfilter.wire import NFGENMSG, attr, attributes, nested

_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _MARK = 1, 2, 3, 4, 8
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_PROTOINFO_TCP, _TCP_STATE = 1, 1
_SEEN_REPLY, _ASSURED, _SOURCE_NAT, _DESTINATION_NAT = 1 << 1, 1 << 2, 1 << 4, 1 << 5
TCP_STATES = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)


class Direction(NamedTuple):
    """The packets of one direction of a connection; addresses in canonical text."""

    source: str
    source_port: int
    destination: str
    destination_port: int


@dataclass(frozen=True, slots=True)
class Entry:
    """
    What the kernel remembers of a connection.

    Attributes:
        original: as the client sends them.
        reply: as the answer is sent; its source is where the connection landed.
        tcp_state: ``ESTABLISHED`` …, "" for other protocols.
        replied: an answer was seen.
        source_rewritten, destination_rewritten: what was translated.
    """

    original: Direction
    reply: Direction
    tcp_state: str
    replied: bool
    assured: bool
    source_rewritten: bool
    destination_rewritten: bool
    mark: int


def get_request(protocol: int, packets: Direction) -> bytes:
    """
    Return the payload of a CT_GET, not a dump, of the connection with these original packets.

    Raises ValueError when an address is none, or the two are of different families.
    """
    source, destination = pack_address(packets.source), pack_address(packets.destination)
    if source is None or destination is None or len(source) != len(destination):
        raise ValueError(f"{packets.source} and {packets.destination} are no pair of addresses")
    family = IPFamily.IPV4 if len(source) == 4 else IPFamily.IPV6
    kinds = _ip_attributes(len(source))
    return nfnetlink_header(family) + nested(
        _TUPLE_ORIG,
        nested(_TUPLE_IP, attr(kinds[0], source), attr(kinds[1], destination)),
        nested(
            _TUPLE_PROTO,
            attr(_PROTO_NUM, bytes((protocol,))),
            attr(_SOURCE_PORT, packets.source_port.to_bytes(2, "big")),
            attr(_DESTINATION_PORT, packets.destination_port.to_bytes(2, "big")),
        ),
    )


def read_entry(payload: bytes | memoryview) -> Entry | None:
    """Return what follows the netlink header of an answer; None when it lacks a direction."""
    found = attributes(memoryview(payload)[NFGENMSG.size :])
    original, reply = _direction(found.get(_TUPLE_ORIG)), _direction(found.get(_TUPLE_REPLY))
    if original is None or reply is None:
        return None
    status = _number(found.get(_STATUS))
    return Entry(
        original,
        reply,
        _tcp_state(found.get(_PROTOINFO)),
        replied=bool(status & _SEEN_REPLY),
        assured=bool(status & _ASSURED),
        source_rewritten=bool(status & _SOURCE_NAT),
        destination_rewritten=bool(status & _DESTINATION_NAT),
        mark=_number(found.get(_MARK)),
    )


def _ip_attributes(size: int) -> tuple[int, int]:
    return (1, 2) if size == 4 else (3, 4)


def _direction(data: memoryview | None) -> Direction | None:
    parts = attributes(data) if data is not None else {}
    if _TUPLE_IP not in parts or _TUPLE_PROTO not in parts:
        return None
    addresses, protocol = attributes(parts[_TUPLE_IP]), attributes(parts[_TUPLE_PROTO])
    for kinds in (_ip_attributes(4), _ip_attributes(16)):
        if kinds[0] in addresses and kinds[1] in addresses:
            source, destination = (unpack_address(bytes(addresses[kind])) for kind in kinds)
            return Direction(
                source,
                _number(protocol.get(_SOURCE_PORT)),
                destination,
                _number(protocol.get(_DESTINATION_PORT)),
            )
    return None


def _tcp_state(data: memoryview | None) -> str:
    tcp = attributes(data).get(_PROTOINFO_TCP) if data is not None else None
    state = attributes(tcp).get(_TCP_STATE) if tcp is not None else None
    if state is None:
        return ""
    number = _number(state)
    return TCP_STATES[number] if number < len(TCP_STATES) else str(number)


def _number(value: memoryview | None) -> int:
    return int.from_bytes(value, "big") if value is not None else 0
