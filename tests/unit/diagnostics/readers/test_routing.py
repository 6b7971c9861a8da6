"""Addresses, routes and what the node does with an address."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from diagnostics.readers.addresses import read_links
from diagnostics.readers.recent import read_recent
from diagnostics.readers.routes import read_routes, read_rules
from diagnostics.readers.routing import Routing

DATA = Path(__file__).parents[3] / "data/snapshots/ipvs"
ip = ip_address
ADDR = """\
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
    inet 127.0.0.1/8 scope host lo
       valid_lft forever preferred_lft forever
    inet6 ::1/128 scope host
       valid_lft forever preferred_lft forever
2: eth0@if7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1400 qdisc pfifo_fast state UP qlen 1000
    link/ether 02:fc:00:00:00:01 brd ff:ff:ff:ff:ff:ff
    inet 192.0.2.2/24 brd 192.0.2.255 scope global eth0
       valid_lft forever preferred_lft forever
    inet6 fd00::2/64 scope global nodad
       valid_lft forever preferred_lft forever
"""
ROUTE = """\
default via 192.0.2.1 dev eth0 metric 100
10.0.0.0/8 proto static
\tnexthop via 192.0.2.3 dev eth0 weight 1
\tnexthop via 192.0.2.4 dev eth0 weight 1
unreachable 10.66.0.0/16
192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2
default via 192.0.2.9 dev wg0 table 100
"""


@pytest.fixture
def node() -> Routing:
    return Routing(read_links(ADDR), read_routes(ROUTE).routes, [4])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.2", "LOCAL"),
        ("127.9.9.9", "LOCAL"),
        ("192.0.2.255", "BROADCAST"),
        ("255.255.255.255", "BROADCAST"),
        ("0.0.0.0", "BROADCAST"),
        ("224.0.0.5", "MULTICAST"),
        ("8.8.8.8", "UNICAST"),
        ("10.66.1.1", "UNICAST"),
        ("fd00::2", "LOCAL"),
        ("ff02::1", "MULTICAST"),
        ("::", "UNSPEC"),
    ],
)
def test_types_are_those_of_the_table_local(node, address, expected):
    assert node.address_type(ip(address)) == expected


def test_the_longest_prefix_wins_and_tells_interface_and_source(node):
    near, far = node.route(ip("192.0.2.77")), node.route(ip("8.8.8.8"))
    assert (near.device, near.gateway, near.source) == ("eth0", None, ip("192.0.2.2"))
    assert (far.device, far.gateway, far.source) == ("eth0", ip("192.0.2.1"), ip("192.0.2.2"))
    assert node.route(ip("10.66.1.1")).type == "unreachable"
    assert not node.route(ip("10.1.1.1")).certain
    assert node.route(ip("192.0.2.2")).device == "lo"


def test_without_routes_of_a_family_only_its_own_networks_are_known(node):
    assert node.route(ip("fd00::9")).device == "eth0"
    assert node.route(ip("2001:db8::1")) is None
    assert node.address_type(ip("2001:db8::1")) == "UNICAST"


def test_policy_rules_are_followed_in_order():
    rules = read_rules(
        "0: from all lookup local\n9: from all fwmark 0x1/0x1 lookup 100\n"
        "10: from all uidrange 0-9 lookup 100\n32766: from all lookup main\n"
    ).rules
    node = Routing(read_links(ADDR), read_routes(ROUTE).routes, [4], {4: rules})
    assert node.route(ip("8.8.8.8"), mark=0x3).device == "wg0"
    plain = node.route(ip("8.8.8.8"))
    assert (plain.device, plain.certain) == ("eth0", False)


def test_nothing_known_is_unknown():
    node = Routing(None)
    assert node.is_local(ip("10.0.0.1")) is None
    assert node.route(ip("10.0.0.1")) is None
    assert node.local_addresses() == frozenset()


def test_a_recorded_node_is_read_without_problems():
    links = read_links((DATA / "ip-addr.json").read_text())
    routes = read_routes((DATA / "ip-route.json").read_text())
    assert (links.problems, routes.problems) == ((), ())
    node = Routing(links, routes.routes, [4])
    assert node.is_local(ip("192.168.0.2")) is True
    assert node.route(ip("10.0.1.2")).device == "pods0"
    assert node.is_local(ip("172.30.20.1")) is True, "on kube-ipvs0"


def test_json_and_text_agree():
    json_routes = read_routes(
        '[{"dst":"default","gateway":"192.0.2.1","dev":"eth0","metric":100,"flags":[]},'
        '{"dst":"10.0.0.0/8","nexthops":[{"gateway":"192.0.2.3","dev":"eth0","weight":1,"flags":[]},'
        '{"gateway":"192.0.2.4","dev":"eth0","weight":1,"flags":[]}]},'
        '{"type":"unreachable","dst":"10.66.0.0/16"},'
        '{"dst":"192.0.2.0/24","dev":"eth0","prefsrc":"192.0.2.2"},'
        '{"dst":"default","gateway":"192.0.2.9","dev":"wg0","table":"100"}]'
    )
    assert json_routes == read_routes(ROUTE)
    text = "0:\tfrom all lookup local\n5:\tnot from 10.0.0.0/8 fwmark 0x1/0x2 lookup 100\n"
    json_rules = (
        '[{"priority":0,"src":"all","table":"local"},{"priority":5,"not":null,"src":"10.0.0.0",'
        '"srclen":8,"fwmark":"0x1","fwmask":"0x2","table":"100"}]'
    )
    assert read_rules(json_rules) == read_rules(text)


def test_bad_lines_are_named():
    assert [p.line for p in read_links(f"what\n{ADDR}").problems] == [1]
    assert [p.line for p in read_routes("x y z\ndefault dev eth0\n").problems] == [1]
    assert [p.line for p in read_rules("nonsense\n").problems] == [1]
    assert read_links('[{"ifname": 5}, 7]').problems


def test_recent_lists_are_told_apart():
    text = "==> /proc/net/xt_recent/KUBE-SEP-A <==\nsrc=10.0.0.2 ttl: 64 last_seen: 1\n==> B <==\n"
    found = read_recent(f"src=1.1.1.1\n{text}")
    assert found.lists == {"KUBE-SEP-A": frozenset({ip("10.0.0.2")}), "B": frozenset()}
    assert [p.line for p in found.problems] == [1]
