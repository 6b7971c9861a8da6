"""What is looked at, how long, and why that may be refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diagnostics.trace.packet import PROTOCOL_NAMES, TCP, Address, place_text
from diagnostics.trace.question import Question
from kpctl.exit_codes import ENVIRONMENT
from proxy.model.addresses import IPFamily


class LiveTraceError(Exception):
    """
    Real packets cannot, or must not, be looked at here.

    The text says why; ``hint`` says what to do next. ``exit_code`` is that of the command.
    """

    def __init__(self, why: str, hint: str, exit_code: int = ENVIRONMENT) -> None:
        super().__init__(why)
        self.hint = hint
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class PacketFilter:
    """
    Which packets are looked at; of TCP only those that open a connection.

    Attributes:
        protocol: number of the transport protocol.
        destination, source: None for any.
        port, source_port: of destination and source, 0 for any.
        iface: where packets come in, "" for those of the node itself, None for both.
    """

    family: IPFamily
    protocol: int
    destination: Address | None = None
    port: int = 0
    source: Address | None = None
    source_port: int = 0
    iface: str | None = None

    @classmethod
    def of(cls, question: Question, *, any_source: bool = False) -> PacketFilter:
        """Return the filter for a question's packets, or for those of whoever calls there."""
        called = cls.to(question.protocol, question.dst, question.port)
        source = None if any_source else question.src
        return replace(called, source=source, iface=question.iface)

    @classmethod
    def to(cls, protocol: int, destination: Address, port: int) -> PacketFilter:
        """Return the filter for whatever is sent to a place."""
        family = IPFamily.IPV4 if destination.version == 4 else IPFamily.IPV6
        return cls(family, protocol, destination, port)

    @property
    def is_narrow(self) -> bool:
        """Whether it names one host, and a port or a second host."""
        hosts = [host for host in (self.destination, self.source) if host is not None]
        ports = self.port or self.source_port
        return len(hosts) == 2 or bool(hosts and ports)

    @property
    def text(self) -> str:
        """What it lets through, in words."""
        called = "any address"
        if self.destination is not None:
            called = place_text(self.destination, self.port) if self.port else f"{self.destination}"
        elif self.port:
            called = f"port {self.port} of any address"
        caller = "any client" if self.source is None else str(self.source)
        name = PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        what = "new TCP connections" if self.protocol == TCP else f"{name} packets"
        where = {None: "", "": ", from this node"}.get(self.iface, f", in by {self.iface}")
        return f"{what} of {caller} to {called}{where}"
