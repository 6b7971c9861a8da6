"""
Lays out the network that a scenario plays in: a node, and the world around it.

                 node namespace                      world namespace
    outside   eth0  169.254.9.1, node addresses ──── eth0  169.254.9.2
    pods      pods0 169.254.7.1                 ──── pods0 169.254.7.2

The world plays every pod, every backend and every outsider: it receives packets for any address
at all and may send from any. What it sends leaves through the node even if the destination is
one of its own addresses, which is what pods on a real node experience.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kpctl.lab.netns import Namespace, create_all, delete_all, with_prefix
from tests.packets.flows.scenario import Scenario, vips_of

PREFIX = "kpctl-t"
POD_NETWORKS = ("10.0.0.0/8", "fd00::/8")
_PODS_TABLE = 100

_NODE_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    # A rejected probe must always be told so; by default only about one in a second is.
    "net.ipv4.icmp_ratemask": "0",
    "net.ipv6.icmp.ratelimit": "0",
}
_WORLD_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    # A packet from one of the world's addresses may come back to it through the node.
    "net.ipv4.conf.all.accept_local": "1",
    "net.ipv4.icmp_ratemask": "0",
    "net.ipv6.icmp.ratelimit": "0",
}


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair between node and world; the number makes its addresses."""

    device: str
    number: int

    def mac(self, end: int) -> str:
        """The hardware address of an end: 1 is the node, 2 the world."""
        return f"02:00:00:00:0{self.number}:0{end}"

    def ip(self, end: int, family: int) -> str:
        """The link's own address of an end in an IP family, 4 or 6."""
        return f"169.254.{self.number}.{end}" if family == 4 else f"fe80::{self.number}:{end}"


OUTSIDE = Link("eth0", 9)
PODS = Link("pods0", 7)
_LINKS = (OUTSIDE, PODS)
_FAMILIES = (4, 6)
_ANYTHING = ("0.0.0.0/0", "::/0")
_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Site:
    """The two namespaces of a scenario, and the addresses that the node answers for."""

    node: Namespace
    world: Namespace
    node_addresses: frozenset[str]

    def home_of(self, address: str) -> Namespace:
        """Where a packet from this address starts."""
        return self.node if address in self.node_addresses else self.world


@contextmanager
def site_for(scenario: Scenario) -> Iterator[Site]:
    """
    Make the namespaces of a scenario, and remove them at the end with all that runs inside.

    Raises:
        CommandError: The kernel or ip(8) refuses; the text says what.
    """
    name = f"{PREFIX}{os.getpid()}-{next(_serial)}"
    site = Site(Namespace(f"{name}-node"), Namespace(f"{name}-world"), _held_by_node(scenario))
    try:
        create_all([site.node, site.world])
        site.node.set_sysctls(_NODE_SYSCTLS)
        site.world.set_sysctls(_WORLD_SYSCTLS)
        backends = {endpoint.ip for endpoint in scenario.endpoints} - site.node_addresses
        site.node.ip(_node_commands(scenario, site, backends))
        site.world.ip(_world_commands())
        for family in _FAMILIES:
            # ip(8) takes the family of a rule from no address, only from its option.
            rules = "\n".join(_world_rules(family, backends))
            site.world.run(["ip", f"-{family}", "-batch", "-"], stdin=rules)
        yield site
    finally:
        delete_all([site.node, site.world])


def remove_abandoned() -> None:
    """Remove the namespaces of test processes that were killed."""
    abandoned = [ns for ns in with_prefix(PREFIX) if not _is_alive(ns.name)]
    delete_all(abandoned)


def _is_alive(name: str) -> bool:
    pid = name.removeprefix(PREFIX).split("-")[0]
    return not pid.isdigit() or Path("/proc", pid).exists()


def _held_by_node(scenario: Scenario) -> frozenset[str]:
    """The node's own addresses, and the virtual ones that packets start from."""
    vips = {ip for stage in scenario.stages for o in stage.objects for ip in vips_of(o)}
    sources = {flow.source for flow in scenario.flows}
    return scenario.node.addresses | (sources & vips)


def _node_commands(scenario: Scenario, site: Site, backends: Iterable[str]) -> Iterator[str]:
    for link in _LINKS:
        yield (
            f"link add {link.device} address {link.mac(1)} type veth"
            f" peer name {link.device} address {link.mac(2)} netns {site.world.name}"
        )
        yield f"link set {link.device} up"
    yield "addr add 169.254.7.1/32 dev pods0"
    # IPv6 masquerading takes no link-local address, and the node's own could not be told apart.
    yield "addr add fd69:254:7::1/128 dev pods0"
    # Without their prefix routes everything that is not the node's own has one way out.
    for device, cidrs in scenario.node.interfaces.items():
        for cidr in cidrs:
            if cidr not in ("127.0.0.1/8", "::1/128"):
                yield f"addr add {cidr} dev {device} noprefixroute"
    for vip in sorted(site.node_addresses - scenario.node.addresses):
        yield f"addr add {vip} dev lo"
    for network in _ANYTHING:
        yield _route(network, OUTSIDE, 2)
    for network in (*POD_NETWORKS, *sorted(backends)):
        yield _route(network, PODS, 2)
    yield from _neighbours(2)


def _world_commands() -> Iterator[str]:
    yield from (f"link set {link.device} up" for link in _LINKS)
    for anything in _ANYTHING:
        # In this order: a gateway must not be an address of one's own, and then everything is.
        yield _route(anything, OUTSIDE, 1)
        yield _route(anything, PODS, 1) + f" table {_PODS_TABLE}"
        yield f"route add local {anything} dev lo"
    yield from _neighbours(1)


def _world_rules(family: int, backends: Iterable[str]) -> Iterator[str]:
    # Local delivery is only for what comes in; what goes out is always routed to the node.
    for link in _LINKS:
        yield f"rule add pref {link.number} iif {link.device} lookup local"
    yield "rule del pref 0"
    for network in (*POD_NETWORKS, *sorted(backends)):
        if _family(network) == family:
            yield f"rule add pref 100 from {network} lookup {_PODS_TABLE}"


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _route(network: str, link: Link, end: int) -> str:
    return f"route add {network} via {link.ip(end, _family(network))} dev {link.device} onlink"


def _neighbours(end: int) -> Iterator[str]:
    """Fixed hardware addresses of the other side: nothing waits for ARP or ND."""
    for link, family in itertools.product(_LINKS, _FAMILIES):
        yield (
            f"neigh replace {link.ip(end, family)} lladdr {link.mac(end)}"
            f" dev {link.device} nud permanent"
        )
