"""Counts and findings of iptables rules: what is counted, and what is only said when it is sure."""

from __future__ import annotations

import pytest

from diagnostics.iptables.save import read_save
from diagnostics.readers.ipset import read_ipset
from diagnostics.rules.iptables import count_iptables
from diagnostics.rules.model import Finding, Inventory, Kind

SVC, EXT = "KUBE-SVC-AAAAAAAAAAAAAAAA", "KUBE-EXT-AAAAAAAAAAAAAAAA"
SEP1, SEP2, SEP3 = (f"KUBE-SEP-{letter * 16}" for letter in "BCD")
NAME = '-m comment --comment "shop/web:http cluster IP"'
FRONTEND = f"-A KUBE-SERVICES -d 10.96.0.9/32 -p tcp {NAME} -m tcp --dport 80 -j {SVC}"


def endpoint(chain: str, address: str) -> list[str]:
    comment = '-m comment --comment "shop/web:http"'
    return [
        f"-A {chain} -s {address}/32 {comment} -j KUBE-MARK-MASQ",
        f"-A {chain} -p tcp {comment} -m tcp -j DNAT --to-destination {address}:8080",
    ]


def nat(*rules: str, chains: tuple[str, ...] = (SVC, SEP1, SEP2)) -> str:
    declared = ("KUBE-SERVICES", "KUBE-MARK-MASQ", *chains)
    lines = ["*nat", ":PREROUTING ACCEPT [0:0]"]
    lines += [f":{chain} - [0:0]" for chain in declared]
    lines += ["-A PREROUTING -j KUBE-SERVICES"]
    lines += ["-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000", *rules]
    return "\n".join([*lines, "COMMIT", ""])


def inventory_of(text: str, **known: object) -> Inventory:
    inventory = Inventory()
    count_iptables(inventory, read_save(text), "ip", **known)  # type: ignore[arg-type]
    return inventory


def findings(text: str) -> list[Finding]:
    return inventory_of(text).findings


HEALTHY = (
    FRONTEND,
    f"-A {SVC} -m comment --comment x -m statistic --mode random --probability 0.5 -j {SEP1}",
    f"-A {SVC} -m comment --comment x -j {SEP2}",
    *endpoint(SEP1, "10.0.0.1"),
    *endpoint(SEP2, "10.0.0.2"),
)


def test_a_service_is_credited_with_its_chains_and_rules() -> None:
    inventory = inventory_of(nat(*HEALTHY))
    assert not inventory.findings
    assert inventory.services == {"shop/web:http": {"chains": 3, "rules": 7}}
    assert inventory.totals()["rules"] == 9


def test_chains_without_comments_belong_to_the_service_that_leads_to_them() -> None:
    bare = [rule.replace('-m comment --comment "shop/web:http" ', "") for rule in HEALTHY]
    assert inventory_of(nat(*bare)).services == {"shop/web:http": {"chains": 3, "rules": 7}}


def test_a_jump_to_a_chain_that_is_not_there_is_an_error() -> None:
    (found,) = findings(nat(FRONTEND, chains=()))
    assert (found.kind, found.level) == (Kind.DANGLING, "error")
    assert (found.place, found.service) == ("ip nat KUBE-SERVICES rule 1", "shop/web:http")
    assert SVC in found.why


def test_a_listing_that_was_cut_has_no_dangling_jumps() -> None:
    assert not findings(nat(FRONTEND, chains=()).replace("COMMIT\n", ""))


def test_an_endpoint_that_no_service_leads_to_is_found_with_its_address() -> None:
    text = nat(*HEALTHY, *endpoint(SEP3, "10.0.0.3"), chains=(SVC, SEP1, SEP2, SEP3))
    (found,) = findings(text)
    assert found.kind is Kind.UNREACHABLE_ENDPOINT
    assert (found.place, found.text) == (f"ip nat {SEP3}", "to 10.0.0.3:8080")


def test_a_chain_that_only_an_orphan_leads_to_is_one_too() -> None:
    found = findings(nat(*HEALTHY[1:]))
    assert {one.place.split()[-1] for one in found} == {SVC, SEP1, SEP2}
    assert found[1].why.endswith(SVC)


def test_a_choice_without_statistic_leaves_nothing_for_those_behind_it() -> None:
    first = f"-A {SVC} -m comment --comment x -j {SEP1}"
    (found,) = findings(nat(HEALTHY[0], first, *HEALTHY[2:]))
    assert (found.kind, found.place) == (Kind.SHADOWED, f"ip nat {SVC} rule 2")
    assert (found.service, "rule 1" in found.why) == ("shop/web:http", True)


def test_a_probability_of_one_leaves_nothing_either() -> None:
    certain = HEALTHY[1].replace("0.5", "1.00000000000")
    (found,) = findings(nat(HEALTHY[0], certain, *HEALTHY[2:]))
    assert (found.kind, found.place) == (Kind.SHADOWED, f"ip nat {SVC} rule 2")


def test_a_second_rule_for_the_same_frontend_can_never_match() -> None:
    (found,) = findings(nat(HEALTHY[0], *HEALTHY))
    assert (found.kind, found.place) == (Kind.SHADOWED, "ip nat KUBE-SERVICES rule 2")
    assert "is the same" in found.why


FILTER = "*filter\n:INPUT ACCEPT [0:0]\n{}\nCOMMIT\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("-s 10.0.0.0/8 -j DROP", "-s 10.1.2.0/24 -p tcp -m tcp --dport 80 -j ACCEPT"),
        ("-j ACCEPT", "-i eth0 -j DROP"),
        ("-p tcp -m tcp --dport 80:90 -j DROP", "-p tcp -m tcp --dport 85 -j ACCEPT"),
        ("-m mark --mark 0x1/0x1 -j DROP", "-m mark --mark 0x1/0x1 -j ACCEPT"),
        ("-i eth0 -j RETURN", "-i eth0 -p udp -j ACCEPT"),
    ],
)
def test_a_narrower_rule_behind_one_that_ends_the_chain_is_shadowed(
    first: str, second: str
) -> None:
    (found,) = findings(FILTER.format(f"-A INPUT {first}\n-A INPUT {second}"))
    assert found.place == "ip filter INPUT rule 2"


@pytest.mark.parametrize(
    "rules",
    [
        ["-s 10.1.0.0/16 -j DROP", "-s 10.0.0.0/8 -j ACCEPT"],
        ["-s 10.0.0.0/8 -j LOG", "-s 10.0.0.0/8 -j ACCEPT"],
        ["! -s 10.0.0.0/8 -j DROP", "-s 10.0.0.0/8 -j ACCEPT"],
        ["-m limit --limit 5/sec -j DROP", "-m limit --limit 5/sec -j ACCEPT"],
        ["-m strange --odd 1 -j DROP", "-m strange --odd 1 -j ACCEPT"],
        ["-m mark --mark 0x1 -j DROP", "-j MARK --set-mark 0x1", "-m mark --mark 0x1 -j ACCEPT"],
        ["-p tcp -j DROP", "-j ACCEPT"],
        ["-p tcp -m tcp --sport 80 -j DROP", "-p tcp -m tcp --dport 80 -j ACCEPT"],
        ["-m statistic --mode random --probability 0.9 -j DROP", "-i eth0 -j ACCEPT"],
    ],
)
def test_nothing_is_called_shadowed_that_may_match(rules: list[str]) -> None:
    assert not findings(FILTER.format("\n".join(f"-A INPUT {rule}" for rule in rules)))


def test_a_chain_that_may_return_takes_nothing() -> None:
    rules = ":LATER - [0:0]\n-A INPUT -j LATER\n-A INPUT -p tcp -j ACCEPT\n"
    returns = "-A LATER -s 10.0.0.1/32 -j RETURN\n-A LATER -p tcp -j DROP"
    assert not findings(FILTER.format(rules + returns))
    (found,) = findings(FILTER.format(rules + returns.splitlines()[1]))
    assert found.place == "ip filter INPUT rule 2"


def test_a_rule_that_asks_a_set_which_is_not_there_is_an_error() -> None:
    text = FILTER.format("-A INPUT -m set --match-set KUBE-GONE dst -j DROP")
    sets = read_ipset("create KUBE-HERE hash:ip family inet\n")
    (found,) = inventory_of(text, sets=sets).findings
    assert (found.kind, found.level) == (Kind.MISSING_SET, "error")
    assert "KUBE-GONE" in found.why


def test_circles_in_bad_input_do_no_harm() -> None:
    text = FILTER.format(":A - [0:0]\n:B - [0:0]\n-A INPUT -j A\n-A A -j B\n-A B -j A")
    assert not findings(text)
