"""
The table that switches tracing on: the kernel removes it when the socket that made it is closed.

So nothing stays behind, however this process ends, kill -9 included. Its rules carry two limits of
their own, packets a second and packets in all, so that even one forgotten terminal costs little.

Chains that only look stand behind everybody else's at the hooks where packets end: what they see
tells where a packet got to, also on nodes where iptables-legacy or IPVS decide, which no nftables
trace shows.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import ip_network

from kpctl.live_trace.kernel_rules import counted_packets, table_owner
from kpctl.live_trace.question import LiveTraceError, PacketFilter
from proxy.kernel.netlink import NetlinkError
from proxy.kernel.nftables import NetlinkNft
from proxy.kernel.trials import TrialRequest
from proxy.model.addresses import IPFamily
from proxy.netfilter.fields import PROTOCOL_NAMES, comment_userdata, daddr, saddr
from proxy.netfilter.objects import Chain, Hook, Rule, rule
from proxy.netfilter.statements import Statement, in_network, input_interface, protocol_is
from proxy.netfilter.tracing import (
    COUNTER,
    NFT_TABLE_F_OWNER,
    OPENS_TCP,
    TRACE,
    at_most,
    at_most_per_second,
    destination_port_is,
    source_port_is,
)
from proxy.netfilter.wire import NLM_F_APPEND, NLM_F_CREATE, Msg, attr, string, u32

TABLE = "kpctl-trace"
_COMMENT = "made by kpctl trace --live; it goes away with that process"
_FIRST, _LAST = -450, 500  # before defragmentation and raw, behind source NAT
_FROM_NETWORK = Chain("from-network", hook=Hook("filter", 0, "prerouting", _FIRST))
_FROM_NODE = Chain("from-node", hook=Hook("filter", 3, "output", _FIRST))
_LOOKING = (
    Chain("seen-input", hook=Hook("filter", 1, "input", _LAST)),
    Chain("seen-forward", hook=Hook("filter", 2, "forward", _LAST)),
    Chain("seen-postrouting", hook=Hook("filter", 4, "postrouting", _LAST)),
)
_CHAINS = (_FROM_NETWORK, _FROM_NODE, *_LOOKING)
OWN_HOOKS = {chain.name: chain.hook.name for chain in _CHAINS if chain.hook}
"""Where each chain of the table listens, also when the table is gone."""

_NLM_F_EXCL = 0x200
_TABLE_BODY = string(1, TABLE)
_MAKE = TrialRequest(
    Msg.NEWTABLE,
    NLM_F_CREATE | _NLM_F_EXCL,
    _TABLE_BODY + u32(2, NFT_TABLE_F_OWNER) + attr(6, comment_userdata(_COMMENT)),
)
# Deletes what does not exist, so that a transaction with it is refused after all else was tried.
_ABORT = TrialRequest(Msg.DELTABLE, 0, string(1, "kpctl-trace-absent"))


def matches(packets: PacketFilter) -> tuple[Statement, ...]:
    """Return the matches of a filter, without its interface."""
    found = [protocol_is(PROTOCOL_NAMES[packets.protocol])]
    if packets.destination is not None:
        found.append(in_network(daddr(packets.family), ip_network(packets.destination)))
    if packets.source is not None:
        found.append(in_network(saddr(packets.family), ip_network(packets.source)))
    if packets.source_port:
        found.append(source_port_is(packets.source_port))
    if packets.port:
        found.append(destination_port_is(packets.port))
    if PROTOCOL_NAMES[packets.protocol] == "tcp":
        found.append(OPENS_TCP)
    return tuple(found)


def rules(packets: PacketFilter, then: tuple[Statement, ...]) -> Iterator[tuple[Chain, Rule]]:
    """Yield the rules that do *then* with the packets of a filter, and their chains."""
    if packets.iface != "":
        device = (input_interface(packets.iface),) if packets.iface else ()
        yield _FROM_NETWORK, rule(*device, *matches(packets), *then)
    if not packets.iface:
        yield _FROM_NODE, rule(*matches(packets), *then)


def require_support(family: IPFamily) -> None:
    """
    Raise LiveTraceError unless this kernel has all that is needed; nothing is changed by that.

    One transaction makes the table with all its chains and statements and cannot succeed as a
    whole.
    """
    sample = PacketFilter(family, 6, port=1, source_port=1)
    requests = [_MAKE, *_chains(), *_rules(sample, (COUNTER, *_tracing(1, 1))), _ABORT]
    nft = NetlinkNft(family)
    try:
        _require_no_other(family)
        nft.apply(requests)
    except NetlinkError as error:
        refused = [r.index for r in getattr(error, "refusals", ())]
        if refused and min(refused) == len(requests) - 1:
            return
        raise _refusal(error, refused) from error
    finally:
        nft.close()


def _refusal(error: NetlinkError, refused: list[int]) -> LiveTraceError:
    if error.errno == errno.EPERM:
        return not_root()
    if refused and min(refused) == 0:
        return LiveTraceError(
            "this kernel has no nf_tables tables that go away with their maker"
            f" (Linux 5.12 has; it says: {error.strerror}), so a trace could stay behind",
            "ask without --probe and --watch: the rules in the kernel tell what will happen",
        )
    return LiveTraceError(
        f"this kernel cannot trace packets through nf_tables: {error.strerror}",
        "ask without --probe and --watch: the rules in the kernel tell what will happen",
    )


def not_root() -> LiveTraceError:
    """Return what to raise without CAP_NET_ADMIN."""
    return LiveTraceError(
        "looking at real packets needs CAP_NET_ADMIN",
        "run it as root: sudo kpctl trace …, or ask without --probe and --watch",
    )


def _require_no_other(family: IPFamily) -> None:
    owner = table_owner(family, TABLE)
    if owner is None:
        return
    if owner:
        raise LiveTraceError(
            f"another kpctl traces packets here (netlink port {owner}, mostly its process id)",
            "wait for its end, or end it",
        )
    word = "ip" if family is IPFamily.IPV4 else "ip6"
    raise LiveTraceError(
        f"there is a table {word} {TABLE} that belongs to no process, so it was loaded from a file",
        f"remove it: nft delete table {word} {TABLE}",
    )


class OwnTable:
    """
    The table in the kernel, from its making to ``close``.

    Making it raises LiveTraceError when the kernel refuses it, and every method NetlinkError.
    """

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._nft = NetlinkNft(family)
        try:
            _require_no_other(family)
            self._nft.apply([_MAKE, *_chains()])
        except NetlinkError as error:
            self._nft.close()
            refused = [r.index for r in getattr(error, "refusals", ())]
            raise _refusal(error, refused) from error
        except LiveTraceError:
            self._nft.close()
            raise

    def count(self, packets: PacketFilter) -> None:
        """Count matching packets from now on, and do nothing else with them."""
        self._replace(packets, (COUNTER,))

    def counted(self) -> int:
        """Return how many packets matched since ``count``."""
        return counted_packets(self._family, TABLE)

    def trace(self, packets: PacketFilter, in_all: int, per_second: int) -> None:
        """Have the kernel trace matching packets from now on, *in_all* and *per_second* at most."""
        self._replace(packets, _tracing(in_all, per_second))

    def close(self) -> None:
        """Remove it."""
        self._nft.close()

    def _replace(self, packets: PacketFilter, then: tuple[Statement, ...]) -> None:
        empty = [
            TrialRequest(Msg.DELRULE, 0, _TABLE_BODY + string(2, chain.name))
            for chain in (_FROM_NETWORK, _FROM_NODE)
        ]
        self._nft.apply([*empty, *_rules(packets, then)])


def _chains() -> list[TrialRequest]:
    return [TrialRequest(Msg.NEWCHAIN, NLM_F_CREATE, chain.body(TABLE)) for chain in _CHAINS]


def _rules(packets: PacketFilter, then: tuple[Statement, ...]) -> list[TrialRequest]:
    flags = NLM_F_CREATE | NLM_F_APPEND
    return [
        TrialRequest(Msg.NEWRULE, flags, made.body(TABLE, chain.name))
        for chain, made in rules(packets, then)
    ]


def _tracing(in_all: int, per_second: int) -> tuple[Statement, ...]:
    return at_most_per_second(per_second), at_most(in_all), TRACE
