"""Which data type an expression has, by the names that ``nft describe`` and sets use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = Any  # libnftables-JSON: dict, list, str, int, bool or None

_PAYLOAD = {
    ("ip", "saddr"): "ipv4_addr",
    ("ip", "daddr"): "ipv4_addr",
    ("ip", "protocol"): "inet_proto",
    ("ip", "dscp"): "dscp",
    ("ip6", "saddr"): "ipv6_addr",
    ("ip6", "daddr"): "ipv6_addr",
    ("ip6", "nexthdr"): "inet_proto",
    ("ip6", "dscp"): "dscp",
    ("ether", "saddr"): "ether_addr",
    ("ether", "daddr"): "ether_addr",
    ("ether", "type"): "ether_type",
    ("vlan", "type"): "ether_type",
    ("icmp", "type"): "icmp_type",
    ("icmpv6", "type"): "icmpv6_type",
    ("tcp", "flags"): "tcp_flag",
    ("arp", "saddr ip"): "ipv4_addr",
    ("arp", "daddr ip"): "ipv4_addr",
}
_PORTS = frozenset({"sport", "dport"})
_META = {
    "l4proto": "inet_proto",
    "nfproto": "nf_proto",
    "protocol": "ether_type",
    "mark": "mark",
    "iif": "iface_index",
    "oif": "iface_index",
    "iifname": "ifname",
    "oifname": "ifname",
    "ibrname": "ifname",
    "obrname": "ifname",
    "sdifname": "ifname",
    "iifkind": "ifname",
    "oifkind": "ifname",
    "skuid": "uid",
    "skgid": "gid",
    "pkttype": "pkt_type",
    "day": "day",
    "hour": "time_of_day",
    "time": "time",
}
_CT = {
    "state": "ct_state",
    "status": "ct_status",
    "direction": "ct_dir",
    "mark": "mark",
    "label": "ct_label",
    "helper": "string",
    "expiration": "duration",
    "protocol": "inet_proto",
    "l3proto": "nf_proto",
    "proto-src": "inet_service",
    "proto-dst": "inet_service",
    "ip saddr": "ipv4_addr",
    "ip daddr": "ipv4_addr",
    "ip6 saddr": "ipv6_addr",
    "ip6 daddr": "ipv6_addr",
}
_FIB = {"type": "fib_addrtype", "oif": "iface_index", "oifname": "ifname"}


def key_types(expression: Json) -> tuple[str, ...]:
    """Return the data types of an expression, one per part of a concatenation."""
    if isinstance(expression, dict) and isinstance(expression.get("concat"), list):
        return tuple(_type(part) for part in expression["concat"])
    return (_type(expression),)


def _type(expression: Json) -> str:
    if not isinstance(expression, dict) or not expression:
        return "integer"
    name, body = next(iter(expression.items()))
    if name in ("&", "|", "^", "<<", ">>") and isinstance(body, list) and body:
        return _type(body[0])
    if isinstance(body, dict):
        return _named(name, body)
    return "integer"


def _named(name: str, body: Mapping[str, Json]) -> str:
    if name == "payload":
        return _payload(body)
    if name == "ct":
        return _CT.get(str(body.get("key")), "integer")
    if name == "meta":
        return _META.get(str(body.get("key")), "integer")
    if name == "fib":
        return _FIB.get(str(body.get("result")), "integer")
    return "mark" if name == "socket" and body.get("key") == "mark" else "integer"


def _payload(body: Mapping[str, Json]) -> str:
    protocol, field = body.get("protocol"), body.get("field")
    if field in _PORTS:
        return "inet_service"
    return "raw" if "base" in body else _PAYLOAD.get((str(protocol), str(field)), "integer")
