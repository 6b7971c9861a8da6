"""
What a rule does, statement by statement: each is nft text and kernel expressions side by side.

The pair is built in one place so that what ``--dry-run`` prints is what the kernel receives; a
test loads the text through ``nft`` and compares the two listings.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from proxy.model.addresses import IPFamily
from proxy.netfilter import fields
from proxy.netfilter.fields import FIRST_REGISTER, Field, Key, expression, key_text, load_key
from proxy.netfilter.wire import NFPROTO_IPV4, NFPROTO_IPV6, attr, nested, string, u32

NF_DROP, NF_ACCEPT = 0, 1
NFT_JUMP, NFT_GOTO, NFT_RETURN = -3, -4, -5

_VERDICT_REGISTER = 0
_CMP_EQ, _CMP_NEQ = 0, 1
_RTN_LOCAL = 2
_CT_STATE_NEW = 0x8
_IPS_DST_NAT = 0x20
_RANDOM_FULLY = 1 << 4
_PORT_UNREACHABLE = {IPFamily.IPV4: 3, IPFamily.IPV6: 4}
_NFPROTO = {IPFamily.IPV4: NFPROTO_IPV4, IPFamily.IPV6: NFPROTO_IPV6}
_DNAT = 1
_DYNSET_UPDATE = 1


@dataclass(frozen=True, slots=True)
class Statement:
    """One step of a rule: its words for ``nft`` and its expressions for the kernel."""

    text: str
    expressions: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, as the end of a rule or as the data of a verdict map."""

    code: int
    chain: str = ""

    @property
    def text(self) -> str:
        """The verdict in nft's words."""
        word = {
            NF_DROP: "drop",
            NF_ACCEPT: "accept",
            NFT_JUMP: "jump",
            NFT_GOTO: "goto",
            NFT_RETURN: "return",
        }[self.code]
        return f"{word} {self.chain}" if self.chain else word

    def data(self, kind: int) -> bytes:
        """Return the verdict as a data attribute of type *kind*."""
        inner = u32(1, self.code)
        if self.chain:
            inner += string(2, self.chain)
        return nested(kind, nested(2, inner))


DROP = Verdict(NF_DROP)
RETURN = Verdict(NFT_RETURN)


def goto(chain: str) -> Verdict:
    """Return the verdict that continues in *chain* and does not come back."""
    return Verdict(NFT_GOTO, chain)


def jump(chain: str) -> Verdict:
    """Return the verdict that visits *chain* and comes back."""
    return Verdict(NFT_JUMP, chain)


def verdict(value: Verdict) -> Statement:
    """Return the statement that ends a rule with *value*."""
    body = u32(1, _VERDICT_REGISTER) + value.data(2)
    return Statement(value.text, expression("immediate", body))


def _load(field: Field) -> bytes:
    return field.load(FIRST_REGISTER)


def _compare(operator: int, value: bytes) -> bytes:
    body = u32(1, FIRST_REGISTER) + u32(2, operator) + _value(3, value)
    return expression("cmp", body)


def _value(kind: int, value: bytes) -> bytes:
    return nested(kind, attr(1, value))


def _mask(length: int, mask: bytes, xor: bytes) -> bytes:
    register = u32(1, FIRST_REGISTER) + u32(2, FIRST_REGISTER)
    return expression("bitwise", register + u32(3, length) + _value(4, mask) + _value(5, xor))


def _flag(field: Field, bit: int, text: str) -> Statement:
    zero = struct.pack("=I", 0)
    test = _mask(4, struct.pack("=I", bit), zero) + _compare(_CMP_NEQ, zero)
    return Statement(text, _load(field) + test)


CT_NEW = _flag(fields.CT_STATE, _CT_STATE_NEW, "ct state new")
CT_DNAT = _flag(fields.CT_STATUS, _IPS_DST_NAT, "ct status dnat")


def in_network(
    field: Field, network: IPv4Network | IPv6Network, *, negate: bool = False
) -> Statement:
    """Return a match of an address field against one CIDR."""
    operator = "!= " if negate else ""
    text = f"{field.text} {operator}{network}"
    if network.prefixlen == network.max_prefixlen:
        text = f"{field.text} {operator}{network.network_address}"
    masked = _mask(field.length, network.netmask.packed, bytes(field.length))
    compare = _compare(_CMP_NEQ if negate else _CMP_EQ, network.network_address.packed)
    return Statement(text, _load(field) + masked + compare)


def not_loopback(family: IPFamily) -> Statement:
    """Return a match of packets that are not sent to a loopback address."""
    loopback = ip_network("127.0.0.0/8" if family is IPFamily.IPV4 else "::1/128")
    return in_network(fields.daddr(family), loopback, negate=True)


def input_interface(name: str, *, prefix: bool = False, negate: bool = False) -> Statement:
    """Return a match of the input interface's name, or of the beginning of its name."""
    value = name.encode()[: fields.IFNAMSIZ - 1]
    if not prefix:
        value = value.ljust(fields.IFNAMSIZ, b"\0")
    text = f'iifname {"!= " if negate else ""}"{name}{"*" if prefix else ""}"'
    return Statement(text, _load(fields.IIFNAME) + _compare(_CMP_NEQ if negate else _CMP_EQ, value))


def address_is_local(direction: str) -> Statement:
    """Return a match of packets whose ``saddr`` or ``daddr`` is an address of this node."""
    field = fields.address_type(direction)
    return Statement(
        f"{field.text} local", _load(field) + _compare(_CMP_EQ, struct.pack("=I", _RTN_LOCAL))
    )


def in_set(key: Key, name: str) -> Statement:
    """Return a match of packets whose *key* is an element of the set *name*."""
    lookup = string(1, name) + u32(2, FIRST_REGISTER)
    return Statement(f"{key_text(key)} @{name}", load_key(key) + expression("lookup", lookup))


def verdict_map(key: Key, name: str) -> Statement:
    """Return the statement that looks *key* up in *name* and obeys the verdict found."""
    lookup = string(1, name) + u32(2, FIRST_REGISTER) + u32(3, _VERDICT_REGISTER)
    return Statement(f"{key_text(key)} vmap @{name}", load_key(key) + expression("lookup", lookup))


def protocol_is(name: str) -> Statement:
    """Return a match of one transport protocol: tcp, udp or sctp."""
    number = bytes((fields.PROTOCOL_NUMBERS[name.upper()],))
    return Statement(f"meta l4proto {name}", _load(fields.L4PROTO) + _compare(_CMP_EQ, number))


def transport_is(protocols: tuple[str, ...]) -> Statement:
    """
    Return the match that tells nft which transport headers a rule may see.

    Written in text only: the kernel needs no such proof, since the maps behind it are keyed by
    protocol, but nft's grammar refuses a port translation without one.
    """
    return Statement(f"meta l4proto {{ {', '.join(protocols)} }}", b"")


def mark_bit_set(bit_mask: int) -> Statement:
    """Return a match of packets that carry the mark bit."""
    zero = struct.pack("=I", 0)
    return Statement(
        f"meta mark & {bit_mask:#010x} != 0",
        _load(fields.MARK) + _mask(4, struct.pack("=I", bit_mask), zero) + _compare(_CMP_NEQ, zero),
    )


def _store_mark(mask: int, xor: int) -> bytes:
    store = expression("meta", u32(3, FIRST_REGISTER) + u32(2, 3))
    packed = struct.pack("=I", mask & 0xFFFFFFFF), struct.pack("=I", xor)
    return _load(fields.MARK) + _mask(4, *packed) + store


def set_mark_bit(bit_mask: int) -> Statement:
    """Return the statement that asks for the packet's source to be rewritten later."""
    return Statement(
        f"meta mark set meta mark | {bit_mask:#010x}", _store_mark(~bit_mask, bit_mask)
    )


def toggle_mark_bit(bit_mask: int) -> Statement:
    """Return the statement that clears a bit known to be set."""
    return Statement(
        f"meta mark set meta mark ^ {bit_mask:#010x}", _store_mark(0xFFFFFFFF, bit_mask)
    )


MASQUERADE = Statement("masquerade fully-random", expression("masq", u32(1, _RANDOM_FULLY)))


def reject(family: IPFamily) -> Statement:
    """Return the statement that answers port unreachable."""
    code = bytes((_PORT_UNREACHABLE[family],))
    return Statement("reject", expression("reject", u32(1, 0) + attr(2, code)))


def dnat_by_map(family: IPFamily, key: Key, name: str) -> Statement:
    """Return the statement that sends the packet to the address and port found in *name*."""
    lookup = string(1, name) + u32(2, FIRST_REGISTER) + u32(3, FIRST_REGISTER)
    address_registers = fields.daddr(family).registers
    nat = (
        u32(1, _DNAT)
        + u32(2, _NFPROTO[family])
        + u32(3, FIRST_REGISTER)
        + u32(5, FIRST_REGISTER + address_registers)
    )
    word = "ip" if family is IPFamily.IPV4 else "ip6"
    return Statement(
        f"dnat {word} to {key_text(key)} map @{name}",
        load_key(key) + expression("lookup", lookup) + expression("nat", nat),
    )


def remember(key: Key, name: str, data: Key, timeout_s: int) -> Statement:
    """
    Return the statement that stores *data* under *key* in a dynamic map for *timeout_s* seconds.

    An entry that exists keeps its data and starts its time anew.
    """
    data_register = FIRST_REGISTER + sum(field.registers for field in key)
    body = (
        string(1, name)
        + u32(3, _DYNSET_UPDATE)
        + u32(4, FIRST_REGISTER)
        + u32(5, data_register)
        + attr(6, struct.pack(">Q", timeout_s * 1000))
    )
    return Statement(
        f"update @{name} {{ {key_text(key)} timeout {timeout_s}s : {key_text(data)} }}",
        load_key(key) + load_key(data, data_register) + expression("dynset", body),
    )
