"""
The table's fixed part: sets, maps, base chains and the chains that do not depend on Services.

Names that kube-proxy's nftables mode uses too mean the same here and have the same type, so that
either program can take over the table from the other. The packet's way:

    prerouting, output   -110  firewall-check      source ranges of load balancers
                         -100  services            service-ips, service-nodeports -> lb-N chains
    input, forward, output  0  *-endpoints-check   reject or drop where nobody answers
                               affinity-learn      remembers who was sent where
    postrouting           100  masquerading        marked packets and hairpins
"""

from __future__ import annotations

from proxy.backends.settings import LocalTraffic, Settings
from proxy.model.addresses import IPFamily
from proxy.netfilter.fields import (
    CT_ORIGINAL_DPORT,
    L4PROTO,
    TH_DPORT,
    TRANSPORT_DPORT,
    Key,
    ct_original_daddr,
    daddr,
    random_index,
    saddr,
)
from proxy.netfilter.objects import Chain, Hook, NamedSet, Rule, rule
from proxy.netfilter.statements import (
    CT_DNAT,
    CT_NEW,
    DROP,
    MASQUERADE,
    RETURN,
    Statement,
    address_is_local,
    goto,
    in_network,
    in_set,
    input_interface,
    jump,
    mark_bit_set,
    not_loopback,
    protocol_is,
    reject,
    set_mark_bit,
    toggle_mark_bit,
    verdict,
    verdict_map,
)

TABLE = "kube-proxy"
TABLE_COMMENT = "rules for kube-proxy, layout kpctl/1"

CLUSTER_IPS = "cluster-ips"
NODEPORT_IPS = "nodeport-ips"
SERVICE_IPS = "service-ips"
SERVICE_NODEPORTS = "service-nodeports"
NO_ENDPOINT_SERVICES = "no-endpoint-services"
NO_ENDPOINT_NODEPORTS = "no-endpoint-nodeports"
FIREWALL_IPS = "firewall-ips"
ALLOWED_SOURCES = "allowed-sources"
HAIRPIN = "hairpin"
ENDPOINTS = "endpoints"
LOCAL_ENDPOINTS = "local-endpoints"
NODEPORT_ENDPOINTS = "nodeport-endpoints"
NODEPORT_LOCAL_ENDPOINTS = "nodeport-local-endpoints"
AFFINITY = "affinity"
AFFINITY_LEARN = "affinity-learn-ips"
AFFINITY_LEARN_NODEPORTS = "affinity-learn-nodeports"

REJECT_CHAIN = "reject-chain"
SOURCES_CHAIN = "allowed-sources-check"
LEARN_CHAIN = "affinity-learn"
CLUSTER_IPS_CHECK = "cluster-ips-check"

# Clients remembered at most; beyond that new clients are balanced without affinity.
AFFINITY_SIZE = 1 << 20
# The modulus in a map's declaration only names the type of the index to listings.
_INDEX = random_index(2)


def vip_key(family: IPFamily) -> Key:
    """Return the key of everything that is looked up by address, protocol and port."""
    return (daddr(family), L4PROTO, TH_DPORT)


PROTOCOLS = ("tcp", "udp", "sctp")
NODEPORT_KEY: Key = (L4PROTO, TH_DPORT)


def target_key(family: IPFamily) -> Key:
    """Return the shape of an endpoint: address and port."""
    return (daddr(family), TH_DPORT)


def affinity_key(family: IPFamily) -> Key:
    """Return the key under which a client's endpoint is remembered."""
    return (saddr(family), *vip_key(family))


def _learning(family: IPFamily) -> tuple[Rule, ...]:
    """Return the rules that find out whether a translated packet's client is remembered."""
    rules = []
    for protocol in PROTOCOLS:
        # Written per protocol because nft types "ct original proto-dst" only behind such a match.
        target = (daddr(family), TRANSPORT_DPORT[protocol])
        port = (L4PROTO, CT_ORIGINAL_DPORT, *target)
        vip = (ct_original_daddr(family), *port)
        rules.append(rule(protocol_is(protocol), verdict_map(vip, AFFINITY_LEARN)))
        rules.append(rule(protocol_is(protocol), verdict_map(port, AFFINITY_LEARN_NODEPORTS)))
    return tuple(rules)


def sets(family: IPFamily) -> dict[str, NamedSet]:
    """Return all sets and maps of the table by name."""
    vip, target = vip_key(family), target_key(family)
    indexed, indexed_port = (*vip, _INDEX), (*NODEPORT_KEY, _INDEX)
    listed = [
        NamedSet(CLUSTER_IPS, (daddr(family),), comment="Active ClusterIPs"),
        NamedSet(NODEPORT_IPS, (daddr(family),), comment="IPs that accept NodePort traffic"),
        NamedSet(
            SERVICE_IPS,
            vip,
            verdicts=True,
            comment="ClusterIP, ExternalIP and LoadBalancer IP traffic",
        ),
        NamedSet(SERVICE_NODEPORTS, NODEPORT_KEY, verdicts=True, comment="NodePort traffic"),
        NamedSet(
            FIREWALL_IPS,
            vip,
            verdicts=True,
            comment="destinations that are subject to LoadBalancerSourceRanges",
        ),
        NamedSet(
            NO_ENDPOINT_SERVICES,
            vip,
            verdicts=True,
            comment="vmap to drop or reject packets to services with no endpoints",
        ),
        NamedSet(
            NO_ENDPOINT_NODEPORTS,
            NODEPORT_KEY,
            verdicts=True,
            comment="vmap to drop or reject packets to service nodeports with no endpoints",
        ),
        NamedSet(ALLOWED_SOURCES, (*vip, saddr(family)), interval=True),
        NamedSet(HAIRPIN, (saddr(family), daddr(family)), by_type=False),
        NamedSet(ENDPOINTS, indexed, target, by_type=False),
        NamedSet(LOCAL_ENDPOINTS, indexed, target, by_type=False),
        NamedSet(NODEPORT_ENDPOINTS, indexed_port, target, by_type=False),
        NamedSet(NODEPORT_LOCAL_ENDPOINTS, indexed_port, target, by_type=False),
        NamedSet(
            AFFINITY,
            affinity_key(family),
            target,
            by_type=False,
            dynamic=True,
            size=AFFINITY_SIZE,
        ),
        NamedSet(AFFINITY_LEARN, (*vip, *target), verdicts=True),
        NamedSet(AFFINITY_LEARN_NODEPORTS, (*NODEPORT_KEY, *target), verdicts=True),
    ]
    return {item.name: item for item in listed}


def from_pods(local: LocalTraffic, family: IPFamily, *, negate: bool = False) -> Statement:
    """Return the match of traffic that comes from this cluster's pods (or does not)."""
    if local.network is not None:
        return in_network(saddr(family), local.network, negate=negate)
    if local.interface:
        return input_interface(local.interface, negate=negate)
    return input_interface(local.interface_prefix, prefix=True, negate=negate)


def base_chains() -> tuple[Chain, ...]:
    """Return the chains that are attached to netfilter hooks; names as kube-proxy's."""
    firewall = (rule(CT_NEW, verdict(jump("firewall-check"))),)
    service_check = rule(CT_NEW, verdict(jump("service-endpoints-check")))
    nodeport_check = rule(CT_NEW, verdict(jump("nodeport-endpoints-check")))
    cluster_check = rule(CT_NEW, verdict(jump(CLUSTER_IPS_CHECK)))
    learn = rule(CT_NEW, CT_DNAT, verdict(jump(LEARN_CHAIN)))
    services = (rule(verdict(jump("services"))),)
    through = (service_check, cluster_check, learn)
    pre, inp, fwd, out, post = range(5)
    return (
        _hooked("filter-prerouting-pre-dnat", "filter", pre, -110, firewall),
        _hooked("filter-output-pre-dnat", "filter", out, -110, firewall),
        _hooked("filter-input", "filter", inp, 0, (nodeport_check, service_check, learn)),
        _hooked("filter-forward", "filter", fwd, 0, through),
        _hooked("filter-output", "filter", out, 0, through),
        _hooked("nat-prerouting", "nat", pre, -100, services),
        _hooked("nat-output", "nat", out, -100, services),
        _hooked("nat-postrouting", "nat", post, 100, (rule(verdict(jump("masquerading"))),)),
    )


_HOOK_NAMES = ("prerouting", "input", "forward", "output", "postrouting")


def _hooked(name: str, kind: str, number: int, priority: int, rules: tuple[Rule, ...]) -> Chain:
    return Chain(name, rules, Hook(kind, number, _HOOK_NAMES[number], priority))


def fixed_chains(settings: Settings) -> tuple[Chain, ...]:
    """Return the chains that base chains jump to, in an order that needs no forward jumps."""
    family, vip = settings.family, vip_key(settings.family)
    node_port = _to_node_port(settings)
    return (
        Chain(REJECT_CHAIN, (rule(reject(family)),)),
        Chain(
            SOURCES_CHAIN,
            (
                rule(in_set((*vip, saddr(family)), ALLOWED_SOURCES), verdict(RETURN)),
                rule(verdict(DROP)),
            ),
        ),
        Chain("firewall-check", (rule(verdict_map(vip, FIREWALL_IPS)),)),
        Chain("service-endpoints-check", (rule(verdict_map(vip, NO_ENDPOINT_SERVICES)),)),
        Chain(
            "nodeport-endpoints-check",
            (rule(node_port[-1], verdict_map(NODEPORT_KEY, NO_ENDPOINT_NODEPORTS)),),
        ),
        cluster_ips_check(settings),
        Chain(LEARN_CHAIN, _learning(family)),
        Chain(
            "services",
            (
                rule(verdict_map(vip, SERVICE_IPS)),
                rule(*node_port, verdict_map(NODEPORT_KEY, SERVICE_NODEPORTS)),
            ),
        ),
        Chain("masquerading", _masquerading(settings)),
    )


def _to_node_port(settings: Settings) -> tuple[Statement, ...]:
    if settings.node_port_addresses is not None:
        return (in_set((daddr(settings.family),), NODEPORT_IPS),)
    return (address_is_local("daddr"), not_loopback(settings.family))


def cluster_ips_check(settings: Settings) -> Chain:
    """Return the chain that answers calls to ClusterIPs for ports they do not have."""
    destination = daddr(settings.family)
    rules = [
        rule(
            in_set((destination,), CLUSTER_IPS),
            reject(settings.family),
            comment="Reject traffic to invalid ports of ClusterIPs",
        )
    ]
    rules += [
        rule(
            in_network(destination, cidr),
            verdict(DROP),
            comment="Drop traffic to unallocated ClusterIPs",
        )
        for cidr in settings.service_cidrs
    ]
    return Chain(CLUSTER_IPS_CHECK, tuple(rules))


def _masquerading(settings: Settings) -> tuple[Rule, ...]:
    family = settings.family
    return (
        rule(mark_bit_set(settings.mark), toggle_mark_bit(settings.mark), MASQUERADE),
        rule(CT_DNAT, in_set((saddr(family), daddr(family)), HAIRPIN), MASQUERADE),
    )


def masquerade_outsiders(settings: Settings) -> tuple[Rule, ...]:
    """Return the rules that mark internal traffic whose source must be rewritten; often one."""
    if settings.masquerade_all:
        return (rule(set_mark_bit(settings.mark)),)
    if not settings.local_traffic:
        return ()
    outside = from_pods(settings.local_traffic, settings.family, negate=True)
    return (rule(outside, set_mark_bit(settings.mark)),)


def short_circuit(settings: Settings, cluster_chain: str) -> tuple[Rule, ...]:
    """Return the rules that let pods and the node itself reach *cluster_chain*."""
    rules = []
    if settings.local_traffic:
        pods = from_pods(settings.local_traffic, settings.family)
        rules.append(rule(pods, verdict(goto(cluster_chain)), comment="short-circuit pod traffic"))
    own = address_is_local("saddr")
    rules.append(rule(own, set_mark_bit(settings.mark), comment="masquerade local traffic"))
    rules.append(rule(own, verdict(goto(cluster_chain)), comment="short-circuit local traffic"))
    return tuple(rules)
