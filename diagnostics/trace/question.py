"""Questions about packets, as people and files ask them, answered on one node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Self

import msgspec

from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap
from diagnostics.trace.build import node_of
from diagnostics.trace.node import Node
from diagnostics.trace.packet import PROTOCOLS, Address, Packet
from diagnostics.trace.report import Trace, trace
from proxy.model.addresses import IPFamily

_KNOWN = frozenset({"src", "dst", "port", "protocol", "iface", "mark"})


class QuestionError(ValueError):
    """A question cannot be understood; the text names the field and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Question:
    """A packet of a new connection; ``iface`` None: wherever the route to its source leads."""

    src: Address
    dst: Address
    port: int
    protocol: int
    iface: str | None = None
    mark: int = 0

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a JSON object; raises QuestionError."""
        try:
            fields = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise QuestionError(f"this is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise QuestionError("this is no JSON object")
        return cls.read(fields)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """Read the fields src, dst, port, protocol, iface and mark; raises QuestionError."""
        if unknown := sorted(fields.keys() - _KNOWN):
            raise QuestionError(
                f"{unknown[0]}: no such field; there are {', '.join(sorted(_KNOWN))}"
            )
        src, dst = _address(fields, "src"), _address(fields, "dst")
        if src.version != dst.version:
            raise QuestionError(f"src and dst: {src} and {dst} are of different IP families")
        protocol = str(fields.get("protocol") or "TCP").upper()
        if protocol not in PROTOCOLS:
            raise QuestionError(f"protocol: {protocol!r} is none of {', '.join(PROTOCOLS)}")
        iface = fields.get("iface")
        return cls(
            src,
            dst,
            _number(fields, "port", 1, 65535),
            PROTOCOLS[protocol],
            None if iface is None else str(iface),
            _number({"mark": 0, **fields}, "mark", 0, 0xFFFFFFFF),
        )


class Tracer:
    """Answers questions on one node, reading its dumps once."""

    def __init__(self, snapshot: NodeSnapshot) -> None:
        self._snapshot = snapshot
        self._nodes: dict[IPFamily, Node] = {}

    def ask(self, question: Question) -> Trace:
        """Return what becomes of a packet."""
        node = self._node(_family(question.dst))
        local = bool(node.facts.is_local(question.src)) and question.iface in (None, "")
        iif: str | None = "" if local else question.iface
        if iif is None:
            route = node.facts.route(question.src)
            iif = None if route is None or route.is_local else route.oif or None
        packet = Packet(
            question.src,
            question.dst,
            question.protocol,
            question.port,
            iif=iif,
            mark=question.mark,
        )
        return trace(node, packet, from_node=local)

    def gaps(self, found: Trace) -> list[str]:
        """Return what the answer lacks: dumps that were not there or could not be read."""
        family = _family(found.packet.dst)
        parts = (
            self._snapshot.rulesets(family),
            self._snapshot.nft(),
            self._snapshot.routing(),
        )
        return [str(part) for part in parts if isinstance(part, Gap)]

    def _node(self, family: IPFamily) -> Node:
        if family not in self._nodes:
            self._nodes[family] = node_of(self._snapshot, family)
        return self._nodes[family]


def _family(address: Address) -> IPFamily:
    return IPFamily.IPV4 if address.version == 4 else IPFamily.IPV6


def _address(fields: Mapping[str, Any], name: str) -> Address:
    try:
        return ip_address(str(fields[name]))
    except KeyError:
        raise QuestionError(f"{name}: missing") from None
    except ValueError:
        raise QuestionError(f"{name}: {fields[name]!r} is not an IP address") from None


def _number(fields: Mapping[str, Any], name: str, least: int, most: int) -> int:
    if name not in fields:
        raise QuestionError(f"{name}: missing")
    try:
        value = int(str(fields[name]), 0)
    except ValueError:
        raise QuestionError(f"{name}: {fields[name]!r} is not a number") from None
    if not least <= value <= most:
        raise QuestionError(f"{name}: {value} is not within {least}..{most}")
    return value
