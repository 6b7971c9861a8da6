"""Virtual servers and real servers as the kernel's IPVS knows them (``linux/ip_vs.h``)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

FLAG_PERSISTENT = 0x1
FLAG_HASHED = 0x2  # set by the kernel on every virtual server
FLAG_ONE_PACKET = 0x4
FLAG_SCHED_MH_FALLBACK = 0x8
FLAG_SCHED_MH_PORT = 0x10
FORWARD_MASQ = 0


class ServerKey(NamedTuple):
    """Identity of a virtual server: packed address, port, and protocol 6, 17 or 132."""

    address: bytes
    port: int
    protocol: int


@dataclass(frozen=True, slots=True)
class VirtualServer:
    """
    A virtual server without its real servers.

    ``flags`` are FLAG_* without FLAG_HASHED; ``timeout_s`` is that of persistence, 0 without.
    """

    key: ServerKey
    scheduler: str
    flags: int = 0
    timeout_s: int = 0


class RealKey(NamedTuple):
    """Identity of a real server within its virtual server."""

    address: bytes
    port: int


@dataclass(frozen=True, slots=True)
class RealServer:
    """A real server with the kernel's counters of connections at the time it was read."""

    key: RealKey
    weight: int
    forward: int = FORWARD_MASQ
    active: int = 0
    inactive: int = 0
    persistent: int = 0


class Action(enum.IntEnum):
    """What to do; the numbers are those of ``IPVS_CMD_*``."""

    NEW_SERVER = 1
    SET_SERVER = 2
    DELETE_SERVER = 3
    NEW_REAL = 5
    SET_REAL = 6
    DELETE_REAL = 7


class Operation(NamedTuple):
    """One change; ``real`` is None for changes of the virtual server itself."""

    action: Action
    server: VirtualServer
    real: RealKey | None = None
    weight: int = 1
