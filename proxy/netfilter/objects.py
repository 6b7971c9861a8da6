"""Tables, chains, sets and maps as values: what the kernel is asked to hold."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from proxy.netfilter import fields
from proxy.netfilter.fields import Key, key_length, key_text, key_type, key_typeof
from proxy.netfilter.statements import NF_ACCEPT, Statement
from proxy.netfilter.wire import attr, nested, string, u32

NFT_SET_INTERVAL, NFT_SET_MAP, NFT_SET_TIMEOUT, NFT_SET_EVAL, NFT_SET_CONCAT = 4, 8, 16, 32, 128
_VERDICT_TYPE = 0xFFFFFF00


@dataclass(frozen=True, slots=True)
class Rule:
    """Statements run in order; ``comment`` is printed behind the rule by ``nft list``."""

    statements: tuple[Statement, ...]
    comment: str = ""

    @property
    def text(self) -> str:
        """The rule in nft's words."""
        words = " ".join(statement.text for statement in self.statements)
        return f'{words} comment "{self.comment}"' if self.comment else words

    @property
    def expressions(self) -> bytes:
        """The rule's kernel expressions."""
        return b"".join(statement.expressions for statement in self.statements)

    def body(self, table: str, chain: str) -> bytes:
        """Return the attributes of the request that appends the rule."""
        body = string(1, table) + string(2, chain) + nested(4, self.expressions)
        return body + attr(7, fields.comment_userdata(self.comment)) if self.comment else body


def rule(*statements: Statement, comment: str = "") -> Rule:
    """Return a rule of *statements*."""
    return Rule(statements, comment)


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain is attached: type, netfilter hook number and priority."""

    kind: str
    number: int
    name: str
    priority: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its rules; with a hook it is a base chain."""

    name: str
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None

    def body(self, table: str) -> bytes:
        """Return the attributes of the request that creates the chain, without its rules."""
        body = string(1, table) + string(3, self.name)
        if self.hook is None:
            return body
        place = nested(4, u32(1, self.hook.number), u32(2, self.hook.priority))
        # The policy is stated because someone may have changed that of a chain that exists.
        return body + place + u32(5, NF_ACCEPT) + string(7, self.hook.kind)


@dataclass(frozen=True, slots=True)
class NamedSet:
    """
    A set, or a map when it has data.

    Attributes:
        key: fields of the key.
        data: fields of the data; empty for a set.
        verdicts: the data are verdicts.
        by_type: declare ``type …`` as kube-proxy does instead of ``typeof …``.
        interval: the last key field is a range.
        dynamic: filled by packets, with timeouts; at most ``size`` elements.
    """

    name: str
    key: Key
    data: Key = ()
    verdicts: bool = False
    by_type: bool = True
    interval: bool = False
    dynamic: bool = False
    size: int = 0
    comment: str = field(default="")

    @property
    def is_map(self) -> bool:
        """Whether elements carry data."""
        return self.verdicts or bool(self.data)

    @property
    def flags(self) -> int:
        """The kernel's flags for this set."""
        flags = NFT_SET_MAP if self.is_map else 0
        if self.interval:
            flags |= NFT_SET_INTERVAL | NFT_SET_CONCAT
        if self.dynamic:
            flags |= NFT_SET_TIMEOUT | NFT_SET_EVAL
        return flags

    def declaration(self) -> str:
        """Return the body of the declaration in nft's words, without elements."""
        word = "type" if self.by_type else "typeof"
        key = " . ".join(map(type_name, self.key)) if self.by_type else key_text(self.key)
        if self.verdicts:
            key += " : verdict"
        elif self.data:
            data = " . ".join(map(type_name, self.data)) if self.by_type else key_text(self.data)
            key += f" : {data}"
        lines = [f"{word} {key}"]
        if self.interval:
            lines.append("flags interval")
        if self.dynamic:
            lines.append("flags dynamic,timeout")
            lines.append(f"size {self.size}")
        if self.comment:
            lines.append(f'comment "{self.comment}"')
        return "; ".join(lines)

    def body(self, table: str, identifier: int) -> bytes:
        """Return the attributes of the request that creates the set."""
        parts = [
            string(1, table),
            string(2, self.name),
            u32(3, self.flags),
            u32(4, key_type(self.key)),
            u32(5, key_length(self.key)),
        ]
        if self.verdicts:
            parts += [u32(6, _VERDICT_TYPE), u32(7, 0)]
        elif self.data:
            parts += [u32(6, key_type(self.data)), u32(7, key_length(self.data))]
        description = b""
        if self.size:
            description += u32(1, self.size)
        if self.interval:
            lengths = (nested(1, u32(1, 4 * f.registers)) for f in self.key)
            description += nested(2, *lengths)
        if description:
            parts.append(nested(9, description))
        parts += [u32(10, identifier), attr(13, self._userdata())]
        return b"".join(parts)

    def _userdata(self) -> bytes:
        # A concatenation has no byte order of its own; a single address or port is big endian (2).
        order = 0 if len(self.key) > 1 else 2
        data = _udata_u32(0, order) + (_udata_u32(1, 0) if self.is_map else b"")
        if not self.by_type:
            typeof = key_typeof(self.key)
            data += bytes((3, len(typeof))) + typeof
            if self.data:
                typeof = key_typeof(self.data)
                data += bytes((4, len(typeof))) + typeof
        if self.comment:
            comment = self.comment.encode() + b"\0"
            data += bytes((7, len(comment))) + comment
        return data


def _udata_u32(kind: int, value: int) -> bytes:
    return bytes((kind, 4)) + struct.pack("=I", value)


def type_name(item: fields.Field) -> str:
    """Return nft's name of a field's data type."""
    return {
        fields.TYPE_IPV4: "ipv4_addr",
        fields.TYPE_IPV6: "ipv6_addr",
        fields.TYPE_INET_PROTO: "inet_proto",
        fields.TYPE_INET_SERVICE: "inet_service",
    }[item.data_type]
