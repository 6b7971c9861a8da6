"""
What the kernel asks beside the routes: whether it forwards at all, and whether a source may be.

Of a setting that is there for all devices and for each of them mostly the larger value counts; one
that is not known leaves the question open (Documentation/networking/ip-sysctl.rst).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from diagnostics.trace.facts import Facts
from diagnostics.trace.packet import Packet
from diagnostics.trace.walk import Tri

_STRICT = 1


class Doubt(NamedTuple):
    """Whether the kernel drops a packet, ``text`` what it looked at, and why."""

    drops: Tri
    text: str = ""
    why: str = ""


PASSES = Doubt(Tri.NO)


def not_forwarded(packet: Packet, facts: Facts) -> Doubt:
    """Return whether the node refuses to pass packets on; they vanish without an answer."""
    text = f"{packet.dst} goes to another host"
    for name in _forwarding(packet):
        value = facts.setting(name)
        if value is not None:
            why = f"{name} is 0: this node passes nothing on, and tells nobody"
            return PASSES if value else Doubt(Tri.YES, text, why)
    return PASSES


def _forwarding(packet: Packet) -> Iterable[str]:
    """Return the settings that may decide, the one that does first."""
    if packet.family == 4:
        if packet.iif:
            yield _named(packet.iif, "forwarding")
        yield from ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding")
    else:
        yield "net.ipv6.conf.all.forwarding"


def odd_addresses(packet: Packet, facts: Facts) -> Doubt:
    """
    Return whether a packet from a network is dropped for its addresses: "martian", rp_filter.

    IPv6 knows only the loopback address, and drops that before any rule sees it.
    """
    if packet.iif in ("", "lo"):
        return PASSES
    if packet.family == 6:
        text = f"{packet.src} came in from {packet.iif or 'a network'}"
        why = "the loopback address never comes from a network"
        return Doubt(Tri.YES, text, why) if packet.src.is_loopback else PASSES
    for doubt in (_loopback(packet, facts), _own_source(packet, facts)):
        if doubt.drops is not Tri.NO:
            return doubt
    return _wrong_device(packet, facts)


def _loopback(packet: Packet, facts: Facts) -> Doubt:
    ends = [one for one in (packet.src, packet.dst) if one.is_loopback]
    if not ends:
        return PASSES
    # NAT may well have sent a packet to the loopback address; from there none ever comes.
    from_there = packet.src.is_loopback
    text = f"{ends[0]} on a network"
    return unless_allowed(packet.iif, "route_localnet", text, facts, by_default=from_there)


def _own_source(packet: Packet, facts: Facts) -> Doubt:
    if not facts.is_local(packet.src):
        return PASSES
    text = f"{packet.src} is the node's own address and came in from {packet.iif or 'a network'}"
    return unless_allowed(packet.iif, "accept_local", text, facts)


def unless_allowed(
    device: str | None, key: str, text: str, facts: Facts, *, by_default: bool = True
) -> Doubt:
    """
    Return a drop unless a setting, of all devices or of one, is 1.

    Of settings that are not known at all it is perhaps a drop *by_default*, else none.
    """
    names = ["net.ipv4.conf.all." + key, *([_named(device, key)] if device else [])]
    values = [facts.setting(name) for name in names]
    if any(values) or (values == [None] * len(values) and not by_default):
        return PASSES
    if values[0] is None or values[-1] is None or device is None:
        return Doubt(Tri.MAYBE, text, f"dropped unless {names[-1]} is 1, which is not known")
    return Doubt(Tri.YES, text, f"the kernel drops such a packet: {' and '.join(names)} are 0")


def _wrong_device(packet: Packet, facts: Facts) -> Doubt:
    if not packet.iif:
        return PASSES
    name = _named(packet.iif, "rp_filter")
    values = [facts.setting(one) for one in ("net.ipv4.conf.all.rp_filter", name)]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or max(known) != _STRICT:
        return PASSES
    own = facts.device_addresses(packet.iif)
    if facts.is_local(packet.src) and (own is None or packet.src in own):
        return PASSES  # the route of type local leads to the device that has the address
    valid = facts.setting("net.ipv4.conf.all.src_valid_mark")
    came_right = comes_by_its_route(packet, facts, packet.mark if valid else 0)
    if came_right is not False:
        return PASSES
    text = f"{packet.src} came in from {packet.iif}"
    why = f"the route to {packet.src} leads elsewhere, and {name} is strict (1)"
    return Doubt(Tri.YES, text, why)


def comes_by_its_route(
    packet: Packet, facts: Facts, mark: int = 0, *, is_loose: bool = False, own: bool = False
) -> bool | None:
    """
    Return whether the route back to a packet's source leaves where it came in; None: not known.

    Args:
        packet: came in from a network.
        facts: of the node.
        mark: that of the look-up.
        is_loose: any device will do.
        own: the node's own addresses will do, too.
    """
    if packet.iif in ("", "lo"):
        return True
    back = replace(packet, src=packet.dst, dst=packet.src, mark=mark, iif="")
    route = facts.route(packet.src, back)
    if route is None or not route.is_certain:
        return None
    if route.refusal or (route.is_local and not own):
        return False
    if is_loose:
        return True
    return None if packet.iif is None else route.oif == packet.iif


def _named(device: str, key: str) -> str:
    """Return the name of a device's setting; a dot in its name is a slash there."""
    return f"net.ipv4.conf.{device.replace('.', '/')}.{key}"
