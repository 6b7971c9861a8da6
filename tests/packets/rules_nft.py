"""
Small nftables rule sets, each about one thing that rules may ask or do.

They send what they select to a backend, or refuse it, so that packets show which rules held.
"""

from __future__ import annotations

from tests.packets.cluster import NODE_IP, OUTSIDER, POD
from tests.packets.flows.scenario import Endpoint

VIP = "172.30.0.10"
ONE, TWO, THREE = (Endpoint(f"10.180.0.{number}", 8080) for number in (1, 2, 3))


PORTS = "meta l4proto { tcp, udp }"
DNAT = f"{PORTS} dnat ip to"
TO_VIP = f"ip daddr {VIP}"
HIT = "jump selected"


def nft(nat: str = "", filters: str = "", post: str = "", more: str = "", offset: int = 0) -> str:
    """
    Return a table whose chains translate, filter, and rewrite sources.

    *more* are further sets and chains; *offset* is added to the priority of translation.
    """
    sign = "-" if offset < 0 else "+"
    dstnat = f"dstnat {sign} {abs(offset)}"
    return f"""
        table inet t {{
            {more}
            chain selected {{ {DNAT} {ONE}; }}
            chain second {{ {DNAT} {TWO}; }}
            chain third {{ {DNAT} {THREE}; }}
            chain prerouting {{ type nat hook prerouting priority {dstnat}; {nat}; }}
            chain output {{ type nat hook output priority {-100 + offset}; {nat}; }}
            chain postrouting {{ type nat hook postrouting priority srcnat; {post}; }}
            chain forward {{ type filter hook forward priority filter; {filters}; }}
        }}
    """


def chain(name: str, hook: str, rules: str) -> str:
    """Return one more chain; *hook* is its place and priority."""
    return f"chain {name} {{ type filter hook {hook}; {rules}; }}\n"


RAW, RAW_OUTPUT, MANGLE = (
    f"{hook} priority {name}"
    for hook, name in (("prerouting", "raw"), ("output", "raw"), ("prerouting", "mangle"))
)

NFT = {
    "a port implies its protocol": nft(f"{TO_VIP} tcp dport 80 {HIT}"),
    "a port of another protocol, negated": nft(f"{TO_VIP} tcp dport != 443 {HIT}"),
    "ports of any transport protocol": nft(f"{TO_VIP} th dport 80 {HIT}"),
    "a message type implies ICMP": nft(f"icmp type echo-request {HIT}; icmp type != 3 {HIT}"),
    "an address of the other family": nft(f"ip6 daddr != fd00::1 {HIT}"),
    "negated addresses": nft(f"ip saddr != 10.0.0.0/8 {TO_VIP} {HIT}"),
    "the state of the connection": nft(f"{TO_VIP} ct state established,related return; {HIT}"),
    "a map of states": nft(f"{TO_VIP} {HIT}", "ct state vmap { new : drop, established : accept }"),
    "a negated state": nft(f"{TO_VIP} {HIT}", "ct state != new accept; drop"),
    "an invalid connection": nft(f"{TO_VIP} {HIT}", "ct state invalid drop"),
    "translated connections": nft(f"{TO_VIP} {HIT}", "ct status dnat accept; drop"),
    "connections that are not translated": nft(
        f"{TO_VIP} {HIT}", "ct status & dnat == 0 accept; drop"
    ),
    "not translated, by negation": nft(f"{TO_VIP} {HIT}", "ct status != dnat drop"),
    "what the client called": nft(
        f"{TO_VIP} {HIT}",
        f"meta l4proto tcp ct original ip daddr {VIP} ct original proto-dst 80 drop",
    ),
    "what the answer will come from": nft(f"{TO_VIP} {HIT}", f"ct reply ip saddr {ONE.ip} drop"),
    "the node's own addresses": nft(
        f"fib daddr type local tcp dport 8081 {HIT}; {TO_VIP} fib daddr type != local {HIT}"
    ),
    "own addresses of one interface": nft(
        f"{TO_VIP} fib daddr type local {HIT}",
        more=chain("own", RAW, "fib daddr . iif type local tcp dport 8081 drop"),
    ),
    "the way back": nft(f"{TO_VIP} {HIT}", "fib saddr . iif oif missing drop"),
    "the way back exists": nft(f"{TO_VIP} {HIT}", "fib saddr . iif oif exists drop"),
    "the way back by name": nft(f"{TO_VIP} {HIT}", 'fib saddr oifname "eth0" drop'),
    "the source is its own": nft(f"{TO_VIP} fib saddr type local {HIT}"),
    "counted in turn": nft(
        f"{TO_VIP} {DNAT} numgen inc mod 2 map {{ 0 : {ONE.ip}, 1 : {TWO.ip} }} : 8080"
    ),
    "drawn with an offset": nft(
        f"{TO_VIP} numgen random mod 3 offset 10"
        " vmap { 10 : goto selected, 11 : goto second, 12 : goto third }"
    ),
    "a hash of the client": nft(
        f"{TO_VIP} {DNAT} jhash ip saddr mod 2 map {{ 0 : {ONE.ip}, 1 : {TWO.ip} }} : 8080"
    ),
    "a limit that was not reached": nft(f"{TO_VIP} limit rate 100/minute burst 90 packets {HIT}"),
    "a limit, over": nft(
        f"{TO_VIP} limit rate over 100/minute burst 90 packets drop; {TO_VIP} {HIT}"
    ),
    "untracked packets": nft(
        f"{TO_VIP} {HIT}",
        more=chain("raw", RAW, "notrack") + chain("raw-out", RAW_OUTPUT, "notrack"),
    ),
    "untracked is a state": nft(
        f"{TO_VIP} {HIT}",
        "ct state untracked drop",
        more=chain("raw", RAW, f"{TO_VIP} udp dport 80 notrack"),
    ),
    "a verdict map that returns and goes on": nft(
        f"{TO_VIP} jump choose; {TO_VIP} jump second",
        more="chain choose { meta l4proto vmap { tcp : return, udp : continue }; jump selected; }",
    ),
    "a goto does not come back": nft(
        f"{TO_VIP} jump outer; {TO_VIP} jump second",
        more="chain inner { return; }\n chain outer { goto inner; jump selected; }",
    ),
    "a jump in a verdict map comes back": nft(
        f"{TO_VIP} meta l4proto vmap {{ tcp : jump nothing, udp : goto nothing }};"
        f"{TO_VIP} jump second",
        more="chain nothing { counter; }",
    ),
    "a range in a verdict map": nft(
        f"{TO_VIP} tcp dport vmap {{ 1-79 : drop, 80-90 : goto second }}"
    ),
    "the first of two NAT chains wins": nft(
        f"{TO_VIP} {HIT}",
        offset=-5,
        more=f"chain late {{ type nat hook prerouting priority dstnat; {TO_VIP} jump second; }}",
    ),
    "a later chain drops what an earlier one accepted": nft(
        f"{TO_VIP} {HIT}",
        "accept",
        more=chain("later", "forward priority filter + 10", "udp dport 8080 drop"),
    ),
    "a dormant table": nft(f"{TO_VIP} {HIT}")
    + "table ip asleep { flags dormant; chain c { type filter hook forward priority 0; drop; }; }",
    "a mark chooses": nft(
        f"{TO_VIP} meta mark & 0xff == 0x7 {HIT}; {TO_VIP} jump second",
        more=chain("marks", MANGLE, "udp dport 80 meta mark set meta mark | 0x107"),
    ),
    "a mark of the connection": nft(
        f"{TO_VIP} {HIT}",
        "ct mark 5 drop",
        more=chain("marks", MANGLE, "tcp dport 80 ct mark set 5"),
    ),
    "a mark of a map": nft(
        f"{TO_VIP} meta mark 2 {HIT}; {TO_VIP} jump second",
        more=chain("marks", MANGLE, "meta mark set meta l4proto map { tcp : 1, udp : 2 }"),
    ),
    "the interface": nft(f'{TO_VIP} iifname "eth0" {HIT}; {TO_VIP} iifname "pods*" jump second'),
    "the outgoing interface": nft(
        f"{TO_VIP} {HIT}", 'ct state new oifname != "pods0" drop', 'oifname "pods0" masquerade'
    ),
    "refused": nft(
        f"{TO_VIP} {HIT}", "tcp dport 8080 reject with tcp reset; udp dport 8080 reject"
    ),
    "an affinity map": nft(
        f"{TO_VIP} {DNAT} ip saddr map {{ {POD} : {ONE.ip}, {OUTSIDER} : {TWO.ip} }} : 8080"
    ),
    "a set of intervals and concatenations": nft(
        "ip daddr . meta l4proto . th dport"
        f" {{ 172.30.0.0/24 . tcp . 1-100, {VIP} . udp . 80 }} {HIT}"
    ),
    "a set that does not hold it": nft(
        f"ip daddr . th dport != @s {HIT}",
        more=f"set s {{ type ipv4_addr . inet_service; elements = {{ {VIP} . 443 }}; }}",
    ),
    "a redirection": nft("tcp dport 8081 redirect to :8082"),
    "masked addresses": nft(f"ip daddr & 255.255.0.0 == 172.30.0.0 {HIT}"),
    "a length": nft(f"{TO_VIP} meta length > 40 {HIT}"),
    "SYN packets": nft(f"{TO_VIP} tcp flags & (fin|syn|rst|ack) == syn {HIT}"),
    "SYN by its flag": nft(f"{TO_VIP} tcp flags syn / fin,syn,rst,ack {HIT}"),
    "anything but SYN": nft(f"{TO_VIP} tcp flags != syn {HIT}; {TO_VIP} jump second"),
    "one protocol of two": nft(f"{TO_VIP} meta l4proto {{ tcp, icmp }} {HIT}"),
    "the transport protocol by the header": nft(f"{TO_VIP} ip protocol udp {HIT}"),
    "a source rewritten": nft(f"{TO_VIP} {HIT}", post=f"ip daddr {ONE.ip} snat ip to {NODE_IP}"),
    "a source rewritten by what was called": nft(
        f"{TO_VIP} {HIT}", post=f"ct original ip daddr {VIP} ip saddr 10.0.0.0/8 masquerade"
    ),
}
