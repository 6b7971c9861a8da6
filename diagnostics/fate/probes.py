"""Asks what becomes of calls: one outcome for each frontend and class of clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from diagnostics.fate.clients import Client, Clients
from diagnostics.fate.frontends import Frontend
from diagnostics.trace.packet import Address, place_text
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.report import ACCEPT, DNAT, DROP, NONE, REJECT, Trace
from proxy.backends.nftables.layout import CLUSTER_IPS_CHECK


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint that a call may reach."""

    address: Address
    port: int
    masquerade: bool

    @property
    def place(self) -> str:
        """``10.0.0.1:80``."""
        return place_text(self.address, self.port)


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What becomes of a call.

    Attributes:
        verdict, certainty: as in a trace.
        shares: the endpoints it may reach, with exact probabilities.
        known: whether any rule knows this frontend; those that refuse every unused address of
            Services, or every unused port of one, do not.
    """

    verdict: str
    certainty: str
    shares: tuple[tuple[Target, Fraction], ...] = ()
    known: bool = True

    @classmethod
    def of(cls, trace: Trace) -> Outcome:
        """Return what a trace says."""
        shares = tuple(
            (Target(one.address, one.port, one.masquerade), one.probability)
            for one in trace.destinations
        )
        known = trace.verdict not in (NONE, ACCEPT)
        if trace.verdict in (DROP, REJECT):
            known = not any(step.chain == CLUSTER_IPS_CHECK for step in trace.steps[-1:])
        return cls(trace.verdict, trace.certainty, shares, known)

    @property
    def text(self) -> str:
        """What happens in a few words."""
        if self.verdict == DNAT:
            places = sorted({target.place for target, _ in self.shares})
            said = ", ".join(places[:3])
            return f"goes to {said}" + (f" and {len(places) - 3} more" if len(places) > 3 else "")
        words = {DROP: "is dropped", REJECT: "is rejected"}
        said = words.get(self.verdict, "is not translated")
        unused = self.verdict in words and not self.known
        return f"{said} like every unused address or port of Services" if unused else said


@dataclass(frozen=True, slots=True)
class Call:
    """A client calls a frontend under an address."""

    client: Client
    frontend: Frontend
    address: Address

    @property
    def question(self) -> Question:
        """The packet that opens the connection."""
        return Question(
            self.client.address,
            self.address,
            self.frontend.port,
            self.frontend.protocol,
            self.client.iface,
        )


def calls(frontend: Frontend, clients: Clients, special: Iterable[Client] = ()) -> Iterator[Call]:
    """Yield the calls that tell whether a frontend works; *special* clients belong to it alone."""
    for client, address in clients.calling(frontend):
        yield Call(client, frontend, address)
    for client in special:
        called = frontend.address or next(iter(clients.node_addresses), None)
        if called is not None:
            yield Call(client, frontend, called)


class Oracle:
    """Answers calls on one node."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def trace(self, call: Call) -> Trace:
        """Return the whole answer."""
        return self._tracer.ask(call.question)

    def outcome(self, call: Call) -> Outcome:
        """Return what matters of the answer."""
        return Outcome.of(self.trace(call))
