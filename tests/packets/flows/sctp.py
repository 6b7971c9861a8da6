"""
SCTP (RFC 9260) just far enough for a handshake's first two packets, INIT and INIT ACK.

Few kernels can open SCTP sockets, but conntrack and NAT handle the protocol without them; so the
packets are made here and sent through raw sockets.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

IPPROTO_SCTP = 132
INIT = 1
INIT_ACK = 2

_COMMON = struct.Struct("!HHII")  # source port, destination port, verification tag, checksum
_CHUNK = struct.Struct("!BBHIIHHI")  # type, flags, length, tag, window, streams out and in, TSN
_STATE_COOKIE = struct.pack("!HH4s", 7, 8, b"flow")  # an INIT ACK must carry one
_CRC32C_REVERSED = 0x82F63B78


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet with one chunk; ``tag`` is the chunk's initiate tag."""

    source_port: int
    target_port: int
    verification_tag: int
    chunk: int
    tag: int

    def encode(self) -> bytes:
        """The packet's bytes, with its checksum."""
        extra = _STATE_COOKIE if self.chunk == INIT_ACK else b""
        chunk = _CHUNK.pack(self.chunk, 0, 20 + len(extra), self.tag, 65535, 1, 1, self.tag) + extra
        ports = self.source_port, self.target_port, self.verification_tag
        # The checksum is computed over a zero in its place, and is sent least byte first.
        checksum = struct.unpack("<I", struct.pack("!I", _crc32c(_COMMON.pack(*ports, 0) + chunk)))
        return _COMMON.pack(*ports, *checksum) + chunk

    @classmethod
    def decode(cls, data: bytes) -> Packet | None:
        """The packet in *data*, with its first chunk only; None if it is too short."""
        if len(data) < _COMMON.size + 8:
            return None
        source, target, verification, _ = _COMMON.unpack_from(data)
        chunk, _, _, tag = struct.unpack_from("!BBHI", data, _COMMON.size)
        return cls(source, target, verification, chunk, tag)


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CRC32C_REVERSED if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
