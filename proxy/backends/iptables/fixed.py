"""The rules that do not belong to a service port: masquerading, forwarding, NodePorts, firewall."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.backends.iptables import names
from proxy.backends.iptables.rules import host
from proxy.backends.iptables.settings import INVALID_COUNTER, IptablesSettings
from proxy.backends.settings import Settings
from proxy.backends.xtables import FILTER, LOOPBACK, NAT, comment

ChainKey = tuple[str, str]  # table, chain
_NODE_PORTS_COMMENT = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"


def masquerading(settings: Settings, *, random_fully: bool) -> dict[ChainKey, tuple[str, ...]]:
    """Return the chains of the nat table that mark packets for masquerading, and masquerade."""
    mark = f"0x{settings.mark:x}"
    fully = " --random-fully" if random_fully else ""
    said = comment("kubernetes service traffic requiring SNAT")
    return {
        (NAT, names.POSTROUTING): (
            f"-m mark ! --mark {mark}/{mark} -j RETURN",
            f"-j MARK --set-xmark {mark}/0x0",
            f"{said} -j MASQUERADE{fully}",
        ),
        (NAT, names.MARK_MASQ): (f"-j MARK --set-xmark {mark}/{mark}",),
    }


def forwarding(settings: Settings) -> tuple[str, ...]:
    """Return the rules that let Services' packets pass a FORWARD chain that drops."""
    mark = f"0x{settings.mark:x}"
    return (
        f"{comment('kubernetes forwarding rules')} -m mark --mark {mark}/{mark} -j ACCEPT",
        f"{comment('kubernetes forwarding conntrack rule')}"
        " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    )


def fixed_chains(settings: IptablesSettings) -> dict[ChainKey, tuple[str, ...]]:
    """Return every fixed chain that holds no rule of a service port, with its rules."""
    chains: dict[ChainKey, tuple[str, ...]] = {
        (FILTER, names.FORWARD): (*_invalid(settings), *forwarding(settings)),
        **masquerading(settings, random_fully=settings.random_fully),
    }
    if settings.localhost_node_ports:
        # Martian packets to 127.0.0.0/8, which route_localnet lets in. kubelet may have the same
        # chain with the same rule.
        chains[FILTER, names.KUBELET_FIREWALL] = (
            f"! -s 127.0.0.0/8 -d 127.0.0.0/8 {comment('block incoming localnet connections')}"
            " -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
        )
    return chains


def _invalid(settings: IptablesSettings) -> Iterator[str]:
    if settings.drop_invalid:
        counted = ""
        if INVALID_COUNTER in settings.counters:
            counted = f" -m nfacct --nfacct-name  {INVALID_COUNTER}"
        yield f"-m conntrack --ctstate INVALID{counted} -j DROP"


def node_port_dispatch(settings: IptablesSettings) -> tuple[str, ...]:
    """Return the rules that end nat KUBE-SERVICES: which destinations accept NodePorts."""
    said = comment(_NODE_PORTS_COMMENT)
    if settings.node_port_addresses is not None:
        addresses = sorted(settings.node_port_addresses)
        return tuple(f"-d {host(address)} {said} -j {names.NODEPORTS}" for address in addresses)
    to_local = f"{said} -m addrtype --dst-type LOCAL -j {names.NODEPORTS}"
    if settings.localhost_node_ports:
        return (to_local,)
    return (f"! -d {LOOPBACK[settings.family]} {to_local}",)
