"""
Makes matches of a rule's groups.

Every function may raise ValueError, KeyError or IndexError for words it does not understand;
``read_matches`` turns that into Opaque matches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from diagnostics.iptables import matches as m
from diagnostics.iptables.grammar import Group, Kind, Option
from diagnostics.iptables.numbers import (
    read_address_range,
    read_masked,
    read_network,
    read_number,
    read_port_range,
)
from diagnostics.iptables.options import PROTOCOLS
from diagnostics.iptables.whole_modules import WHOLE

_NAMES = {number: name for name, number in reversed(PROTOCOLS.items())}
_MODULES_WITHOUT_OPTIONS = frozenset(("tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmp6"))
_STATES = frozenset(("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT"))
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")


def read_matches(group: Group) -> list[m.Match]:
    """Return the conditions of a group that is no target, in order; never raises."""
    if group.kind is Kind.BASIC:
        return [_guarded(_BASIC[group.name], group.options[0], group.text, "")]
    if group.kind is not Kind.MATCH:
        return [m.Opaque(group.text, "", _is_negated(group))]
    whole = WHOLE.get(group.name)
    if whole is not None:
        try:
            return whole(group)
        except (ValueError, KeyError, IndexError, ArithmeticError):
            return [m.Opaque(group.text, group.name, _is_negated(group))]
    each = _ONE_CONDITION_EACH.get(group.name)
    if each is None:
        return [m.Opaque(group.text, group.name, _is_negated(group))]
    return _one_each(group, each)


def _one_each(group: Group, read: Callable[[Option, str], m.Match]) -> list[m.Match]:
    if not group.options:
        if group.name in _MODULES_WITHOUT_OPTIONS:
            return [m.Loaded(group.text, group.name)]
        return [m.Opaque(group.text, group.name)]
    found = []
    head = f"{group.head} " if group.head else ""
    for option in group.options:
        found.append(_guarded(read, option, head + option.text, group.name))
        head = ""
    return found


def _guarded(
    read: Callable[[Option, str], m.Match], option: Option, text: str, module: str
) -> m.Match:
    try:
        return read(option, text)
    except (ValueError, KeyError, IndexError):
        return m.Opaque(text, module, option.negated)


def _is_negated(group: Group) -> bool:
    return bool(group.options) and group.options[0].negated


def _address(option: Option, text: str) -> m.Address:
    """Return what ``-s`` and ``-d`` say."""
    version, value, mask = read_network(option.args[0])
    side: m.Side = "src" if option.name == "-s" else "dst"
    return m.Address(text, side, version, value, mask, option.negated)


def _interface(option: Option, text: str) -> m.Match:
    (name,) = option.args
    if not name:
        raise ValueError(text)
    return m.Interface(text, "in" if option.name == "-i" else "out", name, option.negated)


def _protocol(option: Option, text: str) -> m.Match:
    (name,) = option.args
    if name.isascii() and name.isdigit():
        number = int(name)
        if number > 255:
            raise ValueError(text)
        return m.Protocol(text, number, _NAMES.get(number, name), option.negated)
    number = PROTOCOLS[name.lower()]
    return m.Protocol(text, number, _NAMES[number], option.negated)


def _fragment(option: Option, text: str) -> m.Match:
    return m.Fragment(text, option.negated)


def _transport(option: Option, text: str) -> m.Match:
    if option.name in ("--sport", "--source-port", "--dport", "--destination-port"):
        side: Literal["src", "dst"] = "src" if option.name[2] == "s" else "dst"
        ranges = (read_port_range(option.args[0], ":"),)
        return m.Ports(text, side, ranges, option.negated)
    if option.name == "--syn":
        checked = frozenset(("FIN", "SYN", "RST", "ACK"))
        return m.TcpFlags(text, checked, frozenset(("SYN",)), option.negated)
    if option.name == "--tcp-flags":
        mask, flags = map(_tcp_flags, option.args)
        return m.TcpFlags(text, mask, flags, option.negated)
    raise ValueError(text)


def _tcp_flags(text: str) -> frozenset[str]:
    named = text.upper().split(",")
    if named == ["ALL"]:
        return frozenset(_FLAGS)
    if named == ["NONE"]:
        return frozenset()
    if not set(named) <= set(_FLAGS):
        raise ValueError(text)
    return frozenset(named)


def _multiport(option: Option, text: str) -> m.Match:
    sides: dict[str, Literal["src", "dst", "any"]] = {
        "--sports": "src",
        "--source-ports": "src",
        "--dports": "dst",
        "--destination-ports": "dst",
        "--ports": "any",
    }
    ranges = tuple(read_port_range(part, ":") for part in option.args[0].split(","))
    return m.Ports(text, sides[option.name], ranges, option.negated)


def _icmp(option: Option, text: str) -> m.Match:
    if option.name not in ("--icmp-type", "--icmpv6-type", "--icmp6-type"):
        raise ValueError(text)
    return m.IcmpType(text, option.args[0], option.negated)


def _comment(option: Option, text: str) -> m.Match:
    if option.name != "--comment" or option.negated:
        raise ValueError(text)
    return m.Comment(text, option.args[0])


def _conntrack(option: Option, text: str) -> m.Match:
    (value,) = option.args
    if option.name == "--ctstate":
        return m.ConntrackState(text, _states(value), option.negated)
    if not option.name.startswith("--ct"):
        raise ValueError(text)
    return m.ConntrackField(text, option.name[2:], value, option.negated)


def _state(option: Option, text: str) -> m.Match:
    if option.name != "--state":
        raise ValueError(text)
    return m.ConntrackState(text, _states(option.args[0]), option.negated)


def _states(text: str) -> frozenset[str]:
    states = frozenset(text.upper().split(","))
    if not states <= _STATES:
        raise ValueError(text)
    return states


def _mark(option: Option, text: str) -> m.Match:
    _expect(option, "--mark")
    value, mask = read_masked(option.args[0])
    return m.Mark(text, value, mask, option.negated)


def _connmark(option: Option, text: str) -> m.Match:
    _expect(option, "--mark")
    value, mask = read_masked(option.args[0])
    return m.ConnMark(text, value, mask, option.negated)


def _physdev(option: Option, text: str) -> m.Match:
    tests: dict[str, Literal["in", "out", "is-in", "is-out", "is-bridged"]] = {
        "--physdev-in": "in",
        "--physdev-out": "out",
        "--physdev-is-in": "is-in",
        "--physdev-is-out": "is-out",
        "--physdev-is-bridged": "is-bridged",
    }
    test = tests[option.name]
    name = option.args[0] if test in ("in", "out") else None
    return m.PhysDev(text, test, name, option.negated)


def _ipvs(option: Option, text: str) -> m.Match:
    field = option.name[2:]
    if field == "ipvs":
        return m.Ipvs(text, field, None, option.negated)
    (value,) = option.args
    if field == "vaddr":
        read_network(value)
    elif field in ("vport", "vportctl"):
        read_number(value)
    elif field not in ("vproto", "vdir", "vmethod"):
        raise ValueError(text)
    return m.Ipvs(text, field, value, option.negated)


def _nfacct(option: Option, text: str) -> m.Match:
    _expect(option, "--nfacct-name")
    return m.Nfacct(text, option.args[0])


def _iprange(option: Option, text: str) -> m.Match:
    sides: dict[str, m.Side] = {"--src-range": "src", "--dst-range": "dst"}
    first, last = read_address_range(option.args[0])
    return m.AddressRange(text, sides[option.name], first, last, option.negated)


def _expect(option: Option, name: str) -> None:
    if option.name != name:
        raise ValueError(option.text)


_BASIC: dict[str, Callable[[Option, str], m.Match]] = {
    "-s": _address,
    "-d": _address,
    "-i": _interface,
    "-o": _interface,
    "-p": _protocol,
    "-f": _fragment,
}
_ONE_CONDITION_EACH: dict[str, Callable[[Option, str], m.Match]] = {
    **dict.fromkeys(("tcp", "udp", "udplite", "sctp", "dccp"), _transport),
    "multiport": _multiport,
    **dict.fromkeys(("icmp", "icmp6"), _icmp),
    "comment": _comment,
    "conntrack": _conntrack,
    "state": _state,
    "mark": _mark,
    "connmark": _connmark,
    "physdev": _physdev,
    "ipvs": _ipvs,
    "nfacct": _nfacct,
    "iprange": _iprange,
}
