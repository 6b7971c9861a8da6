"""A probe, what became of it, and its state while it is under way."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from tests.packets.flows.scenario import Endpoint


class HarnessError(Exception):
    """The test network itself does not work, so nothing can be said about the proxy."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One new connection."""

    source: str
    target: Endpoint
    protocol: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What became of a probe.

    ``fate`` is landed, refused, unreachable, silent, or stranger (a program that is not part of
    the test took the connection). Where it landed, ``at`` is the destination and ``source`` the
    source address seen there; ``answered`` tells whether the answer found its way back.
    """

    fate: str
    at: Endpoint | None = None
    source: str | None = None
    answered: bool = True


@dataclass(slots=True, eq=False)
class Attempt:
    """A probe under way; ``outcome`` is set once."""

    probe: Probe
    outcome: Outcome | None = None
    landed: Outcome | None = None  # seen by a listener, the answer is still under way
    connected_since: float | None = None
    sockets: list[socket.socket] = field(default_factory=list)
