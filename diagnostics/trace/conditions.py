"""
Whether a condition of an iptables rule holds for a packet.

The packet opens a connection: its conntrack state is NEW, and what only the kernel can know (rates,
sockets, time, what is inside the packet) is MAYBE. A rate is taken not to be exceeded: the packet
is the first one in a while.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import singledispatchmethod
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from diagnostics.iptables import matches as m
from diagnostics.iptables.numbers import intended_probability
from diagnostics.trace.facts import Facts, types_on
from diagnostics.trace.packet import PROTOCOL_NAMES, Address, Packet
from diagnostics.trace.routing_checks import comes_by_its_route
from diagnostics.trace.walk import Tri, tri

ONCE = Fraction(1)


class Answer(NamedTuple):
    """Whether a condition holds, with which probability if it is a draw, and why."""

    holds: Tri
    chance: Fraction = ONCE
    why: str = ""


YES, NO = Answer(Tri.YES), Answer(Tri.NO)


def _answer(value: bool | None, why: str = "") -> Answer:
    return Answer(Tri.MAYBE if value is None else tri(value), why=why)


class Conditions:
    """Decides conditions with the help of a node's facts."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    def holds(self, condition: m.Match, packet: Packet) -> Answer:
        """Return whether a condition holds, its negation included."""
        answer = _asking(type(condition))(self, condition, packet)
        if not getattr(condition, "negated", False):
            return answer
        if answer.chance is not ONCE and answer.chance != ONCE:
            return answer._replace(chance=ONCE - answer.chance)
        return answer._replace(holds=~answer.holds)

    @singledispatchmethod
    def _ask(self, condition: object, packet: Packet) -> Answer:
        module = getattr(condition, "module", "") or type(condition).__name__.lower()
        if module == "owner" and packet.iif not in ("", "lo", None):
            return Answer(Tri.NO, why="a packet that was forwarded has no owner")
        if module == "rpfilter":
            return self._reverse_path(getattr(condition, "text", ""), packet)
        return Answer(Tri.MAYBE, why=f"only the kernel can decide {module!r}")

    def _reverse_path(self, text: str, packet: Packet) -> Answer:
        options = set(text.split())
        mark = packet.mark if "--validmark" in options else 0
        found = comes_by_its_route(
            packet,
            self.facts,
            mark,
            is_loose="--loose" in options,
            own="--accept-local" in options,
        )
        if found is None:
            return Answer(Tri.MAYBE, why=f"the route back to {packet.src} is not known")
        how = "does" if found else "does not"
        why = f"the route back to {packet.src} {how} leave where the packet came in"
        return _answer(found == ("--invert" not in options), why)

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
        flags = {"SYN", "ACK"} if packet.answers else {"SYN"}
        why = f"the packet is a {'/'.join(sorted(flags, reverse=True))}"
        return _answer(condition.mask & flags == condition.flags, why)

    @_ask.register
    def _(self, condition: m.IcmpType, packet: Packet) -> Answer:
        return NO if packet.protocol not in (1, 58) else Answer(Tri.MAYBE)

    @_ask.register
    def _(self, condition: m.ConntrackState, packet: Packet) -> Answer:
        if packet.untracked:
            return _answer("UNTRACKED" in condition.states, "no connection is tracked")
        states = {"ESTABLISHED" if packet.answers else "NEW"}
        if packet.opener.is_translated:
            states.add("DNAT")
        if packet.opener.source_rewritten:
            states.add("SNAT")
        why = "the packet is an answer" if packet.answers else "the packet opens a connection"
        return _answer(bool(states & condition.states), why)

    @_ask.register
    def _(self, condition: m.ConntrackField, packet: Packet) -> Answer:
        if packet.untracked:
            return Answer(Tri.NO, why="no connection is tracked")
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
        if condition.limit:
            device = packet.iif if condition.limit == "in" else packet.oif
            types = types_on(device, address, self.facts)
        else:
            types = self.facts.address_types(address)
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
        if condition.operation == "set":
            return YES
        known = self.facts.recent(condition.name)
        if known is None:
            return Answer(Tri.NO, why="taken for a client that did not call before")
        seen = _masked(_side(packet, condition.side), condition.mask) in known
        words = "is" if seen else "is not"
        if seen and (condition.hitcount or 0) > 1:
            return Answer(Tri.MAYBE, why="how often the client called is not known")
        return _answer(seen, f"the client {words} in the list of recent clients")

    @_ask.register
    def _(self, condition: m.IpSet, packet: Packet) -> Answer:
        found = self.facts.ipset(condition.name)
        if found is None:
            return Answer(Tri.MAYBE, why=f"the ipset {condition.name} was not read")
        inside = found.contains(packet, condition.dimensions)
        if any(_changes_the_answer(flag, inside) for flag in condition.flags):
            return Answer(Tri.MAYBE, why=f"{' '.join(condition.flags)} cannot be decided")
        if inside is None:
            return Answer(Tri.MAYBE, why=f"the ipset {condition.name} has a type not known here")
        return _answer(inside, f"{'' if inside else 'not '}in the ipset {condition.name}")

    @_ask.register
    def _(self, condition: m.PhysDev, packet: Packet) -> Answer:
        own = packet.iif == "" or condition.name in (packet.iif, packet.oif)
        if condition.test in ("is-in", "is-bridged") or (condition.test == "in" and own):
            return Answer(Tri.NO, why="the packet is taken not to come through a bridge port")
        return Answer(Tri.MAYBE, why="bridge ports are not known")

    @_ask.register
    def _(self, condition: m.Limit, packet: Packet) -> Answer:
        del packet
        return Answer(Tri.YES, why=f"the rate of {condition.rate} is taken not to be exceeded")

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


def _masked(address: Address, mask: str | None) -> Address:
    """Return the part of an address that a ``recent`` list keeps."""
    if mask is None:
        return address
    bits = int(ip_address(mask)) & int(address)
    return ip_address(bits.to_bytes(len(address.packed), "big"))


def _changes_the_answer(flag: str, inside: bool | None) -> bool:
    """Whether an option of ``-m set`` may turn the answer around: a hole, counters of an entry."""
    if "--return-nomatch" in flag:
        return not inside
    return bool(inside) and ("--packets-" in flag or "--bytes-" in flag)


def _is_within(value: str, address: Address) -> bool | None:
    try:
        return address in ip_network(value, strict=False)
    except ValueError:
        return None


def _is_port(value: str, port: int | None) -> bool | None:
    first, _, last = value.partition(":")
    if port is None or not first.isdecimal() or not (last or first).isdecimal():
        return None
    return int(first) <= port <= int(last or first)


def _reply_target(value: str, packet: Packet) -> bool | None:
    """Whether answers go to an address: the client's, unless the source was rewritten."""
    return None if packet.source_rewritten else _is_within(value, packet.src)


def _has_status(value: str, packet: Packet) -> bool | None:
    """Whether a connection has one of some states; an answer makes it one that saw a reply."""
    if packet.answers is None:
        return False
    wanted = set(value.upper().split(","))
    if wanted & {"SEEN_REPLY", "CONFIRMED"}:
        return True
    return None if "ASSURED" in wanted else False


# By the first packet of a connection: no answer was seen, and it is in no table yet.
_CONNTRACK: dict[str, Callable[[str, Packet], bool | None]] = {
    "ctproto": lambda value, packet: (
        value.upper() in (str(packet.protocol), PROTOCOL_NAMES.get(packet.protocol))
    ),
    "ctstatus": lambda value, packet: _has_status(value, packet),
    "ctorigdst": lambda value, packet: _is_within(value, packet.opener.original[0]),
    "ctorigsrc": lambda value, packet: _is_within(value, packet.opener.src),
    "ctorigsrcport": lambda value, packet: _is_port(value, packet.opener.sport),
    "ctorigdstport": lambda value, packet: _is_port(value, packet.opener.original[1]),
    "ctreplsrc": lambda value, packet: _is_within(value, packet.opener.dst),
    "ctrepldst": lambda value, packet: _reply_target(value, packet.opener),
    "ctreplsrcport": lambda value, packet: _is_port(value, packet.opener.dport),
    "ctdir": lambda value, packet: value.upper() == ("REPLY" if packet.answers else "ORIGINAL"),
}


_ASKING: dict[type, Callable[..., Answer]] = {}


def _asking(kind: type) -> Callable[..., Answer]:
    """Return what decides conditions of a type; to bind the method each time is half the cost."""
    found = _ASKING.get(kind)
    if found is None:
        found = _ASKING[kind] = vars(Conditions)["_ask"].dispatcher.dispatch(kind)
    return found
