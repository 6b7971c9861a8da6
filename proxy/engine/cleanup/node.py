"""Removal from this node: the kernel's real tables, servers and sets, as far as they are there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing

from proxy.config.types import IPTABLES, IPVS, NFTABLES
from proxy.engine.cleanup import owned
from proxy.engine.cleanup.iptables import TablesPort, remove_iptables
from proxy.engine.cleanup.ipvs import IpvsKernel, remove_ipvs
from proxy.engine.cleanup.nftables import remove_nftables
from proxy.engine.cleanup.outcome import Outcome
from proxy.engine.cleanup.presence import has_ip_set, has_ip_vs, may_have_nf_tables
from proxy.engine.cleanup.running import Running
from proxy.kernel.command import find_tool
from proxy.kernel.ipset import NetlinkIpset
from proxy.kernel.iptables import ProgramIptables, RecentPids
from proxy.kernel.ipvs import NetlinkIpvs
from proxy.kernel.links import NetlinkLinks
from proxy.kernel.nftables import NetlinkNft
from proxy.kernel.xtables_backend import Backend, Kind
from proxy.model.addresses import IPFamily, Network

_RULES = {IPTABLES: owned.IPTABLES, IPVS: owned.IPVS}


def clean_tables(running: Running, families: Collection[IPFamily] = tuple(IPFamily)) -> Outcome:
    """
    Remove all nf_tables and iptables rules of a node proxy that *running* does not need.

    To be called when the running mode has written its own rules of these *families*. A few
    milliseconds and no program where there is nothing to remove; no module is loaded and no table
    made. Never raises for what the kernel refuses: see the outcome.
    """
    outcome = Outcome()
    if running.mode != NFTABLES and may_have_nf_tables():
        for family in families:
            with closing(NetlinkNft(family)) as nft:
                outcome.add(_named(remove_nftables(nft), family.value))
    for kind, family, port in _iptables_ports(families, running.pids):
        is_other = running.kind is not None and kind != running.kind
        stays = owned.NOTHING if is_other else _RULES.get(running.mode, owned.NOTHING)
        outcome.add(_named(remove_iptables(port, stays), f"{family.value}, iptables-{kind}"))
    return outcome


def clean_ipvs(exclude: Sequence[Network] = (), *, busy_stay: bool = False) -> Outcome:
    """
    Remove virtual servers, device and ipsets of IPVS mode; see ``remove_ipvs``.

    To be called after ``clean_tables``, and not while IPVS mode runs. No module is loaded. Never
    raises for what the kernel refuses: see the outcome.
    """
    try:
        with ExitStack() as opened:
            links = opened.enter_context(closing(NetlinkLinks()))
            servers = sets = None
            if has_ip_vs():
                servers = opened.enter_context(closing(NetlinkIpvs(load=lambda: None)))
            if has_ip_set():
                sets = opened.enter_context(closing(NetlinkIpset()))
            return remove_ipvs(IpvsKernel(links, servers, sets), exclude, busy_stay=busy_stay)
    except OSError as error:
        return Outcome(errors=[f"Cannot clean up IPVS: {error}"])


def _iptables_ports(
    families: Collection[IPFamily], pids: RecentPids | None
) -> Iterator[tuple[Kind, IPFamily, TablesPort]]:
    kinds: tuple[Kind, ...] = ("nft", "legacy") if may_have_nf_tables() else ("legacy",)
    for kind in kinds:
        backend = Backend(kind, "", _variant(kind))
        for family in families:
            yield kind, family, ProgramIptables(family, backend, pids=pids)


def _variant(kind: Kind) -> str:
    """Return the part of the programs' names; before iptables 1.8 all were legacy, without one."""
    has_variants = any(find_tool(f"iptables-{k}-restore") for k in ("nft", "legacy"))
    return f"-{kind}" if has_variants or kind == "nft" else ""


def _named(outcome: Outcome, where: str) -> Outcome:
    """Say where it happened in each sentence."""
    return Outcome(
        *(
            [f"{said} ({where})" for said in sentences]
            for sentences in (outcome.removed, outcome.errors, outcome.remaining)
        )
    )
