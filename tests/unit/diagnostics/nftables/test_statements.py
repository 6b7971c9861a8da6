"""Statements that recorded rulesets do not hold: other versions of nft, other spellings."""

from __future__ import annotations

import pytest

from diagnostics.nftables.constants import priority_number
from diagnostics.nftables.json_reader import read_json
from diagnostics.nftables.model import Rule
from diagnostics.nftables.rules import read_statements
from diagnostics.nftables.text_reader import read_text

L4PROTO = {"meta": {"key": "l4proto"}}
FLAGS = {"payload": {"protocol": "tcp", "field": "flags"}}


def match(left: object, right: object, op: str = "==") -> dict[str, object]:
    return {"match": {"op": op, "left": left, "right": right}}


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("meta l4proto 6", match(L4PROTO, "tcp")),
        ("meta l4proto icmpv6", match(L4PROTO, "ipv6-icmp")),
        ("tcp dport ssh", match({"payload": {"protocol": "tcp", "field": "dport"}}, 22)),
        ("tcp flags & (fin | syn) == fin | syn",
         match({"&": [FLAGS, ["fin", "syn"]]}, ["fin", "syn"])),
        ("ct status ! dnat", match({"ct": {"key": "status"}}, "dnat", "!")),
        ("ct original ip daddr 10.0.0.1",
         match({"ct": {"key": "ip daddr", "dir": "original"}}, "10.0.0.1")),
        ("fib daddr oif exists", match({"fib": {"result": "oif", "flags": ["daddr"]}}, True)),
        ("queue flags bypass,fanout to 1-3",
         {"queue": {"num": {"range": [1, 3]}, "flags": ["bypass", "fanout"]}}),
        ("queue num 5 bypass", {"queue": {"num": 5, "flags": "bypass"}}),
        ("reject", {"reject": {"type": "icmp", "expr": "port-unreachable"}}),
        ("reject with icmp type net-unreachable",
         {"reject": {"type": "icmp", "expr": "net-unreachable"}}),
        ("dnat to [fd00::1]:80", {"dnat": {"addr": "fd00::1", "port": 80}}),
        ("dnat to :8080", {"dnat": {"port": 8080}}),
        ("redirect to :1-9", {"redirect": {"port": {"range": [1, 9]}}}),
        ("tproxy ip to 127.0.0.1:8080",
         {"tproxy": {"family": "ip", "addr": "127.0.0.1", "port": 8080}}),
        ("flow add @ft", {"flow": {"op": "add", "flowtable": "@ft"}}),
        ("limit rate 10 kbytes/second burst 1 mbytes",
         {"limit": {"rate": 10, "burst": 1, "per": "second", "rate_unit": "kbytes",
                    "burst_unit": "mbytes"}}),
        ("update @recent { ip saddr timeout 1m limit rate over 5/minute }",
         {"set": {"op": "update", "set": "@recent",
                  "elem": {"elem": {"val": {"payload": {"protocol": "ip", "field": "saddr"}},
                                    "timeout": 60}},
                  "stmt": [{"limit": {"rate": 5, "burst": 5, "per": "minute", "inv": True}}]}}),
        ('xt match "comment"', {"opaque": "xt match comment"}),
        ("meter m { ip saddr limit rate 1/second }",
         {"opaque": "meter m { ip saddr limit rate 1/second }"}),
        ("ip saddr", {"opaque": "ip saddr"}),
        ("ip nonsense 5", {"opaque": "ip nonsense 5"}),
    ],
)  # fmt: skip
def test_a_statement_in_text(text: str, statement: object) -> None:
    assert read_statements(text, "ip") == (statement,)


@pytest.mark.parametrize(
    ("printed", "statement"),
    [
        ({"reject": None}, {"reject": {"type": "icmpx", "expr": "port-unreachable"}}),
        ({"masquerade": {}}, {"masquerade": None}),
        ({"xt": None}, {"opaque": "xt"}),
        (match({"ct": {"key": "daddr", "dir": "original", "family": "ip"}}, "10.0.0.1"),
         match({"ct": {"key": "ip daddr", "dir": "original"}}, "10.0.0.1")),
        (match({"numgen": {"mode": "inc", "mod": 2}}, 0),
         match({"numgen": {"mode": "inc", "mod": 2, "offset": 0}}, 0)),
        (match(FLAGS, {"|": [{"|": ["fin", "syn"]}, "ack"]}), match(FLAGS, ["fin", "syn", "ack"])),
        ({"dnat": {"addr": "10.0.0.1", "flags": ["random"], "type_flags": "concat"}},
         {"dnat": {"addr": "10.0.0.1", "flags": "random"}}),
        ({"limit": {"rate": 5, "per": "second", "burst": 5, "burst_unit": "packets"}},
         {"limit": {"rate": 5, "per": "second", "burst": 5}}),
        ({"unheard": {"of": 1}}, {"unheard": {"of": 1}}),
        ("ip ttl set 5",
         {"mangle": {"key": {"payload": {"protocol": "ip", "field": "ttl"}}, "value": 5}}),
        (7, {"opaque": "7"}),
    ],
)  # fmt: skip
def test_a_statement_in_json(printed: object, statement: object) -> None:
    assert read_statements([printed], "inet") == (statement,)


@pytest.mark.parametrize(
    "text",
    [
        "tcp dport 22 queue flags bypass to 5",
        "dnat to [fd00::1]:80 persistent",
        "tproxy ip to 127.0.0.1:8080",
        "flow add @ft",
        "quota over 10 mbytes used 3 kbytes drop",
        "limit rate 10 kbytes/second burst 1 mbytes",
        "update @m { ip saddr timeout 10m counter packets 1 bytes 2 : ip daddr . tcp dport }",
        "socket transparent 1 rt ip nexthop 10.0.0.1 accept",
        "ct timeout set \"short\" ct zone 5",
        "jhash ip saddr mod 4 seed 0x5 offset 2 vmap { 2 : accept, 3 : drop }",
    ],
)  # fmt: skip
def test_text_becomes_itself_again(text: str) -> None:
    assert Rule(None, 1, "inet", read_statements(text, "inet")).text == text


@pytest.mark.parametrize(
    ("text", "family", "number"),
    [
        ("dstnat - 10", "ip", -110),
        ("srcnat", "inet", 100),
        ("mangle + 5", "ip6", -145),
        ("raw", "ip", -300),
        ("security", "ip", 50),
        ("-500", "ip", -500),
        ("filter", "bridge", -200),
        ("??", "ip", 0),
    ],
)
def test_priorities_are_numbers(text: str, family: str, number: int) -> None:
    assert priority_number(text, family) == number


def test_types_and_devices_of_newer_versions() -> None:
    of = {"family": "inet", "table": "t"}
    saddr = {"payload": {"protocol": "ip", "field": "saddr"}}
    concat = {"concat": [saddr, L4PROTO]}
    hooked = {"type": "filter", "hook": "ingress", "prio": 0, "dev": ["eth0", "eth1"]}
    ruleset = read_json(
        str(
            {
                "nftables": [
                    {"table": {"family": "inet", "name": "t", "flags": ["dormant"]}},
                    {"map": {**of, "name": "m", "type": {"typeof": concat}, "map": ["a", "b"]}},
                    {"chain": {**of, "name": "c", **hooked}},
                ]
            }
        ).replace("'", '"')
    )
    table = ruleset.tables["inet", "t"]
    assert table.flags == {"dormant"}
    assert table.sets["m"].key_types == ("ipv4_addr", "inet_proto")
    assert table.sets["m"].data_types == ("a", "b")
    assert (table.chains["c"].device, table.chains["c"].policy) == ("eth0, eth1", "accept")


LISTING = """\
# Warning: managed by something
table inet t { # handle 3
  comment "a table"
  flags dormant
  map m { # handle 5
    typeof ip saddr : interval ip daddr
    size 65535  # count 1
    flags interval
    elements = { 10.0.0.0/24 : 10.1.0.0/24,
      10.2.0.0/24 : 10.3.0.0/24 }
  }

  flowtable ft {
    hook ingress priority filter
    devices = { eth0, eth1 }
  }

  chain c { # handle 7
    comment "a chain"
    type filter hook ingress devices = { "eth0", "eth1" } priority filter; policy drop;
    tcp dport {
      22,
      80
    } accept comment "two; lines" # handle 9
  }
}
"""


def test_a_listing_of_a_newer_version_written_by_hand() -> None:
    ruleset = read_text(LISTING)
    assert ruleset.gaps == ()
    table = ruleset.tables["inet", "t"]
    assert (table.comment, table.flags) == ("a table", {"dormant"})
    item = table.sets["m"]
    assert (item.key_types, item.data_types, item.size) == (("ipv4_addr",), ("ipv4_addr",), 65535)
    element = item.lookup(("10.2.0.7",))
    assert element is not None
    assert element.data == {"prefix": {"addr": "10.3.0.0", "len": 24}}
    chain = table.chains["c"]
    assert (chain.device, chain.policy, chain.comment) == ("eth0, eth1", "drop", "a chain")
    (rule,) = chain.rules
    assert (rule.handle, rule.comment) == (9, "two; lines")
    assert rule.expressions[0] == match(
        {"payload": {"protocol": "tcp", "field": "dport"}}, {"set": [22, 80]}
    )


def test_what_kpctl_prints_as_a_script_is_read_like_a_listing() -> None:
    script = "table ip t\ndelete table ip t\ntable ip t {\n\tchain c {\n\t\tdrop\n\t}\n}\n"
    ruleset = read_text(script)
    assert ruleset.gaps == ()
    assert ruleset.tables["ip", "t"].chains["c"].rules[0].expressions == ({"drop": None},)
