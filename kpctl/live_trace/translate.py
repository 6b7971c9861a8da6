"""
The kernel's trace of a packet in words: which rules it met, what they mean, where it got to.

Steps have the same shape as those of a trace through the rules, so that both read alike.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from diagnostics.cluster.names import Names
from diagnostics.trace.answer import service_of
from diagnostics.trace.packet import PROTOCOL_NAMES, place_text
from diagnostics.trace.walk import Step, Tri
from kpctl.live_trace.own_table import OWN_HOOKS, TABLE
from kpctl.live_trace.packets import TracedPacket
from kpctl.live_trace.rule_book import RuleBook
from proxy.netfilter.trace_messages import Headers, TraceKind, TraceMessage

_SILENT = frozenset({"", "continue", "break"})


class Outcome(enum.Enum):
    """How a packet's way through this node ended."""

    SENT = "sent"
    DELIVERED = "delivered"
    DROPPED = "dropped"
    REJECTED = "rejected"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class PacketStory:
    """
    What became of one real packet on this node.

    Attributes:
        at_s: when it came, by the clock of ``TracedPacket``.
        called: its headers as it came; final: as it was last seen.
        device_in, device_out: interface names, "" for none.
        service: what it called, ``shop/web:http``, "" if nothing tells.
        last_hook: where it was last seen.
    """

    at_s: float
    called: Headers
    final: Headers
    device_in: str
    device_out: str
    service: str
    steps: tuple[Step, ...]
    outcome: Outcome
    last_hook: str

    @property
    def destination_rewritten(self) -> bool:
        """Whether somebody changed where it goes."""
        return destination(self.called) != destination(self.final)

    @property
    def source_rewritten(self) -> bool:
        """Whether somebody changed where it comes from."""
        return source(self.called) != source(self.final)


def source(headers: Headers) -> str:
    """Return ``IP:port`` of the sender."""
    return place_text(ip_address(headers.source), headers.source_port)


def destination(headers: Headers) -> str:
    """Return ``IP:port`` of the receiver."""
    return place_text(ip_address(headers.destination), headers.destination_port)


def headers_text(headers: Headers) -> str:
    """Return ``10.0.0.2:40000 -> 10.96.0.10:80/TCP``."""
    protocol = PROTOCOL_NAMES.get(headers.protocol, str(headers.protocol))
    return f"{source(headers)} -> {destination(headers)}/{protocol}"


class Translator:
    """
    Tells packets' stories.

    Args:
        book: Looks rules up.
        device: Returns the name of an interface index.
        names: Who is behind an address; None when the API objects are not known.
    """

    def __init__(
        self, book: RuleBook, device: Callable[[int], str], names: Names | None = None
    ) -> None:
        self._book = book
        self._device = device
        self._names = names

    def story(self, packet: TracedPacket) -> PacketStory | None:
        """Return the story, None when the kernel's messages were lost before its headers."""
        telling = _Telling(self, self._book)
        for message in packet.messages:
            telling.add(message)
        if telling.called is None or telling.final is None:
            return None
        first = packet.messages[0]
        return PacketStory(
            packet.at_s,
            telling.called,
            telling.final,
            self._device(first.iif) if first.iif else "",
            self._device(telling.oif) if telling.oif else "",
            self._called(telling.called) or service_of(telling.steps) or "",
            tuple(telling.steps),
            telling.outcome(),
            telling.hook,
        )

    def _called(self, headers: Headers) -> str:
        if self._names is None:
            return ""
        address = ip_address(headers.destination)
        return self._names.service(address, headers.destination_port, headers.protocol)

    def owner(self, address: str) -> str:
        """Return who has an address, ``pod shop/web-1 on node-2``, "" if unknown."""
        return self._names.owner(ip_address(address)) if self._names else ""

    def meaning(self, message: TraceMessage, text: str, headers: Headers | None) -> str:
        """Return what a rule did, beyond what its own text says."""
        parts = []
        word, _, target = message.verdict.partition(" ")
        looked_up = "vmap" in text
        if (target and target not in text) or (looked_up and word not in _SILENT):
            parts.append(message.verdict)
        service = self._called(headers) if headers and looked_up else ""
        if headers and service:
            parts.append(f"{destination(headers)} is {service}")
        return "; ".join(parts)


class _Telling:
    """One story while it is told."""

    def __init__(self, translator: Translator, book: RuleBook) -> None:
        self._translator = translator
        self._book = book
        self.steps: list[Step] = []
        self.called: Headers | None = None
        self.final: Headers | None = None
        self.hook = ""
        self.oif = 0
        self._refused: Outcome | None = None
        self._seen_last = ""  # the hook that our own looking chain saw last

    def add(self, message: TraceMessage) -> None:
        if message.headers is not None:
            self._enter(message, message.headers)
        if message.table == TABLE:
            self._seen_last = self.hook
        elif message.kind is TraceKind.RULE and message.handle:
            self._rule(message)
        elif message.kind is TraceKind.POLICY and message.verdict == "drop":
            self._policy(message)

    def outcome(self) -> Outcome:
        if self._refused is not None:
            return self._refused
        ends = {"input": Outcome.DELIVERED, "postrouting": Outcome.SENT}
        return ends.get(self._seen_last, Outcome.VANISHED)

    def _enter(self, message: TraceMessage, headers: Headers) -> None:
        """Begin a base chain: only its first message has headers and devices."""
        # What differs was changed by the base chain before.
        self._compare(headers)
        self.oif = message.oif
        self._seen_last = ""
        self.hook = self._hook(message) or self.hook

    def _hook(self, message: TraceMessage) -> str:
        if message.table == TABLE:
            return OWN_HOOKS.get(message.chain, "")
        found = self._book.hook(message.family, message.table, message.chain)
        return found.hook if found else ""

    def _compare(self, headers: Headers) -> None:
        before, self.final = self.final, headers
        if before is None:
            self.called = headers
            return
        for word, place in (("destination", destination), ("source", source)):
            if place(before) != place(headers):
                text = f"{word} rewritten: {place(before)} becomes {place(headers)}"
                owner = self._translator.owner(getattr(headers, word))
                self.steps.append(Step(self.hook, "", "", "", text, Tri.YES, owner))

    def _rule(self, message: TraceMessage) -> None:
        cited = self._book.rule(message.family, message.table, message.chain, message.handle)
        why = self._translator.meaning(message, cited.text, self.final)
        self.steps.append(
            Step(self.hook, cited.table, message.chain, cited.place, cited.text, Tri.YES, why)
        )
        if message.verdict == "drop":
            rejects = "reject" in cited.text.lower()
            self._refused = Outcome.REJECTED if rejects else Outcome.DROPPED

    def _policy(self, message: TraceMessage) -> None:
        table = f"{message.family} {message.table}"
        why = "no rule decided"
        self.steps.append(
            Step(self.hook, table, message.chain, "policy", "policy drop", Tri.YES, why)
        )
        self._refused = Outcome.DROPPED
