"""Builds conntrack entries as the kernel lists them, and a table that answers as an old kernel."""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from proxy.config.types import Conntrack
from proxy.conntrack.messages import CT_DELETE, CT_GET, CT_NEW, nfnetlink_header
from proxy.kernel.netlink import DumpInterrupted, Message, NetlinkError
from proxy.model.addresses import IPFamily, pack_address
from proxy.netfilter.wire import attr, attributes, nested, u32

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "conntrack.json").read_text()
)
_FIELDS = {
    "maxPerCore": "max_per_core",
    "min": "min",
    "tcpEstablishedTimeout": "tcp_established_timeout_s",
    "tcpCloseWaitTimeout": "tcp_close_wait_timeout_s",
    "tcpBeLiberal": "tcp_be_liberal",
    "udpTimeout": "udp_timeout_s",
    "udpStreamTimeout": "udp_stream_timeout_s",
}
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}

Ends = Sequence[Any]
"""Source address, source port, destination address, destination port."""


def conntrack_config(**changes: Any) -> Conntrack:
    """Return a configuration that leaves everything alone but for *changes*."""
    return Conntrack(
        **(
            {
                "max_per_core": 0,
                "min": 0,
                "tcp_established_timeout_s": 0.0,
                "tcp_close_wait_timeout_s": 0.0,
                "tcp_be_liberal": False,
                "udp_timeout_s": 0.0,
                "udp_stream_timeout_s": 0.0,
            }
            | changes
        )
    )


def settings_of(conntrack: dict[str, object]) -> Conntrack:
    """Read a test case's configuration; its durations are whole seconds."""
    values = {
        _FIELDS[name]: float(value.removesuffix("s")) if isinstance(value, str) else value
        for name, value in conntrack.items()
    }
    return conntrack_config(**values)


def encode_tuple(kind: int, protocol: str, ends: Ends) -> bytes:
    """Return CTA_TUPLE_ORIG (1) or CTA_TUPLE_REPLY (2)."""
    source, source_port, destination, destination_port = ends
    addresses = pack_address(source), pack_address(destination)
    assert addresses[0] is not None
    assert addresses[1] is not None
    kinds = (1, 2) if len(addresses[0]) == 4 else (3, 4)
    return nested(
        kind,
        nested(1, attr(kinds[0], addresses[0]), attr(kinds[1], addresses[1])),
        nested(
            2,
            attr(1, bytes((PROTOCOLS[protocol],))),
            attr(2, struct.pack(">H", source_port)),
            attr(3, struct.pack(">H", destination_port)),
        ),
    )


def encode_entry(
    protocol: str, original: Ends, reply: Ends, *, identity: int = 0, zone: int | None = None
) -> bytes:
    """Return an entry's payload; with an identity as the kernel lists it, else as it is created."""
    family = IPFamily.IPV6 if ":" in original[0] else IPFamily.IPV4
    entry = nfnetlink_header(family)
    entry += encode_tuple(1, protocol, original) + encode_tuple(2, protocol, reply)
    entry += u32(7, 600)  # CTA_TIMEOUT, seconds
    if identity:
        entry += u32(12, identity)
    if zone is not None:
        entry += attr(18, struct.pack(">H", zone))
    return entry


def reversed_ends(ends: Ends) -> Ends:
    """Return the ends seen from the other side."""
    return (*ends[2:], *ends[:2])


class FakeTable:
    """
    A conntrack table as a kernel before 5.8 shows it: tuple filters are ignored.

    Called, it returns itself as the socket. ``requests`` counts dumps and deletions.
    """

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.entries = list(entries)
        self.requests = 0
        self.interrupted_dumps = 0
        self.refusal: NetlinkError | None = None

    def __call__(self) -> FakeTable:
        return self

    def __enter__(self) -> FakeTable:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def dump(self, message_type: int, payload: bytes) -> Iterator[Message]:
        assert message_type == CT_GET
        assert payload
        self.requests += 1
        if self.refusal is not None:
            raise self.refusal
        for entry in tuple(self.entries):
            yield Message(CT_NEW, 2, 1, 1, memoryview(entry))
        if self.interrupted_dumps:
            self.interrupted_dumps -= 1
            raise DumpInterrupted

    def request_many(
        self, message_type: int, flags: int, payloads: Sequence[bytes]
    ) -> list[NetlinkError | None]:
        assert message_type == CT_DELETE
        assert flags == 0
        return [self._delete(payload) for payload in payloads]

    def _delete(self, payload: bytes) -> NetlinkError | None:
        self.requests += 1
        wanted = attributes(memoryview(payload)[4:])
        for entry in self.entries:
            present = attributes(memoryview(entry)[4:])
            if present[2] == wanted[2] and present[12] == wanted[12]:
                self.entries.remove(entry)
                return None
        return NetlinkError(errno.ENOENT)
