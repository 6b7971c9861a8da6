"""What is said of rules: why they held, what they answer, which element decided; none is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.snapshot.open import open_snapshot
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.replies import Surroundings
from diagnostics.trace.report import CERTAIN, DNAT, DROP, MAYBE, NONE, REJECT, Trace
from diagnostics.trace.summary import client_sees, sentence
from diagnostics.trace.walk import Tri

CLIENT, CLIENT6, BACKEND = "203.0.113.9", "2001:db8::9", "10.180.0.1"
ADDRESSES = (
    '[{"ifname": "eth0", "flags": ["UP"], "addr_info": [{"family": "inet", "local": "192.0.2.1",'
    ' "prefixlen": 24}]}]'
)
ROUTES = (
    '[{"dst": "default", "gateway": "192.0.2.254", "dev": "eth0", "flags": []},'
    ' {"dst": "10.180.0.0/16", "dev": "pods", "flags": []}]'
)


def follow(folder: Path, dst: str = BACKEND, **more: object) -> Trace:
    """Follow a packet from outside through the dumps of a folder."""
    source = CLIENT6 if ":" in dst else CLIENT
    fields = {"src": source, "dst": dst, "port": 80, "iface": "eth0"} | more
    return Tracer(open_snapshot(folder).node()).ask(Question.read(fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ip-addr.json").write_text(ADDRESSES)
    (tmp_path / "ip-route.json").write_text(ROUTES)
    return tmp_path


def nft(folder: Path, rules: str, more: str = "", hook: str = "filter hook forward") -> None:
    """Write a table with one base chain."""
    chain = f"chain c {{\n type {hook} priority 0; policy accept;\n {rules}\n }}"
    (folder / "nft-ruleset.txt").write_text(f"table inet t {{\n {more}\n {chain}\n}}\n")


def reasons(found: Trace) -> str:
    return " | ".join(step.why for step in found.steps)


@pytest.mark.parametrize(
    ("rule", "dst", "answer", "noticed"),
    [
        ("reject with tcp reset", BACKEND, "tcp reset", "by a TCP RST"),
        ("reject", BACKEND, "port-unreachable", "ECONNREFUSED"),
        ("reject with icmpx type no-route", BACKEND, "net-unreachable", "ENETUNREACH"),
        ("reject with icmpx type no-route", "2001:db8::2", "no-route", "ENETUNREACH"),
        ("reject with icmpx type host-unreachable", "2001:db8::2", "addr-unreachable", "EHOSTUN"),
        ("reject with icmpx type admin-prohibited", "2001:db8::2", "adm-prohibited", "EACCES"),
        ("reject with icmpx type admin-prohibited", BACKEND, "admin-prohibited", "EHOSTUNREACH"),
        ("reject with icmp type host-prohibited", BACKEND, "host-prohibited", "EHOSTUNREACH"),
    ],
)
def test_what_a_reject_of_nft_answers(
    folder: Path, rule: str, dst: str, answer: str, noticed: str
) -> None:
    nft(folder, rule)
    found = follow(folder, dst)
    assert (found.verdict, {end.how for end in found.ends}) == (REJECT, {answer})
    assert noticed in client_sees(found)


def test_the_element_of_a_map_that_chose_the_endpoint_is_cited(folder: Path) -> None:
    endpoints = (
        "map endpoints {\n type ipv4_addr . integer : ipv4_addr . inet_service\n"
        f" elements = {{ 10.96.0.10 . 0 : {BACKEND} . 8080, 10.96.0.10 . 1 : 10.180.0.2 . 80 }}\n}}"
    )
    rule = "meta l4proto tcp dnat ip to ip daddr . numgen random mod 2 map @endpoints"
    nft(folder, rule, endpoints, "nat hook prerouting")
    found = follow(folder, "10.96.0.10")
    cited = {end.branch.steps()[0].why for end in found.ends}
    assert cited == {
        f"@endpoints 10.96.0.10 . 0 : {BACKEND} . 8080; drawn at random",
        "@endpoints 10.96.0.10 . 1 : 10.180.0.2 . 80; drawn at random",
    }


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("meta cpu 1 drop", "'meta cpu'"),
        ('meta iifkind "veth" drop', "'meta iifkind'"),
        ("meta cpu vmap { 1 : drop }", "'meta cpu'"),
        ("quota over 10 bytes drop", "'quota'"),
        ("socket transparent 1 drop", "socket"),
        ("meter m size 65535 { ip saddr limit rate 5/second } drop", "meter"),
    ],
)
def test_what_only_the_kernel_knows_is_named(folder: Path, rule: str, reason: str) -> None:
    nft(folder, rule)
    found = follow(folder)
    assert found.certainty == MAYBE
    doubts = [s for end in found.ends for s in end.branch.steps() if s.result is Tri.MAYBE]
    assert doubts
    assert all(reason in step.why for step in doubts)


def test_a_limit_is_taken_not_to_be_exceeded_and_says_so_beside_other_reasons(
    folder: Path,
) -> None:
    elements = f"set s {{\n type ipv4_addr\n elements = {{ {BACKEND} }}\n}}"
    nft(folder, "ip daddr @s limit rate 5/second drop", elements)
    found = follow(folder)
    assert (found.verdict, found.certainty) == (DROP, CERTAIN)
    assert "the rate is taken not to be exceeded" in reasons(found)


@pytest.mark.parametrize(
    ("rule", "dst", "verdict"),
    [
        ("ip version 4 drop", BACKEND, DROP),
        ("ip version 6 drop", BACKEND, NONE),
        ("ip6 version 6 drop", "2001:db8::2", DROP),
        ("ip saddr >= 203.0.113.0 drop", BACKEND, DROP),
        ("ip saddr < 203.0.113.9 drop", BACKEND, NONE),
        ("fib saddr . mark . iif oif missing drop", BACKEND, NONE),
        ("fib saddr . mark . iif oif exists drop", BACKEND, DROP),
    ],
)
def test_fields_that_are_known(folder: Path, rule: str, dst: str, verdict: str) -> None:
    nft(folder, rule)
    found = follow(folder, dst)
    assert (found.verdict, found.certainty) == (verdict, CERTAIN)


def test_a_source_whose_route_leads_elsewhere_has_no_way_back(folder: Path) -> None:
    nft(folder, "fib saddr . mark . iif oif missing drop")
    assert follow(folder, "198.51.100.7", src="10.180.0.7").verdict == DROP


def test_a_target_that_nft_cannot_read_leaves_the_answer_open(folder: Path) -> None:
    nft(folder, "meta l4proto tcp xt target TPROXY")
    found = follow(folder)
    assert (found.verdict, found.certainty) == (NONE, MAYBE)
    nft(folder, "meta l4proto udp xt target TPROXY")
    assert follow(folder).certainty == CERTAIN
    nft(folder, "meta l4proto tcp xt target LOG")
    assert follow(folder).certainty == CERTAIN


def test_a_transparent_proxy_of_nft_goes_on_with_its_rule_or_with_the_next(folder: Path) -> None:
    nft(folder, "tcp dport 80 tproxy to :15001 meta mark set 1 drop")
    found = follow(folder)
    assert {end.verdict.value for end in found.ends} == {"drop", "accept"}
    doubts = [s.why for end in found.ends for s in end.branch.steps() if s.result is Tri.MAYBE]
    assert doubts
    assert "transparent proxy" in doubts[0]


def test_a_redirection_to_the_node_is_called_that(folder: Path) -> None:
    nft(folder, "tcp dport 80 redirect to :15006", hook="nat hook prerouting")
    found = follow(folder)
    around = Surroundings.of(open_snapshot(folder).node())
    assert found.verdict == DNAT
    assert "packet goes to the node itself, port 15006" in sentence(found, around)


IN_IPTABLES = """{"nftables": [
 {"table": {"family": "ip", "name": "filter"}},
 {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter",
  "hook": "forward", "prio": 0, "policy": "accept"}},
 {"set": {"family": "ip", "table": "filter", "name": "bad", "type": "ipv4_addr",
  "elem": ["198.51.100.66"]}},
 {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 4, "expr": [
  {"xt": {"type": "match", "name": "comment"}}, {"counter": {"packets": 0, "bytes": 0}}]}},
 {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 5, "expr": [
  {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
   "right": "@bad"}}, {"drop": null}]}},
 {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 6, "expr": [
  {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
   "right": {"range": ["203.0.113.1", "203.0.113.77"]}}}, {"jump": {"target": "MINE"}}]}},
 {"chain": {"family": "ip", "table": "filter", "name": "MINE"}},
 {"rule": {"family": "ip", "table": "filter", "chain": "MINE", "handle": 7, "expr": [
  {"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}},
   "data": {"set": [[80, {"return": null}], [81, {"drop": null}]]}}}]}},
 {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 8, "expr": [
  {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}},
   "right": {"set": [80, 443]}}}, {"drop": null}]}}
]}"""
AS_IPTABLES_SHOWS = """# Generated by iptables-save v1.8.9 (nf_tables) on Mon Nov 23 05:00:00 2026
*filter
:FORWARD ACCEPT [0:0]
:MINE - [0:0]
-A FORWARD -m comment --comment "x"
-A FORWARD -j DROP
-A FORWARD -s 203.0.113.77/32 -j MINE
-A FORWARD -p tcp -j DROP
-A MINE -p tcp
COMMIT
"""


def test_rules_of_nft_in_chains_of_iptables_are_read_as_nft_shows_them(folder: Path) -> None:
    (folder / "iptables-save.txt").write_text(AS_IPTABLES_SHOWS)
    assert "-A FORWARD -j DROP" in follow(folder).steps[-1].text  # all that is known
    (folder / "nft-ruleset.json").write_text(IN_IPTABLES)
    found = follow(folder)
    assert (found.verdict, found.certainty) == (DROP, CERTAIN)
    assert [(step.chain, step.place) for step in found.steps if step.table == "filter"] == [
        ("FORWARD", "rule 1"),
        ("FORWARD", "rule 3"),
        ("MINE", "rule 1"),
        ("FORWARD", "rule 4"),
    ]
    assert "a rule of nft, which iptables does not show whole" in reasons(found)
    assert follow(folder, port=81).steps[-1].chain == "MINE"
    assert follow(folder, port=82).verdict == NONE
    assert follow(folder, port=82, src="198.51.100.66").verdict == DROP


def test_listings_of_two_times_are_not_laid_over_each_other(folder: Path) -> None:
    longer = AS_IPTABLES_SHOWS.replace("-A MINE", "-A FORWARD -j ACCEPT\n-A MINE")
    (folder / "iptables-save.txt").write_text(longer)
    (folder / "nft-ruleset.json").write_text(IN_IPTABLES)
    assert follow(folder).steps[-1].text == "-A FORWARD -j DROP"
