"""
What the data plane needs of the kernel, as a list of small things to try, each in a transaction.

Every kind of object and expression that the tables contain occurs once. Which kernel option and
module bring it is in net/netfilter/, net/ipv4/netfilter/ and net/ipv6/netfilter/ of Linux, files
Kconfig and Makefile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import NamedTuple

from proxy.model.addresses import IPFamily
from proxy.netfilter import fields
from proxy.netfilter.fields import L4PROTO, TH_DPORT, Field, Key, daddr, random_index, saddr
from proxy.netfilter.objects import Chain, Hook, NamedSet, Rule
from proxy.netfilter.statements import (
    CT_DNAT,
    CT_NEW,
    DROP,
    MASQUERADE,
    Statement,
    address_is_local,
    dnat_by_map,
    goto,
    in_network,
    in_set,
    input_interface,
    jump,
    mark_bit_set,
    reject,
    remember,
    set_mark_bit,
    toggle_mark_bit,
    verdict,
    verdict_map,
)
from proxy.netfilter.wire import NLM_F_APPEND, NLM_F_CREATE, Msg, string

# The first release with ranges in concatenated sets (net/netfilter/nft_set_pipapo.c).
OLDEST_LINUX = "5.6"


class Part(NamedTuple):
    """
    What brings a feature: a kernel option, and its module.

    ``module`` is "" where the option cannot be a module; ``since`` is "" or the Linux release that
    first had the feature.
    """

    option: str
    module: str = ""
    since: str = ""


class TrialRequest(NamedTuple):
    """One nf_tables message without its headers."""

    kind: Msg
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Trial:
    """
    One thing to try.

    Attributes:
        feature: nft's words for it; unique among the trials.
        part: what the kernel lacks when it refuses.
        requests: one transaction.
        needs: features without which a refusal would mean nothing.
    """

    feature: str
    part: Part
    requests: tuple[TrialRequest, ...]
    needs: tuple[str, ...] = ()


NETLINK = Part("CONFIG_NETFILTER_NETLINK", "nfnetlink")
NF_TABLES = Part("CONFIG_NF_TABLES", "nf_tables")
_RECENT = Part("CONFIG_NF_TABLES", "nf_tables", OLDEST_LINUX)
_CT = Part("CONFIG_NFT_CT", "nft_ct")
_RECENT_CT = Part("CONFIG_NFT_CT", "nft_ct", OLDEST_LINUX)
_NUMGEN = Part("CONFIG_NFT_NUMGEN", "nft_numgen")
_MASQ = Part("CONFIG_NFT_MASQ", "nft_masq")
_NAT = Part("CONFIG_NFT_NAT", "nft_nat")
_NAT_CHAIN = Part("CONFIG_NFT_NAT", "nft_chain_nat")

TABLE = "kpctl-probe"
_TABLE = "table"
_FILTER, _NAT_CHAINS, _PLAIN = "chain type filter", "chain type nat", "chain"
_SET, _VMAP, _MAP = "named set", "verdict map", "map with a concatenated key"
_RANGES, _DYNAMIC = "concatenated set of ranges", "dynamic map with timeouts"
_NUMGEN_WORDS, _CT_WORDS = "numgen random", "ct state"
_FILTER_HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output"}
_NAT_HOOKS = {0: "prerouting", 3: "output", 4: "postrouting"}
_MARK = 0x4000
_AFFINITY_S = 10800


def trials(family: IPFamily) -> tuple[Trial, ...]:
    """Return everything to try for a family, in an order in which later ones may need earlier."""
    return (*_objects(family), *_optional_rules(family), *_plain_rules(family))


# -- objects ---------------------------------------------------------------------------------


def _objects(family: IPFamily) -> tuple[Trial, ...]:
    digit = 4 if family is IPFamily.IPV4 else 6
    table = TrialRequest(Msg.NEWTABLE, NLM_F_CREATE, string(1, TABLE))
    return (
        Trial(_TABLE, Part(f"CONFIG_NF_TABLES_IPV{digit}"), (table,)),
        Trial(_PLAIN, NF_TABLES, (_chain("plain"),), (_TABLE,)),
        Trial(
            _FILTER,
            Part(f"CONFIG_NF_TABLES_IPV{digit}"),
            tuple(_base_chains("filter", _FILTER_HOOKS, 0)),
            (_TABLE,),
        ),
        Trial(_NAT_CHAINS, _NAT_CHAIN, tuple(_base_chains("nat", _NAT_HOOKS, -100)), (_TABLE,)),
        *_sets(family),
    )


def _base_chains(kind: str, hooks: dict[int, str], priority: int) -> Iterable[TrialRequest]:
    for number, name in hooks.items():
        yield _chain(f"{kind}-{name}", Hook(kind, number, name, priority))


def _chain(name: str, hook: Hook | None = None) -> TrialRequest:
    return TrialRequest(Msg.NEWCHAIN, NLM_F_CREATE, Chain(name, hook=hook).body(TABLE))


def _vip(family: IPFamily) -> Key:
    return (daddr(family), L4PROTO, TH_DPORT)


def _client(family: IPFamily) -> Key:
    return (saddr(family), *_vip(family))


def _sets(family: IPFamily) -> Iterable[Trial]:
    vip, target = _vip(family), (daddr(family), TH_DPORT)
    wanted = (
        (NF_TABLES, NamedSet(_SET, (daddr(family),))),
        (NF_TABLES, NamedSet(_VMAP, vip, verdicts=True)),
        (NF_TABLES, NamedSet(_MAP, (*vip, random_index(2)), target, by_type=False)),
        (_RECENT, NamedSet(_RANGES, (*vip, saddr(family)), interval=True)),
        (
            _RECENT,
            NamedSet(_DYNAMIC, _client(family), target, by_type=False, dynamic=True, size=1 << 20),
        ),
    )
    for identifier, (part, item) in enumerate(wanted, start=1):
        request = TrialRequest(Msg.NEWSET, NLM_F_CREATE, item.body(TABLE, identifier))
        yield Trial(item.name, part, (request,), (_TABLE,))


# -- rules -----------------------------------------------------------------------------------


def _rule(
    feature: str, part: Part, chain: str, statements: Iterable[Statement], needs: tuple[str, ...]
) -> Trial:
    body = Rule(tuple(statements)).body(TABLE, chain)
    return Trial(
        feature, part, (TrialRequest(Msg.NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body),), needs
    )


def _load(field: Field) -> Statement:
    return Statement(field.text, field.load(fields.FIRST_REGISTER))


def _optional_rules(family: IPFamily) -> tuple[Trial, ...]:
    """Return the rules whose expressions are modules of their own."""
    digit = 4 if family is IPFamily.IPV4 else 6
    fib = Part(f"CONFIG_NFT_FIB_IPV{digit}", f"nft_fib_ipv{digit}")
    rejects = Part(f"CONFIG_NFT_REJECT_IPV{digit}", f"nft_reject_ipv{digit}")
    original = (fields.ct_original_daddr(family), L4PROTO, fields.CT_ORIGINAL_DPORT)
    client = (fields.ct_original_saddr(family), *original)
    target = (daddr(family), TH_DPORT)
    indexed = (*_vip(family), random_index(3))
    at_filter, at_nat = "filter-forward", "nat-prerouting"
    found = dnat_by_map(family, _client(family), _DYNAMIC)
    spread = dnat_by_map(family, indexed, _MAP)
    learn = remember(client, _DYNAMIC, target, _AFFINITY_S)
    nat, dnat, ct, dynamic = _NAT_CHAINS, "dnat by map", _CT_WORDS, _DYNAMIC
    local = [address_is_local(direction) for direction in ("saddr", "daddr")]
    obey = [verdict_map(original, _VMAP)]
    return (
        _rule(_NUMGEN_WORDS, _NUMGEN, "plain", [_load(random_index(2))], (_PLAIN,)),
        _rule("fib saddr/daddr type", fib, at_filter, local, (_FILTER,)),
        _rule(ct, _CT, at_filter, [CT_NEW], (_FILTER,)),
        _rule("ct status", _CT, at_filter, [CT_DNAT], (ct,)),
        _rule("ct original", _RECENT_CT, at_filter, obey, (ct, _VMAP)),
        _rule(MASQUERADE.text, _MASQ, "nat-postrouting", [MASQUERADE], (nat,)),
        _rule("reject", rejects, at_filter, [reject(family)], (_FILTER,)),
        _rule(dnat, _NAT, at_nat, [found], (nat, dynamic)),
        _rule("dnat by map and numgen", _NAT, at_nat, [spread], (dnat, _MAP, _NUMGEN_WORDS)),
        _rule("update of a dynamic map", _RECENT, at_filter, [learn], ("ct original", dynamic)),
    )


def _plain_rules(family: IPFamily) -> Iterable[Trial]:
    """Return the rules whose expressions are part of nf_tables itself."""
    network = ip_network("10.0.0.0/8" if family is IPFamily.IPV4 else "fd00::/8")
    interfaces = [input_interface("cni0"), input_interface("veth", prefix=True, negate=True)]
    marks = [mark_bit_set(_MARK), toggle_mark_bit(_MARK), set_mark_bit(_MARK)]
    vip = _vip(family)
    wanted = (
        ("verdict", [verdict(jump("plain"))], ""),
        ("verdict goto", [verdict(goto("plain"))], ""),
        ("verdict drop", [verdict(DROP)], ""),
        ("meta l4proto", [_load(L4PROTO)], ""),
        ("th dport", [_load(TH_DPORT)], ""),
        ("address in a network", [in_network(saddr(family), network)], ""),
        ("iifname", interfaces, ""),
        ("meta mark", marks, ""),
        ("lookup in a set", [in_set((daddr(family),), _SET)], _SET),
        ("lookup in a set of ranges", [in_set((*vip, saddr(family)), _RANGES)], _RANGES),
        ("vmap", [verdict_map(vip, _VMAP)], _VMAP),
    )
    for feature, statements, needed in wanted:
        needs = (_FILTER, _PLAIN, needed) if needed else (_FILTER, _PLAIN)
        yield _rule(feature, NF_TABLES, "filter-forward", statements, needs)
