"""
The kernel's own trace of a packet: a message for each rule that matched and each chain's end.

Numbers are those of ``linux/netfilter/nf_tables.h`` (``enum nft_trace_attributes``). The kernel
sends the packet's headers only with the first message of each base chain.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from proxy.model.addresses import unpack_address
from proxy.netfilter.wire import NFGENMSG, NFNL_SUBSYS_NFTABLES, attributes

TRACE_GROUP = 9  # NFNLGRP_NFTRACE
TRACE_TYPE = NFNL_SUBSYS_NFTABLES << 8 | 17  # NFT_MSG_TRACE

_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID = 1, 2, 3, 4, 5, 6
_NETWORK_HEADER, _TRANSPORT_HEADER, _IIF, _OIF, _MARK, _POLICY = 8, 9, 10, 12, 14, 16
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_VERDICTS = {
    0: "drop",
    1: "accept",
    2: "stolen",
    3: "queue",
    4: "repeat",
    -1: "continue",
    -2: "break",
    -3: "jump",
    -4: "goto",
    -5: "return",
}
_VERDICT_MASK = 0xFF  # the rest of a queue's verdict is its number
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_WITH_PORTS = frozenset({6, 17, 132})
_EXTENSION_HEADERS = frozenset({0, 43, 44, 60})


class TraceKind(enum.Enum):
    """What a message tells of."""

    RULE = 3
    RETURN = 2
    POLICY = 1


@dataclass(frozen=True, slots=True)
class Headers:
    """
    The part of a packet's headers that rules mostly look at.

    ``source_port`` and ``destination_port`` are 0 where the protocol has none, or the message does
    not hold them. ``protocol`` is the number of the transport protocol, 0 if unknown.
    """

    source: str
    destination: str
    protocol: int
    source_port: int = 0
    destination_port: int = 0


@dataclass(frozen=True, slots=True)
class TraceMessage:
    """
    One message.

    Attributes:
        packet_id: the same in all messages of a packet while it passes; used again later.
        family: the table's, as nft writes it.
        handle: of the rule; 0 in messages that are not of a rule, and in that of kind RULE which
            the kernel sends at the end of a chain without a verdict.
        verdict: in nft's words: ``accept``, ``jump services``, ``continue``; or the policy.
        headers: None when the kernel sent them before.
        iif, oif: interface indexes, 0 for none; sent with the headers only.
        mark: the packet mark.
    """

    packet_id: int
    family: str
    table: str
    chain: str
    kind: TraceKind
    handle: int
    verdict: str
    headers: Headers | None
    iif: int
    oif: int
    mark: int


def read_trace_message(payload: bytes | memoryview) -> TraceMessage | None:
    """Return what follows the netlink header of a trace message; None when it is damaged."""
    view = memoryview(payload)
    if len(view) < NFGENMSG.size:
        return None
    found = attributes(view[NFGENMSG.size :])
    try:
        kind = TraceKind(_number(found, _TYPE))
    except ValueError:
        return None
    if _ID not in found or _TABLE not in found or _CHAIN not in found:
        return None
    return TraceMessage(
        packet_id=_number(found, _ID),
        family=_FAMILIES.get(view[0], str(view[0])),
        table=_text(found[_TABLE]),
        chain=_text(found[_CHAIN]),
        kind=kind,
        handle=_number(found, _HANDLE),
        verdict=_verdict(found),
        headers=_headers(found),
        iif=_number(found, _IIF),
        oif=_number(found, _OIF),
        mark=_number(found, _MARK),
    )


def _verdict(found: dict[int, memoryview]) -> str:
    if _POLICY in found:
        return _word(_number(found, _POLICY))
    if _VERDICT not in found:
        return ""
    parts = attributes(found[_VERDICT])
    word = _word(int.from_bytes(parts.get(_VERDICT_CODE, b""), "big", signed=True))
    return f"{word} {_text(parts[_VERDICT_CHAIN])}" if _VERDICT_CHAIN in parts else word


def _word(code: int) -> str:
    return _VERDICTS.get(code if code < 0 else code & _VERDICT_MASK, str(code))


def _headers(found: dict[int, memoryview]) -> Headers | None:
    network = bytes(found.get(_NETWORK_HEADER, b""))
    transport = bytes(found.get(_TRANSPORT_HEADER, b""))
    version = network[0] >> 4 if network else 0
    if version == 4 and len(network) >= 20:
        source, destination, protocol = network[12:16], network[16:20], network[9]
    elif version == 6 and len(network) >= 40:
        source, destination = network[8:24], network[24:40]
        # Behind extension headers only the last of them would tell.
        protocol = 0 if network[6] in _EXTENSION_HEADERS else network[6]
    else:
        return None
    ports = (0, 0)
    if protocol in _WITH_PORTS and len(transport) >= 4:
        ports = int.from_bytes(transport[:2], "big"), int.from_bytes(transport[2:4], "big")
    return Headers(unpack_address(source), unpack_address(destination), protocol, *ports)


def _number(found: dict[int, memoryview], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), "big")


def _text(value: memoryview) -> str:
    return bytes(value).rstrip(b"\0").decode(errors="replace")
