"""Looking up a key finds the one element that covers it, as trying all of them does."""

from __future__ import annotations

import gc
import random
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from diagnostics.nftables.collector import paused_collector
from diagnostics.nftables.elements import Element, bits, read_elements
from diagnostics.nftables.index import SetIndex, literal_index
from diagnostics.nftables.model import NamedSet
from tests.unit.diagnostics.nftables.rulesets import from_json, from_text

V4_KEY = ("ipv4_addr", "inet_proto", "inet_service")


def index(text: str, *types: str, data: tuple[str, ...] = ()) -> SetIndex:
    return SetIndex(read_elements(text, types, data), types)


def found(text: str, types: tuple[str, ...], *key: object) -> str | None:
    element = index(text, *types, data=("verdict",)).lookup(key)  # type: ignore[arg-type]
    return element.text if element else None


def covers(element: Element, key: tuple[int, ...]) -> bool:
    return all(low <= k <= high for (low, high), k in zip(element.spans or (), key, strict=True))


def _random_field(chance: random.Random, kind: str) -> str:
    if kind == "inet_proto":
        return chance.choice(["tcp", "udp", "sctp"])
    if kind == "inet_service":
        low = chance.randrange(1, 50)
        return chance.choice([str(low), f"{low}-{low + chance.randrange(1, 9)}"])
    address = IPv4Address(0x0A000000 + chance.randrange(64))
    length = chance.randrange(27, 33)
    prefix = str(ip_network(f"{address}/{length}", strict=False))
    return chance.choice([str(address), prefix, f"{address}-{address + chance.randrange(1, 9)}"])


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("types", [V4_KEY, ("ipv4_addr",), ("inet_service", "ipv4_addr")])
def test_a_lookup_agrees_with_trying_every_element(seed: int, types: tuple[str, ...]) -> None:
    chance = random.Random(seed)
    lines = [
        " . ".join(_random_field(chance, kind) for kind in types)
        for _ in range(chance.choice([1, 5, 40]))
    ]
    elements = read_elements(", ".join(lines), types)
    assert all(element.spans for element in elements)
    made = SetIndex(elements, types)
    hits = 0
    for _ in range(300):
        key = tuple(
            chance.choice([6, 17, 132])
            if kind == "inet_proto"
            else chance.randrange(60)
            if kind == "inet_service"
            else 0x0A000000 + chance.randrange(80)
            for kind in types
        )
        expected = [element for element in elements if covers(element, key)]
        got = made.lookup(key)
        assert (got is None) == (not expected)
        assert got is None or covers(got, key)
        hits += got is not None
    assert hits or len(lines) < 6


def test_intervals_that_overlap_in_one_field_are_all_followed() -> None:
    text = "10.0.0.0/8 . tcp . 80 : drop, 10.1.0.0/16 . tcp . 443 : accept"
    assert found(text, V4_KEY, "10.1.2.3", 6, 80) == "10.0.0.0/8 . tcp . 80 : drop"
    assert found(text, V4_KEY, "10.1.2.3", 6, 443) == "10.1.0.0/16 . tcp . 443 : accept"
    assert found(text, V4_KEY, "10.2.2.3", 6, 443) is None


@pytest.mark.parametrize(
    "key",
    [
        ("10.96.0.53", "udp", 53),
        (ip_address("10.96.0.53"), 17, "53"),
        (bytes([10, 96, 0, 53]), b"\x11", b"\x00\x35"),
        (0x0A600035, 17, "domain"),
    ],
)
def test_a_key_may_be_text_packed_numbers_or_addresses(key: tuple[object, ...]) -> None:
    services = from_json("kpctl-layout").tables["ip", "kube-proxy"].sets["service-ips"]
    element = services.lookup(key)  # type: ignore[arg-type]
    assert element is not None
    assert element.data == {"goto": {"target": "cluster-ip-lb-3"}}
    assert element.comment == "kube-system/dns:dns"
    cited = '10.96.0.53 . udp . 53 comment "kube-system/dns:dns" : goto cluster-ip-lb-3'
    assert element.text == cited


def test_a_map_returns_a_tuple_for_a_concatenation() -> None:
    endpoints = from_text("kpctl-layout.txt").tables["ip", "kube-proxy"].sets["endpoints"]
    assert endpoints.kind == "map"
    assert endpoints.key_types == ("ipv4_addr", "inet_proto", "inet_service", "integer")
    element = endpoints.lookup(("10.96.0.10", "tcp", 80, 1))
    assert element is not None
    assert element.data == ("10.244.1.5", 8080)
    assert endpoints.lookup(("10.96.0.10", "tcp", 80, 2)) is None


@pytest.mark.parametrize(
    "key",
    [
        ("10.96.0.53", "udp"),
        ("10.96.0.53", "udp", 1 << 16),
        ("10.96.0.53", "udp", "no-such-service"),
        ("fd00::1", "udp", 53),
        (IPv6Address("fd00::1"), "udp", 53),
        (b"\0" * 16, "udp", 53),
        ("not an address", "udp", 53),
        (),
    ],
)
def test_a_key_that_cannot_be_in_the_set_is_not_found(key: tuple[object, ...]) -> None:
    services = from_json("kpctl-layout").tables["ip", "kube-proxy"].sets["service-ips"]
    assert services.lookup(key) is None  # type: ignore[arg-type]


def test_timeouts_and_what_is_left_of_them_are_seconds() -> None:
    banned = from_text("third-parties.txt").tables["inet", "firewalld"].sets["crowdsec"]
    assert banned.timeout == 86400
    element = banned.lookup(("1.2.3.77",))
    assert element is not None
    assert (element.timeout, element.expires, element.comment) == (3600, 3599, "x, y }")
    assert banned.lookup(("5.6.7.21",)) is None


def test_interface_names_match_whole_or_by_their_beginning() -> None:
    rules = '"eth0" : accept, "veth*" : drop'
    assert found(rules, ("ifname",), "eth0") == '"eth0" : accept'
    assert found(rules, ("ifname",), "vethabc") == '"veth*" : drop'
    assert found(rules, ("ifname",), "eth01") is None
    assert found(rules, ("ifname",), "an-interface-name-that-is-too-long") is None


def test_a_catch_all_counts_only_when_nothing_else_does() -> None:
    rules = "10.0.0.1 : accept, 10.0.1.0/24 : return, * : drop"
    assert found(rules, ("ipv4_addr",), "10.0.0.1") == "10.0.0.1 : accept"
    assert found(rules, ("ipv4_addr",), "10.0.1.9") == "10.0.1.0/24 : return"
    assert found(rules, ("ipv4_addr",), "10.0.0.2") == "* : drop"


def test_elements_that_cannot_be_read_are_kept_apart() -> None:
    made = index("10.0.0.1, what is . this, 10.0.0.2 strange words { x, y }, 10.0.0.3", "ipv4_addr")
    assert made.lookup(("10.0.0.1",))
    assert made.lookup(("10.0.0.3",))
    assert [element.text for element in made.opaque] == [
        "what is . this",
        "10.0.0.2 strange words { x, y }",
    ]


@pytest.mark.parametrize(
    ("value", "types", "inside", "outside"),
    [
        ("tcp", ("inet_proto",), (6,), (17,)),
        (80, ("inet_service",), ("http",), (81,)),
        ({"prefix": {"addr": "fd00::", "len": 8}}, ("ipv6_addr",), ("fd12::1",), ("fe80::1",)),
        ({"range": [80, 90]}, ("inet_service",), (90,), (91,)),
        ({"set": ["local", "broadcast"]}, ("fib_addrtype",), ("local",), ("unicast",)),
        ({"set": [{"concat": ["eth0", "1.1.1.1"]}]}, ("ifname", "ipv4_addr"),
         ("eth0", "1.1.1.1"), ("eth1", "1.1.1.1")),
        (["established", "related"], ("ct_state",), (6,), (2,)),
        ("00:11:22:33:44:55", ("ether_addr",), (0x1122334455,), (0,)),
    ],
)  # fmt: skip
def test_what_stands_in_a_rule_is_looked_up_alike(value, types, inside, outside) -> None:
    made = literal_index(value, types)
    assert made.lookup(inside) is not None
    assert made.lookup(outside) is None


def test_flags_are_bits() -> None:
    assert bits(["established", "related"], "ct_state") == 6
    assert bits("dnat", "ct_status") == 32
    assert bits(["new", "no such state"], "ct_state") is None


def test_an_anonymous_map_returns_its_data() -> None:
    data = {"set": [[0, {"concat": ["10.180.0.1", 80]}], [1, {"concat": ["10.180.0.2", 80]}]]}
    element = literal_index(data, ("integer",), ("ipv4_addr", "inet_service")).lookup((1,))
    assert element is not None
    assert element.data == ("10.180.0.2", 80)


def test_the_index_of_a_set_is_built_once() -> None:
    item = NamedSet("s", "set", ("mark",), source="0x10, 0x20-0x2f")
    assert item.index is item.index
    assert item.lookup((0x25,)) is not None
    assert item.lookup((0x30,)) is None


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_left_as_it_was(was_on: bool) -> None:
    if not was_on:
        gc.disable()
    try:
        with paused_collector():
            assert not gc.isenabled()
        assert gc.isenabled() is was_on
    finally:
        gc.enable()
