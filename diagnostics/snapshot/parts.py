"""
What a snapshot is made of: one file for each thing that a node or the API can tell.

Names are those of the snapshot directory; ``PATTERNS`` are what other tools and people call the
same dumps (calicoctl, cilium-bugtool, must-gather, iptables-persistent).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Part(enum.Enum):
    """One part; the value is its file in a snapshot directory."""

    MANIFEST = "manifest.json"
    IPTABLES = "iptables-save.txt"
    IP6TABLES = "ip6tables-save.txt"
    NFT_JSON = "nft-ruleset.json"
    NFT_TEXT = "nft-ruleset.txt"
    IPVS = "ipvsadm-save.txt"
    IPVS_LIST = "ipvsadm-list.txt"
    IPSET = "ipset-save.txt"
    ADDRESSES = "ip-addr.json"
    ROUTES = "ip-route.json"
    ROUTES6 = "ip6-route.json"
    RULES = "ip-rule.json"
    RULES6 = "ip6-rule.json"
    SYSCTL = "sysctl.txt"
    CONNTRACK = "conntrack.txt"
    RECENT = "xt-recent.txt"
    LEGACY = "iptables-legacy-counters.txt"
    HOSTNAME = "hostname.txt"
    SERVICES = "services.json"
    SLICES = "endpointslices.json"
    NODES = "nodes.json"
    PODS = "pods.json"
    SERVICE_CIDRS = "servicecidrs.json"
    OBJECTS = "objects.json"
    CONFIG = "kube-proxy-config.yaml"
    METRICS = "metrics.txt"
    LOG = "kube-proxy.log"


OBJECT_PARTS = frozenset(
    {Part.SERVICES, Part.SLICES, Part.NODES, Part.PODS, Part.SERVICE_CIDRS, Part.OBJECTS}
)
"""Parts that belong to the cluster; a file outside the nodes' folders counts for each node."""

SHARED_PARTS = OBJECT_PARTS | {Part.CONFIG, Part.MANIFEST}

RULE_PARTS = frozenset({Part.IPTABLES, Part.IP6TABLES, Part.NFT_JSON, Part.NFT_TEXT})


@dataclass(frozen=True, slots=True)
class Gap:
    """
    Something that is not known, never to be taken for absent.

    Attributes:
        what: The thing in words, "IPVS virtual servers".
        why: The reason, "ipvsadm-save.txt is not in the snapshot".
        how: How to get it, a command where there is one.
    """

    what: str
    why: str
    how: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.how}"


@dataclass(frozen=True, slots=True)
class _Facts:
    what: str
    command: tuple[str, ...] = ()


_NFT_JSON = ("nft", "-j", "list", "ruleset")
FACTS = {
    Part.IPTABLES: _Facts("IPv4 iptables rules", ("iptables-save", "-c")),
    Part.IP6TABLES: _Facts("IPv6 iptables rules", ("ip6tables-save", "-c")),
    Part.NFT_JSON: _Facts("nftables rules", _NFT_JSON),
    Part.NFT_TEXT: _Facts("nftables rules as text", ("nft", "-a", "list", "ruleset")),
    Part.IPVS: _Facts("IPVS virtual servers", ("ipvsadm", "-Sn")),
    Part.IPVS_LIST: _Facts("IPVS counters", ("ipvsadm", "-Ln")),
    Part.IPSET: _Facts("ipsets", ("ipset", "save")),
    Part.ADDRESSES: _Facts("addresses of the node", ("ip", "-j", "addr")),
    Part.ROUTES: _Facts("IPv4 routes", ("ip", "-j", "-4", "route", "show", "table", "all")),
    Part.ROUTES6: _Facts("IPv6 routes", ("ip", "-j", "-6", "route", "show", "table", "all")),
    Part.RULES: _Facts("IPv4 policy rules", ("ip", "-j", "-4", "rule")),
    Part.RULES6: _Facts("IPv6 policy rules", ("ip", "-j", "-6", "rule")),
    Part.SYSCTL: _Facts("kernel settings", ("sysctl", "-a")),
    Part.CONNTRACK: _Facts("connections", ("conntrack", "-L", "-o", "extended")),
    Part.RECENT: _Facts("iptables' session affinity (xt_recent)"),
    Part.LEGACY: _Facts("a proxy's chains in legacy iptables, and their counters"),
    Part.HOSTNAME: _Facts("name of the host"),
    Part.SERVICES: _Facts("Services", ("kubectl", "get", "services", "-A", "-o", "json")),
    Part.SLICES: _Facts(
        "EndpointSlices", ("kubectl", "get", "endpointslices", "-A", "-o", "json")
    ),
    Part.NODES: _Facts("Nodes", ("kubectl", "get", "nodes", "-o", "json")),
    Part.PODS: _Facts("Pods", ("kubectl", "get", "pods", "-A", "-o", "json")),
    Part.SERVICE_CIDRS: _Facts("ServiceCIDRs", ("kubectl", "get", "servicecidrs", "-o", "json")),
    Part.OBJECTS: _Facts("API objects"),
    Part.CONFIG: _Facts(
        "configuration of the proxy",
        ("kubectl", "-n", "kube-system", "get", "configmap", "kube-proxy", "-o", "yaml"),
    ),
    Part.METRICS: _Facts("metrics of the proxy", ("curl", "-s", "http://127.0.0.1:10249/metrics")),
    Part.LOG: _Facts(
        "log of the proxy", ("kubectl", "-n", "kube-system", "logs", "ds/kube-proxy")
    ),
    Part.MANIFEST: _Facts("manifest of the snapshot"),
}  # fmt: skip


def gap(part: Part, why: str, how: str = "") -> Gap:
    """Return the gap that a missing part leaves."""
    command = FACTS[part].command
    if not how:
        how = f"run: {' '.join(command)} > {part.value}" if command else "run: kpctl snapshot"
    return Gap(FACTS[part].what, why, how)


_ENDING = r"(?:[-_.]\d[\w-]*)?(?:\.(?:txt|out|log|md|dump|conf|v[46]|rules|gz))*"
_JSON_ENDING = r"(?:[-_.]\d[\w-]*)?(?:\.(?:txt|json|yaml|yml|out|gz))*"
_OBJECT_ENDING = r"(?:-\d[\w-]*)?(?:\.(?:json|yaml|yml))(?:\.gz)?"
_SHOW = r"(?:[-_]show|[-_]list)?(?:[-_]table[-_]all)?"
_ADDR, _ROUTE = r"a(?:ddr(?:ess)?(?:es)?)?", r"r(?:oute)?s?"
_PREFIX = r"(?:sudo[-_]|k8s-|kube-system[-_])?"

PATTERNS: tuple[tuple[Part, re.Pattern[str]], ...] = tuple(
    (part, re.compile(pattern, re.IGNORECASE))
    for part, pattern in (
        (Part.MANIFEST, r"manifest\.json"),
        (Part.LEGACY, r"iptables-legacy-counters\.txt"),
        (Part.IP6TABLES, rf"ip6tables(?:[-_](?:legacy|nft))?(?:[-_]save)?(?:[-_ ]+-?c)?{_ENDING}"),
        (Part.IP6TABLES, r"rules\.v6"),
        (Part.IPTABLES, rf"iptables(?:[-_](?:legacy|nft))?(?:[-_]save)?(?:[-_ ]+-?c)?{_ENDING}"),
        (Part.IPTABLES, r"rules\.v4"),
        (Part.NFT_JSON, r"nft(?:ables)?(?:[-_]j)?(?:[-_]list)?(?:[-_]?ruleset)?\.json(?:\.gz)?"),
        (Part.NFT_TEXT, rf"nft(?:ables)?(?:[-_]+a)?(?:[-_]list)?(?:[-_]?ruleset)?{_ENDING}"),
        (Part.IPVS, rf"ipvsadm(?:[-_](?:save|S|Sn|s-n))?{_ENDING}"),
        (Part.IPVS_LIST, rf"ipvsadm[-_](?:list|L|Ln|l-n|stats)(?:[-_]+stats)?{_ENDING}"),
        (Part.IPSET, rf"ipsets?(?:[-_](?:save|list|L|container))?{_ENDING}"),
        (Part.ADDRESSES, rf"ip[-_]?(?:-?j[-_])?{_ADDR}{_SHOW}{_JSON_ENDING}|ip-a\.md"),
        (Part.ROUTES6, rf"ip(?:6|[-_]+6|-j-6)[-_]?{_ROUTE}{_SHOW}{_JSON_ENDING}|ip--6-r\.md"),
        (Part.ROUTES6, rf"ip-route[-_]v?6{_JSON_ENDING}"),
        (Part.ROUTES, rf"ip(?:4|[-_]+4)?[-_]?(?:-?j[-_])?{_ROUTE}{_SHOW}{_JSON_ENDING}"),
        (Part.ROUTES, r"ip--4-r\.md"),
        (Part.RULES6, rf"ip(?:6|[-_]+6)[-_]?rules?{_JSON_ENDING}"),
        (Part.RULES, rf"ip[-_]?rules?{_JSON_ENDING}|ip-rule\.md"),
        (Part.SYSCTL, rf"sysctl(?:[-_]+a)?{_ENDING}"),
        (Part.CONNTRACK, rf"(?:nf[-_])?conntrack(?:[-_]+(?:L|list))?{_ENDING}"),
        (Part.RECENT, r"xt[-_]recent\.txt"),
        (Part.HOSTNAME, r"hostname(?:\.txt|\.md)?"),
        (Part.SERVICES, rf"{_PREFIX}(?:services?|svcs?){_OBJECT_ENDING}"),
        (Part.SLICES, rf"{_PREFIX}(?:endpoint-?slices?|eps?){_OBJECT_ENDING}"),
        (Part.NODES, rf"{_PREFIX}nodes?{_OBJECT_ENDING}"),
        (Part.PODS, rf"{_PREFIX}pods?{_OBJECT_ENDING}"),
        (Part.SERVICE_CIDRS, rf"{_PREFIX}service-?cidrs?{_OBJECT_ENDING}"),
        (Part.OBJECTS, rf"(?:objects|all|cluster|configmaps){_OBJECT_ENDING}"),
        (Part.CONFIG, r"(?:kube-proxy(?:[-_]config(?:map)?)?|config|configz)\.(?:ya?ml|conf|json)"),
        (Part.METRICS, r"(?:kube-proxy[-_])?metrics\.txt"),
        (Part.LOG, r"kube-proxy[\w.-]*\.log"),
    )
)  # fmt: skip
# Names that no pattern tells: cilium-bugtool writes a command's spaces as dashes and keeps or drops
# those of its options; calicoctl node diags has names of its own.
_BY_TOOL = {
    "iptables-save--c.md": Part.IPTABLES,
    "iptables-nft-save--c.md": Part.IPTABLES,
    "iptables-legacy-save--c.md": Part.IPTABLES,
    "ip6tables-save--c.md": Part.IP6TABLES,
    "sysctl--a.md": Part.SYSCTL,
    "ip--d-rule.md": Part.RULES,
    "ip--j-a.json": Part.ADDRESSES,
    "ip-j-a.json": Part.ADDRESSES,
    "ip-j-addr.json": Part.ADDRESSES,
    "ip-j-4-r.json": Part.ROUTES,
    "ip-j-4-route.json": Part.ROUTES,
    "ip-j-6-r.json": Part.ROUTES6,
    "ip-j-6-route.json": Part.ROUTES6,
    "ip-j-rule.json": Part.RULES,
    "ip-json-rule.json": Part.RULES,
    "ipv4_route": Part.ROUTES,
    "ipv6_route": Part.ROUTES6,
    "ipv4_addr": Part.ADDRESSES,
    "ipv6_addr": Part.ADDRESSES,
    "ipv4_tables": Part.IPTABLES,
    "ipv6_tables": Part.IP6TABLES,
}
# Routes of several tables, without the tables' names; links and neighbours.
NO_DUMPS = re.compile(
    r"ip[46][-_]route[-_]tables(?:-human)?\.json|ip[-_](?:[a-z0-9-]*-)?(?:link|neigh(?:bor)?|[ln])"
    r"\.(?:txt|json|md)"
)
# must-gather: namespaces/NS/core/services.yaml, discovery.k8s.io/endpointslices/NAME.yaml …
_OBJECT_FOLDERS = {
    "services": Part.SERVICES,
    "endpointslices": Part.SLICES,
    "nodes": Part.NODES,
    "pods": Part.PODS,
    "servicecidrs": Part.SERVICE_CIDRS,
}


def part_of(path: str) -> Part | None:
    """Return the part that a file's name stands for, None when its content must tell."""
    *folders, name = path.split("/")
    if NO_DUMPS.fullmatch(name):
        return None
    if name in _BY_TOOL:
        return _BY_TOOL[name]
    if (
        len(folders) >= 2
        and folders[-1] in _OBJECT_FOLDERS
        and (folders[-2] == "core" or folders[-2].endswith(".k8s.io"))
        and name.endswith((".yaml", ".yml", ".json"))
    ):
        return _OBJECT_FOLDERS[folders[-1]]
    for part, pattern in PATTERNS:
        if pattern.fullmatch(name):
            return part
    return None
