"""What the kernel says of single tables, chains and rules: owner, hook, handles, counters."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple

from proxy.kernel.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket
from proxy.kernel.nftables import FAMILY_NUMBERS
from proxy.kernel.query import query
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import (
    NFGENMSG,
    NFNL_SUBSYS_NFTABLES,
    Msg,
    attributes,
    iterate_attributes,
    string,
)

FAMILY_OF_WORD = {"ip": 2, "ip6": 10, "inet": 1}
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_REPLY_TIMEOUT_S = 30.0
_OWNER = 7
_CHAIN_HOOK, _HOOK_NUMBER, _HOOK_PRIORITY = 4, 1, 2
_RULE_HANDLE, _RULE_EXPRESSIONS = 3, 4
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER_PACKETS = 2


class ChainHook(NamedTuple):
    """Where a base chain listens: the hook's name, and its priority."""

    hook: str
    priority: int


def table_owner(family: IPFamily, table: str) -> int | None:
    """Return the netlink port id of a table's owner, 0 without one, None without such a table."""
    found = _ask(FAMILY_NUMBERS[family], Msg.GETTABLE, string(1, table))
    return None if found is None else _number(found.get(_OWNER))


def chain_hook(family: str, table: str, chain: str) -> ChainHook | None:
    """Return where a chain listens, None for one that is jumped to, or is not there."""
    number = FAMILY_OF_WORD.get(family)
    if number is None:
        return None
    found = _ask(number, Msg.GETCHAIN, string(1, table) + string(3, chain))
    if found is None or _CHAIN_HOOK not in found:
        return None
    hook = attributes(found[_CHAIN_HOOK])
    place = _number(hook.get(_HOOK_NUMBER))
    priority = int.from_bytes(hook.get(_HOOK_PRIORITY, b""), "big", signed=True)
    return ChainHook(HOOKS[place], priority) if place < len(HOOKS) else None


def chain_count(family: str, table: str) -> int:
    """Return how many chains a table has."""
    payload = NFGENMSG.pack(FAMILY_OF_WORD.get(family, 0), 0, 0) + string(1, table)
    with _socket() as netlink:
        replies = netlink.dump(NFNL_SUBSYS_NFTABLES << 8 | Msg.GETCHAIN, payload)
        names = (attributes(reply.payload[NFGENMSG.size :]).get(1, b"") for reply in replies)
        return sum(bytes(name).rstrip(b"\0").decode() == table for name in names)


def rule_handles(family: str, table: str, chain: str) -> list[int]:
    """Return the handles of a chain's rules in their order; empty without such a chain."""
    number = FAMILY_OF_WORD.get(family)
    if number is None:
        return []
    return [_number(found.get(_RULE_HANDLE)) for found in _rules(number, table, chain)]


def counted_packets(family: IPFamily, table: str) -> int:
    """Return the sum of all counters in a table's rules."""
    total = 0
    for found in _rules(FAMILY_NUMBERS[family], table):
        for _, expression in iterate_attributes(found.get(_RULE_EXPRESSIONS, memoryview(b""))):
            parts = attributes(expression)
            if bytes(parts.get(_EXPRESSION_NAME, b"")).rstrip(b"\0") == b"counter":
                total += _number(attributes(parts[_EXPRESSION_DATA]).get(_COUNTER_PACKETS))
    return total


def _rules(family: int, table: str, chain: str = "") -> Iterator[dict[int, memoryview]]:
    names = string(1, table) + (string(2, chain) if chain else b"")
    with _socket() as netlink:
        kind = NFNL_SUBSYS_NFTABLES << 8 | Msg.GETRULE
        try:
            for reply in netlink.dump(kind, NFGENMSG.pack(family, 0, 0) + names):
                yield attributes(reply.payload[NFGENMSG.size :])
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise


def _ask(family: int, kind: Msg, names: bytes) -> dict[int, memoryview] | None:
    """Return the attributes of one object, None when it is not there."""
    payload = NFGENMSG.pack(family, 0, 0) + names
    with _socket() as netlink:
        try:
            answers = query(netlink, NFNL_SUBSYS_NFTABLES << 8 | kind, payload)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
    return attributes(answers[0].payload[NFGENMSG.size :]) if answers else None


def _socket() -> NetlinkSocket:
    netlink = NetlinkSocket(NETLINK_NETFILTER)
    netlink.set_timeout(_REPLY_TIMEOUT_S)
    return netlink


def _number(value: memoryview | None) -> int:
    return int.from_bytes(value, "big") if value is not None else 0
