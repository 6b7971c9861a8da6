"""Makes the target of a rule's ``-j`` or ``-g`` group."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from diagnostics.iptables import targets as t
from diagnostics.iptables.grammar import Group, Kind, Option
from diagnostics.iptables.numbers import (
    ALL_BITS,
    read_masked,
    read_nat_range,
    read_number,
    read_port,
    read_port_range,
)
from diagnostics.iptables.options import CONTINUING, UNFORESEEABLE

Options = dict[str, Option]


def read_target(group: Group) -> t.Target:
    """
    Return what a rule does; never raises.

    An unknown name without options is a chain, whether or not there is one.
    """
    text, name = group.text, group.name
    if name in CONTINUING and group.kind is Kind.JUMP:
        return t.Continue(text, name)
    build = _EXTENSIONS.get(name)
    if build is None or group.kind is Kind.GOTO:
        if group.options or not is_chain(name):
            return t.OpaqueTarget(text, name)
        return t.Jump(text, name) if group.kind is Kind.JUMP else t.Goto(text, name)
    options = {option.name: option for option in group.options}
    try:
        target = build(text, options)
    except (ValueError, KeyError, IndexError):
        return t.OpaqueTarget(text, name)
    doubtful = any(option.negated for option in group.options)
    return t.OpaqueTarget(text, name) if doubtful else target


def is_chain(name: str) -> bool:
    """Return whether a name is none of the extensions."""
    return bool(name) and name not in _NO_CHAINS


def _plain(make: Callable[[str], t.Target]) -> Callable[[str, Options], t.Target]:
    def build(text: str, options: Options) -> t.Target:
        if options:
            raise ValueError(text)
        return make(text)

    return build


def _allow(options: Options, *names: str) -> None:
    unknown = options.keys() - set(names)
    if unknown:
        raise ValueError(f"unknown options {unknown}")


def _reject(text: str, options: Options) -> t.Target:
    _allow(options, "--reject-with")
    how = options.get("--reject-with")
    return t.Reject(text, how.args[0] if how else None)


def _mark_change(option: Option) -> tuple[int, int]:
    """Return (keep, flip), so that the new mark is (mark & keep) ^ flip."""
    (words,) = option.args
    value, mask = read_masked(words)
    match option.name:
        case "--set-xmark":
            return ALL_BITS & ~mask, value
        case "--set-mark":
            return ALL_BITS & ~(value | mask), value
        case "--and-mark":
            return read_number(words), 0
        case "--or-mark":
            return ALL_BITS & ~read_number(words), value
        case "--xor-mark":
            return ALL_BITS, read_number(words)
        case _:
            raise ValueError(option.name)


def _mark(text: str, options: Options) -> t.Target:
    (option,) = options.values()
    return t.SetMark(text, *_mark_change(option))


def _connmark(text: str, options: Options) -> t.Target:
    operations = options.keys() & {"--save-mark", "--restore-mark"}
    if not operations:
        (option,) = options.values()
        return t.SetConnMark(text, *_mark_change(option))
    (operation,) = operations
    _allow(options, operation, "--nfmask", "--ctmask", "--mask")
    nfmask, ctmask = (
        next((read_number(options[name].args[0]) for name in names if name in options), ALL_BITS)
        for names in (("--nfmask", "--mask"), ("--ctmask", "--mask"))
    )
    make = t.SaveMark if operation == "--save-mark" else t.RestoreMark
    return make(text, nfmask, ctmask)


def _nat_ranges(text: str, options: Options, name: str) -> tuple[t.NatRange, ...]:
    if text.count(name) != 1:  # several ranges need a kernel before 2.6.11
        raise ValueError(text)
    return (read_nat_range(options[name].args[0]),)


def _dnat(text: str, options: Options) -> t.Target:
    _allow(options, "--to-destination", "--random", "--persistent")
    ranges = _nat_ranges(text, options, "--to-destination")
    return t.Dnat(text, ranges, "--random" in options, "--persistent" in options)


def _snat(text: str, options: Options) -> t.Target:
    _allow(options, "--to-source", "--random", "--random-fully", "--persistent")
    flags = [flag in options for flag in ("--random", "--random-fully", "--persistent")]
    return t.Snat(text, _nat_ranges(text, options, "--to-source"), *flags)


def _ports(options: Options) -> tuple[int, int] | None:
    option = options.get("--to-ports")
    return read_port_range(option.args[0], "-") if option else None


def _masquerade(text: str, options: Options) -> t.Target:
    _allow(options, "--to-ports", "--random", "--random-fully")
    return t.Masquerade(text, _ports(options), "--random" in options, "--random-fully" in options)


def _redirect(text: str, options: Options) -> t.Target:
    _allow(options, "--to-ports", "--random")
    return t.Redirect(text, _ports(options), "--random" in options)


def _ct(text: str, options: Options) -> t.Target:
    return t.Notrack(text) if "--notrack" in options else t.Ct(text)


def _tproxy(text: str, options: Options) -> t.Target:
    _allow(options, "--on-port", "--on-ip", "--tproxy-mark")
    address, mark = options.get("--on-ip"), options.get("--tproxy-mark")
    value, mask = read_masked(mark.args[0]) if mark else (0, 0)
    return t.Tproxy(
        text,
        read_port(options["--on-port"].args[0]),
        ip_address(address.args[0]) if address else None,
        ALL_BITS & ~mask,
        value,
    )


def _queue(text: str, options: Options) -> t.Target:
    return t.Queue(text)


_EXTENSIONS: dict[str, Callable[[str, Options], t.Target]] = {
    "ACCEPT": _plain(t.Accept),
    "DROP": _plain(t.Drop),
    "RETURN": _plain(t.Return),
    "NOTRACK": _plain(t.Notrack),
    "REJECT": _reject,
    "MARK": _mark,
    "CONNMARK": _connmark,
    "DNAT": _dnat,
    "SNAT": _snat,
    "MASQUERADE": _masquerade,
    "REDIRECT": _redirect,
    "CT": _ct,
    "TPROXY": _tproxy,
    "QUEUE": _queue,
    "NFQUEUE": _queue,
}
_NO_CHAINS = CONTINUING | UNFORESEEABLE | _EXTENSIONS.keys()
