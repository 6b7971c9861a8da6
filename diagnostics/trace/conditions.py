"""
Whether a condition of an iptables rule holds for a packet.

The packet opens a connection: its conntrack state is NEW, and what only the kernel can know (rates,
sockets, time, what is inside the packet) is MAYBE.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import singledispatchmethod
from ipaddress import ip_address
from typing import NamedTuple

from diagnostics.iptables import matches as m
from diagnostics.iptables.numbers import intended_probability
from diagnostics.trace.facts import Facts
from diagnostics.trace.packet import Address, Packet
from diagnostics.trace.walk import Tri, tri

_ONCE = Fraction(1)


class Answer(NamedTuple):
    """Whether a condition holds, with which probability if it is a draw, and why."""

    holds: Tri
    chance: Fraction = _ONCE
    why: str = ""


YES, NO = Answer(Tri.YES), Answer(Tri.NO)


def _answer(value: bool | None, why: str = "") -> Answer:
    return Answer(Tri.MAYBE if value is None else tri(value), why=why)


class Conditions:
    """Decides conditions with the help of a node's facts."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def holds(self, condition: m.Match, packet: Packet) -> Answer:
        """Return whether a condition holds, its negation included."""
        answer = self._ask(condition, packet)
        if not getattr(condition, "negated", False):
            return answer
        if answer.chance != _ONCE:
            return answer._replace(chance=_ONCE - answer.chance)
        return answer._replace(holds=~answer.holds)

    @singledispatchmethod
    def _ask(self, condition: object, packet: Packet) -> Answer:
        del packet
        module = getattr(condition, "module", "") or type(condition).__name__.lower()
        return Answer(Tri.MAYBE, why=f"only the kernel can decide {module!r}")

    @_ask.register
    def _(self, condition: m.Address, packet: Packet) -> Answer:
        return _answer(condition.contains(_side(packet, condition.side)))

    @_ask.register
    def _(self, condition: m.AddressRange, packet: Packet) -> Answer:
        address = _side(packet, condition.side)
        if address.version != condition.first.version:
            return NO
        return _answer(int(condition.first) <= int(address) <= int(condition.last))

    @_ask.register
    def _(self, condition: m.Interface, packet: Packet) -> Answer:
        name = packet.iif if condition.side == "in" else packet.oif
        if name is None:
            return Answer(Tri.MAYBE, why="the interface is not known")
        return _answer(condition.covers(name))

    @_ask.register
    def _(self, condition: m.Protocol, packet: Packet) -> Answer:
        return _answer(condition.number in (0, packet.protocol))

    @_ask.register(m.Comment | m.Loaded | m.Nfacct)
    def _(self, condition: object, packet: Packet) -> Answer:
        del condition, packet
        return YES

    @_ask.register
    def _(self, condition: m.Fragment, packet: Packet) -> Answer:
        del condition, packet
        return NO

    @_ask.register
    def _(self, condition: m.Ports, packet: Packet) -> Answer:
        if condition.side == "dst":
            return _answer(_within(packet.dport, condition.ranges))
        if condition.side == "any" and _within(packet.dport, condition.ranges):
            return YES
        if packet.sport is None:
            return Answer(Tri.MAYBE, why="the source port is not known")
        return _answer(_within(packet.sport, condition.ranges))

    @_ask.register
    def _(self, condition: m.TcpFlags, packet: Packet) -> Answer:
        if packet.protocol != 6:
            return NO
        return _answer(condition.mask & {"SYN"} == condition.flags, "the packet is a SYN")

    @_ask.register
    def _(self, condition: m.IcmpType, packet: Packet) -> Answer:
        return NO if packet.protocol not in (1, 58) else Answer(Tri.MAYBE)

    @_ask.register
    def _(self, condition: m.ConntrackState, packet: Packet) -> Answer:
        states = {"NEW"}
        if packet.is_translated:
            states.add("DNAT")
        if packet.source_rewritten:
            states.add("SNAT")
        return _answer(bool(states & condition.states), "the packet opens a connection")

    @_ask.register
    def _(self, condition: m.ConntrackField, packet: Packet) -> Answer:
        decide = _CONNTRACK.get(condition.name)
        if decide is None:
            return Answer(Tri.MAYBE, why=f"{condition.name} is not known")
        return _answer(decide(condition.value, packet))

    @_ask.register
    def _(self, condition: m.Mark, packet: Packet) -> Answer:
        return _answer(packet.mark & condition.mask == condition.value, f"mark {packet.mark:#x}")

    @_ask.register
    def _(self, condition: m.ConnMark, packet: Packet) -> Answer:
        return _answer(packet.ct_mark & condition.mask == condition.value)

    @_ask.register
    def _(self, condition: m.AddrType, packet: Packet) -> Answer:
        address = _side(packet, condition.side)
        types = self._facts.address_types(address)
        if types is None:
            return Answer(Tri.MAYBE, why=f"it is not known whose address {address} is")
        why = f"{address} is {'/'.join(sorted(types))}"
        return _answer(bool(types & condition.types), why)

    @_ask.register
    def _(self, condition: m.Random, packet: Packet) -> Answer:
        del packet
        return Answer(Tri.YES, intended_probability(condition.probability), "drawn at random")

    @_ask.register
    def _(self, condition: m.Nth, packet: Packet) -> Answer:
        del packet
        return Answer(Tri.YES, Fraction(1, condition.every), "taken in turn")

    @_ask.register
    def _(self, condition: m.Recent, packet: Packet) -> Answer:
        if condition.operation in ("set", "update") and condition.seconds is None:
            return YES
        known = self._facts.recent(condition.name)
        if known is None:
            return Answer(Tri.NO, why="taken for a client that did not call before")
        seen = _side(packet, condition.side) in known
        words = "is" if seen else "is not"
        return _answer(seen, f"the client {words} in the list of recent clients")

    @_ask.register
    def _(self, condition: m.IpSet, packet: Packet) -> Answer:
        found = self._facts.ipset(condition.name)
        if found is None:
            return Answer(Tri.MAYBE, why=f"the ipset {condition.name} was not read")
        inside = found.contains(packet, condition.dimensions)
        if inside is None:
            return Answer(Tri.MAYBE, why=f"the ipset {condition.name} has a type not known here")
        return _answer(inside, f"{'' if inside else 'not '}in the ipset {condition.name}")

    @_ask.register
    def _(self, condition: m.PhysDev, packet: Packet) -> Answer:
        del packet
        if condition.test == "is-in":
            return Answer(Tri.NO, why="the packet is taken not to come through a bridge port")
        return Answer(Tri.MAYBE, why="bridge ports are not known")

    @_ask.register
    def _(self, condition: m.Ipvs, packet: Packet) -> Answer:
        if not packet.via_ipvs:
            return NO
        called, port = packet.original
        values = {"vproto": str(packet.protocol), "vaddr": str(called), "vport": str(port)}
        if condition.field == "ipvs":
            return YES
        if condition.field not in values:
            return Answer(Tri.MAYBE)
        return _answer((condition.value or "").partition("/")[0] == values[condition.field])


def _side(packet: Packet, side: str) -> Address:
    return packet.src if side == "src" else packet.dst


def _within(port: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= port <= last for first, last in ranges)


def _states(value: str, packet: Packet) -> bool | None:
    have = set()
    if packet.is_translated:
        have.add("DNAT")
    if packet.source_rewritten:
        have.add("SNAT")
    return bool(have & set(value.upper().split(",")))


def _same_address(value: str, address: Address) -> bool | None:
    try:
        return ip_address(value.partition("/")[0]) == address
    except ValueError:
        return None


_CONNTRACK: dict[str, Callable[[str, Packet], bool | None]] = {
    "ctproto": lambda value, packet: value in (str(packet.protocol),),
    "ctstatus": _states,
    "ctorigdst": lambda value, packet: _same_address(value, packet.original[0]),
    "ctorigsrc": lambda value, packet: _same_address(value, packet.src),
    "ctorigdstport": lambda value, packet: value == str(packet.original[1]),
    "ctdir": lambda value, packet: value.upper() == "ORIGINAL",
}
