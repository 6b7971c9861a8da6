"""A packet of a new connection on its way through the node."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address
TCP, UDP, SCTP = 6, 17, 132
PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


@dataclass(frozen=True, slots=True)
class Packet:
    """
    What rules can see of a packet.

    Attributes:
        sport: None when any ephemeral port is meant.
        iif, oif: interface names, "" for none (yet); None when it is not known.
        mark: packet mark; ct_mark that of its connection; routed_mark the one that a packet of the
            node itself had when it was routed last.
        called: destination before translation; None while nothing was translated.
        source_rewritten: the source address is replaced on the way out.
        via_ipvs: IPVS chose the destination, so IPVS does not look again.
        untracked: a rule asked for no connection, so nothing is translated.
        answers: the packet that this one answers, as it arrived; None for one that opens a
            connection.
    """

    src: Address
    dst: Address
    protocol: int
    dport: int
    sport: int | None = None
    iif: str | None = ""
    oif: str | None = ""
    mark: int = 0
    ct_mark: int = 0
    routed_mark: int = 0
    called: tuple[Address, int] | None = None
    source_rewritten: bool = False
    via_ipvs: bool = False
    untracked: bool = False
    answers: Packet | None = None

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.dst.version

    @property
    def is_translated(self) -> bool:
        """Whether the destination was rewritten (conntrack status DNAT)."""
        return self.called is not None

    @property
    def original(self) -> tuple[Address, int]:
        """Address and port that the client called."""
        return self.called or (self.dst, self.dport)

    @property
    def opener(self) -> Packet:
        """The packet that opened the connection, which may be this one."""
        return self.answers or self

    def to(self, address: Address, port: int | None) -> Packet:
        """Return the packet with its destination rewritten."""
        return replace(
            self,
            dst=address,
            dport=port or self.dport,
            called=self.called or (self.dst, self.dport),
        )

    def from_(self, address: Address | None) -> Packet:
        """Return the packet with its source rewritten; None: to an address that is not known."""
        return replace(self, source_rewritten=self.source_rewritten or address != self.src)

    def text(self) -> str:
        """Return ``10.0.0.2 -> 10.96.0.10:80/TCP``."""
        name = PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        return f"{self.src} -> {place_text(self.dst, self.dport)}/{name}"


def place_text(address: Address, port: int) -> str:
    """Return ``IP:port`` or ``[IPv6]:port``."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
