"""What single matches and targets say of the first packet of a connection, and when only maybe."""

from __future__ import annotations

from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path

import pytest

from diagnostics.snapshot.open import open_snapshot
from diagnostics.trace.build import node_of
from diagnostics.trace.packet import TCP, UDP, Packet
from diagnostics.trace.report import CERTAIN, DNAT, DROP, MAYBE, NONE, Trace, trace
from proxy.model.addresses import IPFamily

CLIENT, VIP, BACKEND, OWN = "203.0.113.9", "10.96.0.10", "10.180.0.1", "192.0.2.1"
ADDRESSES = (
    '[{"ifname": "eth0", "flags": ["UP"], "addr_info": [{"family": "inet", "local": "192.0.2.1",'
    ' "prefixlen": 24}]}, {"ifname": "eth1", "flags": ["UP"], "addr_info": [{"family": "inet",'
    ' "local": "198.51.100.1", "prefixlen": 24}]}]'
)
ROUTES = '[{"dst": "default", "gateway": "192.0.2.254", "dev": "eth0", "flags": []}]'
YES, NO, PERHAPS = "yes", "no", "perhaps"


class Node:
    """A node whose dumps a test writes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.write("ip-addr.json", ADDRESSES)
        self.write("ip-route.json", ROUTES)

    def write(self, name: str, text: str) -> None:
        (self._directory / name).write_text(text)

    def follow(self, protocol: int = TCP, target: str = VIP, *, mark: int = 0) -> Trace:
        """Follow a packet from outside that comes in on eth0."""
        node = node_of(open_snapshot(self._directory).node(), IPFamily.IPV4)
        packet = Packet(ip_address(CLIENT), ip_address(target), protocol, 80, iif="eth0", mark=mark)
        return trace(node, packet, from_node=False)

    def is_dropped(self, protocol: int = TCP, target: str = VIP, *, mark: int = 0) -> str:
        found = self.follow(protocol, target, mark=mark)
        assert sum(end.branch.probability for end in found.ends) == 1
        if found.certainty == MAYBE:
            return PERHAPS
        return YES if found.verdict == DROP else NO


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def iptables(*forward: str, nat: str = "", raw: str = "", hook: str = "FORWARD") -> str:
    """iptables-save text: the packet is sent to a backend, and then meets *forward*."""
    dnat = nat or f"-A PREROUTING -d {VIP}/32 -p tcp -j DNAT --to-destination {BACKEND}:8080"
    return "\n".join(
        [
            *("*raw", ":PREROUTING ACCEPT [0:0]", *filter(None, [raw]), "COMMIT"),
            *("*nat", ":PREROUTING ACCEPT [0:0]", dnat, "COMMIT"),
            *("*filter", f":{hook} ACCEPT [0:0]", *forward, "COMMIT", ""),
        ]
    )


XTABLES = {
    "-p tcp -m tcp --dport 8080": YES,
    "-p udp -m udp --dport 8080": NO,
    "! -p udp": YES,
    "-m conntrack --ctstate RELATED,ESTABLISHED": NO,
    "-m conntrack --ctstate NEW,DNAT": YES,
    "-m conntrack ! --ctstate INVALID": YES,
    "-m state --state INVALID": NO,
    "-m conntrack --ctstatus CONFIRMED,ASSURED": NO,
    "-m conntrack --ctorigdst 10.96.0.0/12": YES,
    "-m conntrack ! --ctorigdst 10.96.0.0/12": NO,
    "-m conntrack --ctorigsrc 203.0.113.0/24": YES,
    "-m conntrack --ctorigdstport 70:90": YES,
    f"-m conntrack --ctreplsrc {BACKEND}": YES,
    f"-m conntrack --ctrepldst {CLIENT}": YES,
    "-m conntrack --ctreplsrcport 8080": YES,
    "-m conntrack --ctproto 6": YES,
    "-m conntrack --ctdir REPLY": NO,
    "-m conntrack --ctexpire 10": PERHAPS,
    "-p tcp -m multiport --dports 22,8000:9000": YES,
    "-p tcp -m multiport ! --dports 22,8000:9000": NO,
    "-p tcp -m multiport --sports 22": PERHAPS,
    "-m iprange --src-range 203.0.113.1-203.0.113.20": YES,
    "-m iprange ! --src-range 203.0.113.1-203.0.113.20": NO,
    "-m addrtype --src-type LOCAL": NO,
    "-m addrtype ! --dst-type LOCAL": YES,
    "-m limit --limit 1/min --limit-burst 2": YES,
    "-m hashlimit --hashlimit-upto 1/min --hashlimit-mode srcip --hashlimit-name a": YES,
    "-m hashlimit --hashlimit-above 1/min --hashlimit-mode srcip --hashlimit-name a": PERHAPS,
    "-m physdev --physdev-is-in": NO,
    "-m physdev ! --physdev-is-bridged": YES,
    "-m physdev --physdev-in eth0": NO,
    "-m physdev --physdev-in veth1": PERHAPS,
    "-m owner --uid-owner 0": NO,
    "-m owner ! --uid-owner 0": YES,
    "-m set --match-set known src": YES,
    "-m set ! --match-set known src": NO,
    "-m set --match-set known dst": NO,
    "-m set --match-set known dst --return-nomatch": PERHAPS,
    "-m set --match-set known src --packets-gt 5": PERHAPS,
    "-m set --match-set missing src": PERHAPS,
    "-m recent --name met --rcheck --seconds 60": YES,
    "-m recent --name met --update": YES,
    "-m recent --name met ! --rcheck": NO,
    "-m recent --name met --rcheck --hitcount 5": PERHAPS,
    "-m recent --name met --rcheck --rdest": NO,
    "-m recent --name new --set": YES,
    "-m recent --name masked --rcheck --mask 255.255.255.0": YES,
    "-m u32 --u32 6&0xFF=0x6": PERHAPS,
    "-m bpf --bytecode 1,6": PERHAPS,
    "-m connlimit --connlimit-above 3": PERHAPS,
    "-m quota --quota 100": PERHAPS,
    "-m time --timestart 01:00": PERHAPS,
    "-m socket": PERHAPS,
    "-m cgroup --cgroup 3": PERHAPS,
    "-m string --string x --algo bm": PERHAPS,
}


@pytest.mark.parametrize(("match", "expected"), XTABLES.items())
def test_an_iptables_match(node: Node, match: str, expected: str) -> None:
    node.write("ipset-save.txt", f"create known hash:ip family inet\nadd known {CLIENT}\n")
    lists = {"met": CLIENT, "masked": "203.0.113.0"}
    text = [f"==> /proc/net/xt_recent/{name} <==\nsrc={ip} ttl: 64\n" for name, ip in lists.items()]
    node.write("xt-recent.txt", "".join(text))
    node.write("iptables-save.txt", iptables(f"-A FORWARD {match} -j DROP"))
    assert node.is_dropped() == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    {
        "LOG --log-prefix x": NO,
        "NFLOG --nflog-group 2": NO,
        "TRACE": NO,
        "TEE --gateway 192.0.2.7": NO,
        "TCPMSS --clamp-mss-to-pmtu": NO,
        "CHECKSUM --checksum-fill": NO,
        "SET --add-set known src": NO,
        "CT --zone 3": NO,
        "NFQUEUE --queue-num 3": PERHAPS,
        "TPROXY --on-port 80 --on-ip 127.0.0.1 --tproxy-mark 1": PERHAPS,
        "CLUSTERIP --new": PERHAPS,
        "MISSING-CHAIN": PERHAPS,
        "FORWARD": PERHAPS,
    }.items(),
)
def test_an_iptables_target_before_an_accept(node: Node, target: str, expected: str) -> None:
    rules = (f"-A FORWARD -j {target}", "-A FORWARD -d 192.0.2.77/32 -j DROP")
    node.write("iptables-save.txt", iptables(*rules))
    assert node.is_dropped() == expected


def test_without_a_connection_nothing_is_translated(node: Node) -> None:
    rules = ("-A FORWARD -m conntrack --ctstate NEW -j DROP",)
    node.write("iptables-save.txt", iptables(*rules, raw="-A PREROUTING -j CT --notrack"))
    assert (node.follow().verdict, node.follow().certainty) == (NONE, CERTAIN)
    untracked = "-A FORWARD -m conntrack --ctstate UNTRACKED -j DROP"
    node.write("iptables-save.txt", iptables(untracked, raw="-A PREROUTING -j NOTRACK"))
    assert node.is_dropped() == YES


@pytest.mark.parametrize(
    ("target", "where"),
    [
        ("NETMAP --to 10.180.0.0/24", "10.180.0.10:80"),
        ("REDIRECT --to-ports 8082", f"{OWN}:8082"),
        ("DNAT --to-destination 10.180.0.3", "10.180.0.3:80"),
    ],
)
def test_where_a_target_sends_packets(node: Node, target: str, where: str) -> None:
    node.write("iptables-save.txt", iptables(nat=f"-A PREROUTING -p tcp -j {target}"))
    (found,) = node.follow().destinations
    assert (f"{found.address}:{found.port}", found.probability) == (where, 1)


@pytest.mark.parametrize(("negation", "share"), [("", Fraction(1, 3)), ("! ", Fraction(2, 3))])
def test_packets_taken_in_turn_have_the_share_of_the_turn(
    node: Node, negation: str, share: Fraction
) -> None:
    nat = f"-A PREROUTING -p tcp -m statistic --mode nth {negation}--every 3 --packet 0 -j DNAT"
    node.write("iptables-save.txt", iptables(nat=f"{nat} --to-destination {BACKEND}:8080"))
    assert [one.probability for one in node.follow().destinations] == [share]


def test_local_addresses_of_other_interfaces_are_not_local_to_one(node: Node) -> None:
    match = "-A INPUT -m addrtype --dst-type LOCAL --limit-iface-in -j DROP"
    node.write("iptables-save.txt", iptables(match, hook="INPUT"))
    assert node.is_dropped(target=OWN) == YES
    assert node.is_dropped(target="198.51.100.1") == NO


def nftables(*forward: str, before: str = "") -> str:
    """A listing: the packet is sent to a backend, and then meets *forward*."""
    body = "\n".join(forward)
    return f"""
table inet t {{
	set clients {{
		type ipv4_addr
		elements = {{ {CLIENT} }}
	}}
	chain early {{
		type filter hook prerouting priority raw; policy accept;
		{before}
	}}
	chain dnat {{
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr {VIP} tcp dport 80 dnat ip to {BACKEND}:8080
	}}
	chain nothing {{
		return
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		{body}
	}}
}}
"""


NFT = {
    "tcp dport 8080 drop": YES,
    "udp dport 8080 drop": NO,
    "udp dport != 53 drop": NO,
    "th dport 8080 drop": YES,
    "icmp type != 3 drop": NO,
    "icmpv6 type 128 drop": NO,
    "ip saddr 203.0.113.0/24 drop": YES,
    "ip saddr != 203.0.113.0/24 drop": NO,
    "ip6 saddr != fd00::1 drop": NO,
    "ip daddr & 255.0.0.0 == 10.0.0.0 drop": YES,
    "ip saddr @clients drop": YES,
    "ip saddr != @clients drop": NO,
    "ip saddr @missing drop": PERHAPS,
    "ct state new drop": YES,
    "ct state != new drop": NO,
    "ct state ! new drop": NO,
    "ct state established,related drop": NO,
    "ct state invalid drop": NO,
    "ct state & (established | related) == 0 drop": YES,
    "ct state vmap { established : accept, new : drop }": YES,
    "ct status dnat drop": YES,
    "ct status ! dnat drop": NO,
    "ct status & dnat == 0 drop": NO,
    "ct status != dnat drop": YES,
    "ct status snat drop": NO,
    "ct status confirmed drop": NO,
    f"ct original ip daddr {VIP} drop": YES,
    "meta l4proto tcp ct original proto-dst 80 drop": YES,
    f"ct reply ip saddr {BACKEND} drop": YES,
    f"ct reply ip daddr {CLIENT} drop": YES,
    "ct direction reply drop": NO,
    "ct mark 7 drop": NO,
    'ct helper "ftp" drop': PERHAPS,
    "fib daddr type local drop": NO,
    "fib daddr type != local drop": YES,
    "fib saddr . iif oif missing drop": NO,
    "fib saddr . iif oif exists drop": YES,
    "fib saddr oif missing drop": NO,
    'fib saddr oifname "eth0" drop': YES,
    "limit rate 10/second drop": YES,
    "limit rate over 10/second drop": NO,
    "quota 100 mbytes drop": PERHAPS,
    "ct count over 20 drop": PERHAPS,
    "add @clients { ip saddr limit rate 1/second } drop": PERHAPS,
    "add @clients { ip saddr } drop": YES,
    "meta mark & 0xff == 0x7 drop": YES,
    "meta mark 0x107 drop": YES,
    "meta skuid 0 drop": NO,
    "meta length > 40 drop": PERHAPS,
    "ether saddr 02:00:00:00:00:01 drop": PERHAPS,
    "@nh,96,32 0xcb007109 drop": PERHAPS,
    "tcp flags syn drop": YES,
    "tcp flags syn / fin,syn,rst,ack drop": YES,
    "tcp flags & (fin | syn | rst | ack) == syn drop": YES,
    "tcp flags != syn drop": NO,
    "tcp flags == fin,syn drop": NO,
    "tcp flags { syn, fin } drop": YES,
    "queue to 3": PERHAPS,
    "synproxy mss 1460 drop": PERHAPS,
    "jump nothing": NO,
    "goto nothing": NO,
    "jump missing": PERHAPS,
    "jump forward": PERHAPS,
    "meta l4proto vmap { tcp : jump nothing, udp : drop }": NO,
    "meta l4proto vmap { tcp : continue, udp : drop }": NO,
    "meta l4proto vmap { tcp : drop }": YES,
    "flow add @f": NO,
    'log prefix "x" drop': YES,
}


@pytest.mark.parametrize(("rule", "expected"), NFT.items())
def test_an_nftables_rule(node: Node, rule: str, expected: str) -> None:
    node.write("nft-ruleset.txt", nftables(rule))
    assert node.is_dropped(mark=0x107) == expected


def test_without_a_connection_nftables_translates_nothing(node: Node) -> None:
    node.write("nft-ruleset.txt", nftables("ct state untracked drop", before="notrack"))
    assert node.is_dropped() == YES
    node.write("nft-ruleset.txt", nftables("ct status dnat drop", before="notrack"))
    assert (node.follow().verdict, node.follow().certainty) == (NONE, CERTAIN)


def test_a_port_after_a_map_of_addresses_is_where_packets_go(node: Node) -> None:
    choice = "numgen random mod 2 map { 0 : 10.180.0.1, 1 : 10.180.0.2 }:8080"
    listing = nftables().replace(f"{BACKEND}:8080", choice)
    node.write("nft-ruleset.txt", listing)
    found = node.follow()
    assert found.verdict == DNAT
    assert "drawn at random" in [step.why for step in found.steps]
    assert [(one.port, one.probability) for one in found.destinations] == [
        (8080, Fraction(1, 2))
    ] * 2


def test_a_hash_is_told_to_be_one(node: Node) -> None:
    choice = "jhash ip saddr mod 2 map { 0 : 10.180.0.1, 1 : 10.180.0.2 }"
    node.write("nft-ruleset.txt", nftables().replace(f"{BACKEND}:8080", choice))
    found = node.follow()
    assert [one.probability for one in found.destinations] == [Fraction(1, 2)] * 2
    assert any("always the same" in step.why for step in found.steps)


def test_numbers_that_only_parts_of_are_used_share_by_the_size_of_the_parts(node: Node) -> None:
    choice = "numgen random mod 100 map { 0-24 : 10.180.0.1, 25-99 : 10.180.0.2 }"
    node.write("nft-ruleset.txt", nftables().replace(f"{BACKEND}:8080", choice))
    found = node.follow()
    assert [one.probability for one in found.destinations] == [Fraction(1, 4), Fraction(3, 4)]
    assert len(found.ends) == 2


def test_many_undecidable_rules_cost_little(node: Node) -> None:
    rules = [f"-A FORWARD -m u32 --u32 {number} -j MARK --set-mark 1" for number in range(60)]
    node.write("iptables-save.txt", iptables(*rules, "-A FORWARD -m u32 --u32 6 -j DROP"))
    found = node.follow()
    assert found.certainty == MAYBE
    assert len(found.ends) <= 4
    assert sum(one.probability for one in found.destinations) == 1


def test_a_dormant_table_does_nothing(node: Node) -> None:
    asleep = nftables("drop").replace("table inet t {", "table inet t {\n\tflags dormant")
    node.write("nft-ruleset.txt", asleep)
    assert node.follow(UDP).verdict == NONE


@pytest.mark.parametrize(
    ("scheduler", "shares"),
    {
        "rr": ["1/2", "1/2"],
        "wrr": ["1/4", "3/4"],
        "sh": ["1/4", "3/4"],
        "mh": ["1/4", "3/4"],
        "fo": ["1"],
        "ovf": ["1"],
    }.items(),
)
def test_an_ipvs_scheduler_shares_connections(
    node: Node, scheduler: str, shares: list[str]
) -> None:
    reals = {"10.180.0.1": 1, "10.180.0.2": 3, "10.180.0.3": 0}
    lines = [f"-a -t {OWN}:80 -r {ip}:80 -m -w {weight}\n" for ip, weight in reals.items()]
    node.write("ipvsadm-save.txt", f"-A -t {OWN}:80 -s {scheduler} -p 60\n" + "".join(lines))
    found = node.follow(target=OWN)
    assert [str(one.probability) for one in found.destinations] == shares
    words = " ".join(step.why for step in found.steps)
    assert "a client that called in the last 60 s stays" in words
    assert ("always the same for one client" in words) == (scheduler in ("sh", "mh"))
