"""
Turns the kernel's expressions of a rule into the statements that nft prints.

The kernel has no fields and no matches: it loads values into registers, masks and compares them.
Only the forms that nft makes of common rules are known here, and only where there is one reading;
for anything else ``Undecoded`` is raised, and nft itself is asked. Attribute numbers and keys are
those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from diagnostics.live.kernel import Attributes, KernelSet, number, text
from diagnostics.live.packed import (
    INTEGER,
    Undecoded,
    constant,
    element,
    key_types_of,
    types_of,
    verdict,
)
from diagnostics.live.registers import (
    REGISTER_BYTES,
    Loaded,
    comparison,
    masked_value,
    slot_of,
    value_of,
)
from diagnostics.nftables.constants import canonical
from diagnostics.nftables.data_types import Json, key_types
from proxy.netfilter.wire import attributes, iterate_attributes

_ANONYMOUS, _INTERVAL = 1, 4
_COMPARISONS = {0: "==", 1: "!=", 2: "<", 3: "<=", 4: ">", 5: ">="}
_META = {1: "protocol", 3: "mark", 6: "iifname", 7: "oifname", 15: "nfproto", 16: "l4proto"}
_CT = {0: "state", 1: "direction", 2: "status", 3: "mark", 10: "protocol", 12: "proto-dst"}
_CT |= {19: "ip saddr", 20: "ip daddr", 21: "ip6 saddr", 22: "ip6 daddr"}
_NETWORK, _TRANSPORT = 1, 2
_FIELDS: Mapping[tuple[str, int, int], str] = {
    ("ip", 9, 1): "protocol",
    ("ip", 12, 4): "saddr",
    ("ip", 16, 4): "daddr",
    ("ip6", 6, 1): "nexthdr",
    ("ip6", 8, 16): "saddr",
    ("ip6", 24, 16): "daddr",
    ("th", 0, 2): "sport",
    ("th", 2, 2): "dport",
}
_PORTED = ("tcp", "udp", "sctp", "dccp", "udplite")
_FIB_TYPE, _FIB_FLAGS = 3, {1: "saddr", 2: "daddr"}
_NAT_FLAGS = {4: "random", 16: "fully-random", 8: "persistent"}
_IMPLIED_NAT_FLAGS = 1 | 2  # a range of addresses, of ports: the kernel adds them
_REJECTS = {"ip": "icmp", "ip6": "icmpv6"}
_ADDRESSES = {2: ("ip", "ipv4_addr", 1), 10: ("ip6", "ipv6_addr", 4)}
_DYNSET = {0: "add", 1: "update"}
_LOG_LEVEL_WARNING = 4


class Sets(Protocol):
    """The sets of the table that a rule belongs to."""

    def header(self, name: str, /) -> KernelSet | None:
        """Return a set's properties."""

    def elements(self, name: str, /) -> list[bytes]:
        """Return the attributes of a set's elements."""


def decode_rule(expressions: memoryview, family: str, sets: Sets) -> tuple[Json, ...]:
    """
    Return the statements of a rule in the shape of libnftables-JSON(5).

    Raises:
        Undecoded: There is an expression, or a use of one, that only nft can tell.
    """
    decoder = _Decoder(family, sets)
    try:
        for _, entry in iterate_attributes(expressions):
            found = attributes(entry)
            decoder.take(text(found.get(1)), attributes(found.get(2, memoryview(b""))))
    except (KeyError, ValueError) as error:  # an attribute that newer kernels write otherwise
        raise Undecoded(f"an expression of another form: {error!r}") from error
    return tuple(decoder.statements)


class _Decoder:
    def __init__(self, family: str, sets: Sets) -> None:
        self.statements: list[Json] = []
        self._family = family
        self._sets = sets
        self._header = "th"
        self._registers: dict[int, Loaded] = {}
        self._readers: dict[str, Callable[[Attributes], None]] = {
            "meta": self._meta,
            "payload": self._payload,
            "ct": self._ct,
            "fib": self._fib,
            "numgen": self._numgen,
            "bitwise": self._bitwise,
            "cmp": self._compare,
            "lookup": self._lookup,
            "immediate": self._immediate,
            "nat": self._nat,
            "masq": self._masquerade,
            "redir": self._redirect,
            "reject": self._reject,
            "counter": self._counter,
            "log": self._log,
            "dynset": self._dynset,
        }

    def take(self, name: str, found: Attributes) -> None:
        """Go on with one expression."""
        reader = self._readers.get(name)
        if reader is None:
            raise Undecoded(f"expression {name}")
        reader(found)

    # -- registers ---------------------------------------------------------------------------

    def _load(self, register: int, value: Json | bytes, kind: str, length: int) -> None:
        self._registers[slot_of(register)] = Loaded(value, kind, length)

    def _get(self, register: int) -> Loaded:
        found = self._registers.get(slot_of(register))
        if found is None:
            raise Undecoded(f"register {register} without a value")
        return found

    def _field(self, register: int) -> Json:
        value = self._get(register).value
        if isinstance(value, bytes):
            raise Undecoded("a constant where a field is expected")
        return value

    def _key(self, register: int, length: int) -> Json:
        """Return the expression in the registers that hold a key of so many bytes."""
        slot, left, parts = slot_of(register), length, []
        while left > 0:
            found = self._registers.get(slot)
            if found is None or isinstance(found.value, bytes) or found.is_part:
                raise Undecoded("a key of something else than fields")
            parts.append(found.value)
            slot += found.registers
            left -= found.registers * REGISTER_BYTES
        return parts[0] if len(parts) == 1 else {"concat": parts}

    # -- what loads a value ------------------------------------------------------------------

    def _meta(self, found: Attributes) -> None:
        key = _META.get(number(found.get(2)))
        if key is None:
            raise Undecoded(f"meta {number(found.get(2))}")
        self._field_or_change(found, 1, 3, {"meta": {"key": key}})

    def _ct(self, found: Attributes) -> None:
        key = _CT.get(number(found.get(2)))
        if key is None:
            raise Undecoded(f"ct {number(found.get(2))}")
        body: dict[str, Json] = {"key": key}
        if 3 in found:
            body["dir"] = "reply" if number(found[3]) else "original"
        self._field_or_change(found, 1, 4, {"ct": body})

    def _field_or_change(self, found: Attributes, to: int, source: int, field: Json) -> None:
        kind = key_types(field)[0]
        if to in found:
            self._load(number(found[to]), field, kind, _WIDTHS.get(kind, REGISTER_BYTES))
        elif source in found:
            given = self._get(number(found[source]))
            value = given.value
            if isinstance(value, bytes):
                value = constant(kind, value)
            self.statements.append({"mangle": {"key": field, "value": value}})

    def _payload(self, found: Attributes) -> None:
        base, offset, length = (number(found.get(at)) for at in (2, 3, 4))
        protocol = {_NETWORK: self._family, _TRANSPORT: "th"}.get(base, "")
        name = _FIELDS.get((protocol, offset, length)) or _beginning(protocol, offset, length)
        if name is None or 1 not in found:
            raise Undecoded(f"payload {base} {offset} {length}")
        if protocol == "th":
            protocol = self._transport()
        field = {"payload": {"protocol": protocol, "field": name}}
        self._load(number(found[1]), field, key_types(field)[0], length)

    def _transport(self) -> str:
        """Return what nft calls a transport header: by the match just before, which it drops."""
        last = self.statements[-1] if self.statements else {}
        body = last.get("match", {})
        is_protocol = body.get("left") == {"meta": {"key": "l4proto"}} and body.get("op") == "=="
        if is_protocol and body.get("right") in _PORTED:
            self.statements.pop()
            self._header = str(body["right"])
        return self._header

    def _fib(self, found: Attributes) -> None:
        flag = _FIB_FLAGS.get(number(found.get(3)))
        if number(found.get(2)) != _FIB_TYPE or flag is None:
            raise Undecoded("fib")
        field = {"fib": {"result": "type", "flags": [flag]}}
        self._load(number(found.get(1)), field, "fib_addrtype", REGISTER_BYTES)

    def _numgen(self, found: Attributes) -> None:
        mode = "random" if number(found.get(3)) else "inc"
        drawn = {"mode": mode, "mod": number(found.get(2)), "offset": number(found.get(4))}
        self._load(number(found.get(1)), {"numgen": drawn}, INTEGER, REGISTER_BYTES)

    def _immediate(self, found: Attributes) -> None:
        register, data = number(found.get(1)), attributes(found[2])
        if register == 0:
            self.statements.append(verdict(data[2]))
        else:
            value = bytes(data[1])
            self._load(register, value, "", len(value))

    def _bitwise(self, found: Attributes) -> None:
        if number(found.get(6)):
            raise Undecoded("bitwise shift")
        source = self._get(number(found.get(1)))
        mask, xor = value_of(found, 4), value_of(found, 5)
        if isinstance(source.value, bytes) or len(mask) != source.length:
            raise Undecoded("bitwise of a constant")
        masked = masked_value(source, mask, xor)
        self._load(number(found.get(2)), masked, source.kind, source.length)

    # -- what decides ------------------------------------------------------------------------

    def _compare(self, found: Attributes) -> None:
        source, data = self._get(number(found.get(1))), value_of(found, 3)
        operation = _COMPARISONS[number(found.get(2))]
        if isinstance(source.value, bytes):
            raise Undecoded("cmp of a constant")
        self.statements.append({"match": comparison(source, operation, data)})

    def _lookup(self, found: Attributes) -> None:
        name = text(found.get(1))
        header = self._sets.header(name)
        if header is None:
            raise Undecoded(f"set {name}")
        key = self._key(number(found.get(2)), header.key_length)
        data = self._set(header, key) if header.flags & _ANONYMOUS else f"@{name}"
        if 3 not in found:
            operation = "!=" if number(found.get(5)) & 1 else "=="
            self.statements.append({"match": {"op": operation, "left": key, "right": data}})
        elif number(found[3]) == 0:
            self.statements.append({"vmap": {"key": key, "data": data}})
        else:
            looked_up = {"map": {"key": key, "data": data}}
            self._load(number(found[3]), looked_up, "", header.data_length)

    def _set(self, header: KernelSet, key: Json) -> Json:
        """Return an anonymous set as it stands in its rule."""
        if header.flags & _INTERVAL:
            raise Undecoded("an anonymous set of intervals")
        types = key_types_of(header)
        if types == (INTEGER,) and "numgen" not in key:
            raise Undecoded("an anonymous set of numbers")
        data = types_of(header.data_type)
        elements = [element(one, types, data) for one in self._sets.elements(header.name)]
        return {"set": sorted(elements, key=str) if types != (INTEGER,) else _by_number(elements)}

    # -- what is done ------------------------------------------------------------------------

    def _nat(self, found: Attributes) -> None:
        family = _ADDRESSES.get(number(found.get(2)))
        if family is None or any(
            high in found and found[high] != found.get(low) for low, high in ((3, 4), (5, 6))
        ):
            raise Undecoded("nat to a range")
        word, kind, registers = family
        body: dict[str, Json] = {}
        if 3 in found:
            target = self._get(number(found[3]))
            is_pair = target.registers > registers
            if is_pair or self._family not in _REJECTS:
                body["family"] = word
            body["addr"] = _address(target, kind)
            if is_pair and slot_of(number(found.get(5))) != slot_of(number(found[3])) + registers:
                raise Undecoded("nat with a part of a map's data")
            if 5 in found and not is_pair:
                body["port"] = self._port(found[5])
        elif 5 in found:
            body["port"] = self._port(found[5])
        body |= _flags_of(number(found.get(7)) & ~_IMPLIED_NAT_FLAGS)
        self.statements.append({"dnat" if number(found.get(1)) else "snat": body})

    def _port(self, register: memoryview) -> Json:
        value = self._get(number(register)).value
        return int.from_bytes(value[:2], "big") if isinstance(value, bytes) else value

    def _masquerade(self, found: Attributes) -> None:
        if 2 in found or 3 in found:
            raise Undecoded("masquerade to ports")
        self.statements.append({"masquerade": _flags_of(number(found.get(1))) or None})

    def _redirect(self, found: Attributes) -> None:
        if 2 in found and found[2] != found.get(1):
            raise Undecoded("redirect to a range")
        body = {"port": self._port(found[1])} if 1 in found else {}
        body |= _flags_of(number(found.get(3)) & ~_IMPLIED_NAT_FLAGS)
        self.statements.append({"redirect": body or None})

    def _reject(self, found: Attributes) -> None:
        kind, code = number(found.get(1)), number(found.get(2))
        if kind == 1:
            self.statements.append({"reject": {"type": "tcp reset"}})
            return
        word = "icmpx" if kind else _REJECTS.get(self._family)
        if word is None:
            raise Undecoded("reject")
        self.statements.append({"reject": {"type": word, "expr": canonical(f"{word}_code", code)}})

    def _counter(self, found: Attributes) -> None:
        counted = {"packets": number(found.get(2)), "bytes": number(found.get(1))}
        self.statements.append({"counter": counted})

    def _log(self, found: Attributes) -> None:
        if found.keys() - {1, 2, 5} or number(found.get(5)) not in (0, _LOG_LEVEL_WARNING):
            raise Undecoded("log")
        body: dict[str, Json] = {"prefix": text(found[2])} if 2 in found else {}
        if 1 in found:
            body["group"] = number(found[1])
        self.statements.append({"log": body or None})

    def _dynset(self, found: Attributes) -> None:
        name, operation = text(found.get(1)), _DYNSET.get(number(found.get(3)))
        header = self._sets.header(name)
        if header is None or operation is None or found.keys() - {1, 2, 3, 4, 5, 6}:
            raise Undecoded(f"dynset {name}")
        elem = self._key(number(found.get(4)), header.key_length)
        if 6 in found:
            elem = {"elem": {"val": elem, "timeout": number(found[6]) // 1000}}
        body = {"op": operation, "elem": elem}
        if 5 in found:
            data = self._key(number(found[5]), header.data_length)
            self.statements.append({"map": {**body, "data": data, "map": f"@{name}"}})
        else:
            self.statements.append({"set": {**body, "set": f"@{name}"}})


_WIDTHS = {"inet_proto": 1, "nf_proto": 1, "ct_dir": 1, "ether_type": 2, "inet_service": 2}
_WIDTHS |= {"ipv6_addr": 16, "ifname": 16}


def _beginning(protocol: str, offset: int, length: int) -> str | None:
    """Return the address that so many bytes begin, None for none."""
    for (word, start, whole), name in _FIELDS.items():
        if (word, start) == (protocol, offset) and name.endswith("addr") and length < whole:
            return name
    return None


def _address(target: Loaded, kind: str) -> Json:
    return constant(kind, target.value) if isinstance(target.value, bytes) else target.value


def _flags_of(bits: int) -> dict[str, Json]:
    names = [name for bit, name in _NAT_FLAGS.items() if bits & bit]
    if bits & ~sum(_NAT_FLAGS):
        raise Undecoded(f"nat flags {bits:#x}")
    return {"flags": names[0] if len(names) == 1 else names} if names else {}


def _by_number(elements: list[Json]) -> list[Json]:
    return sorted(elements, key=lambda one: one[0] if isinstance(one, list) else one)
