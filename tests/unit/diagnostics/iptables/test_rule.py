"""Rules of every producer become values that say the same as their text."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest

from diagnostics.iptables import matches as m
from diagnostics.iptables import targets as t
from diagnostics.iptables.rule import Rule, parse_any_rule, parse_rule
from diagnostics.iptables.save import read_save
from tests.support.golden import load, names
from tests.support.golden_thousand import thousand_services
from tests.support.iptables_text import render

THIRD_PARTY = sorted((Path(__file__).parents[3] / "data/iptables/third-party").glob("*.txt"))
SAVED = [path for path in THIRD_PARTY if path.name != "hand-written.txt"]
# What these modules ask cannot be known from outside of the kernel.
UNDECIDABLE = {"rpfilter", "socket", "owner", "connlimit", "string", "u32", "mac", "time", "ttl"}
UNDECIDABLE |= {"bpf", "cgroup", "hl", "rt"}


def _rules(text: str) -> list[Rule]:
    ruleset = read_save(text)
    assert ruleset.problems == []
    chains = [chain for table in ruleset.tables.values() for chain in table.chains.values()]
    return [rule for chain in chains for rule in chain.rules]


def _golden(mode: str) -> list[str]:
    rules = {
        rule.text
        for name in names(mode)
        for step in load(name, mode).steps
        for ruleset in step.rulesets.values()
        for rule in _rules(render(ruleset))
    }
    return sorted(rules)


def _thousand() -> list[str]:
    (step,) = thousand_services().steps
    return [rule.text for rs in step.rulesets.values() for rule in _rules(render(rs))]


def _joined(rule: Rule) -> str:
    return " ".join(filter(None, [*(match.text for match in rule.matches), rule.target.text]))


def _match(text: str) -> m.Match:
    (match,) = parse_rule(text).matches
    assert match.text == text
    return match


def _target(text: str) -> t.Target:
    rule = parse_rule(text)
    assert rule.matches == ()
    assert rule.target.text == text
    return rule.target


@pytest.mark.parametrize("mode", ["iptables", "ipvs", "thousand"])
def test_every_recorded_rule_is_understood_and_both_ways_of_reading_agree(mode: str) -> None:
    texts = _thousand() if mode == "thousand" else _golden(mode)
    assert len(texts) > 50
    for text in texts:
        rule = parse_rule(text)
        assert not any(isinstance(match, m.Opaque) for match in rule.matches), text
        assert not isinstance(rule.target, t.OpaqueTarget), text
        assert _joined(rule) == text
        assert rule == parse_any_rule(text)


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_rules_of_others_are_understood_as_far_as_they_can_be_decided(path: Path) -> None:
    for rule in _rules(path.read_text()):
        opaque = {match.module for match in rule.matches if isinstance(match, m.Opaque)}
        assert opaque <= UNDECIDABLE, rule.text
        assert not isinstance(rule.target, t.OpaqueTarget), rule.text
        assert _joined(rule) == rule.text
        assert rule == parse_any_rule(rule.text, rule.number, rule.counters)


def test_rules_written_by_hand_are_understood() -> None:
    path = next(path for path in THIRD_PARTY if path.name == "hand-written.txt")
    for rule in _rules(path.read_text()):
        assert not any(isinstance(match, m.Opaque) for match in rule.matches), rule.text
        words = sorted(_joined(rule).split())
        assert words == sorted(rule.text.removeprefix("-c 7 420 ").split())


def test_a_rule_of_a_service_has_all_its_parts() -> None:
    rule = parse_rule(
        '! -s 10.0.0.0/8 -d 172.30.0.41/32 -p tcp -m comment --comment "ns1/svc1:p80 cluster IP" '
        "-m tcp --dport 80 -j KUBE-MARK-MASQ",
        3,
        (5, 300),
    )
    source, destination, protocol, comment, ports = rule.matches
    assert isinstance(source, m.Address)
    assert (source.side, source.network, source.negated) == ("src", IPv4Network("10.0.0.0/8"), True)
    assert isinstance(destination, m.Address)
    assert destination.contains(IPv4Address("172.30.0.41"))
    assert not destination.contains(IPv4Address("172.30.0.42"))
    assert not destination.contains(IPv6Address("::ac1e:29"))
    assert protocol == m.Protocol("-p tcp", 6, "tcp")
    assert comment == m.Comment(comment.text, "ns1/svc1:p80 cluster IP")
    assert ports == m.Ports("-m tcp --dport 80", "dst", ((80, 80),))
    assert rule.target == t.Jump("-j KUBE-MARK-MASQ", "KUBE-MARK-MASQ")
    assert (rule.number, rule.counters) == (3, (5, 300))


MATCHES: dict[str, m.Match] = {
    "-i cali+": m.Interface("", "in", "cali+"),
    "! -o lo": m.Interface("", "out", "lo", True),
    "-p ipencap": m.Protocol("", 4, "ipencap"),
    "! -p 41": m.Protocol("", 41, "ipv6", True),
    "-p 255": m.Protocol("", 255, "255"),
    "! -f": m.Fragment("", True),
    "-m tcp": m.Loaded("", "tcp"),
    "-m udp --sport 1024:": m.Ports("", "src", ((1024, 65535),)),
    "-m sctp ! --dport :53": m.Ports("", "dst", ((0, 53),), True),
    "-m multiport --ports 80,8000:8010": m.Ports("", "any", ((80, 80), (8000, 8010))),
    "-m multiport ! --sports 1": m.Ports("", "src", ((1, 1),), True),
    "-m tcp --tcp-flags ALL NONE": m.TcpFlags(
        "", frozenset(["FIN", "SYN", "RST", "PSH", "ACK", "URG"]), frozenset()
    ),
    "-m icmp --icmp-type 8/0": m.IcmpType("", "8/0"),
    '-m comment --comment "a \\"b\\" c\\\\d"': m.Comment("", 'a "b" c\\d'),
    "-m comment --comment -s": m.Comment("", "-s"),
    "-m comment --comment !": m.Comment("", "!"),
    "-m state ! --state NEW,INVALID": m.ConntrackState("", frozenset(("NEW", "INVALID")), True),
    "-m conntrack --ctstate ! DNAT": m.ConntrackState("", frozenset(("DNAT",)), True),
    "-m conntrack --ctorigdstport 80": m.ConntrackField("", "ctorigdstport", "80"),
    "-m mark ! --mark 0x4000/0x4000": m.Mark("", 0x4000, 0x4000, True),
    "-m mark --mark 100": m.Mark("", 100, 0xFFFFFFFF),
    "-m connmark --mark 0x80/0x80": m.ConnMark("", 0x80, 0x80),
    "-m addrtype ! --src-type LOCAL --limit-iface-out": m.AddrType(
        "", "src", frozenset(("LOCAL",)), True, "out"
    ),
    "-m statistic --mode random ! --probability 0.25000000000": m.Random("", Fraction(1, 4), True),
    "-m statistic --mode nth --every 3 --packet 1": m.Nth("", 3, 1),
    "-m recent --rcheck --seconds 10800 --reap --name A --mask 255.255.255.255 --rsource": m.Recent(
        "", "rcheck", "A", "src", "255.255.255.255", 10800, None, True, False
    ),
    "-m recent ! --update --hitcount 6 --rttl --rdest": m.Recent(
        "", "update", "DEFAULT", "dst", None, None, 6, False, True, True
    ),
    "-m set ! --match-set KUBE-LOOP-BACK dst,dst,src --return-nomatch": m.IpSet(
        "", "KUBE-LOOP-BACK", ("dst", "dst", "src"), ("--return-nomatch",), True
    ),
    "-m physdev ! --physdev-is-in": m.PhysDev("", "is-in", None, True),
    "-m physdev --physdev-in veth+": m.PhysDev("", "in", "veth+"),
    "-m ipvs ! --ipvs": m.Ipvs("", "ipvs", None, True),
    "-m ipvs --vport 80": m.Ipvs("", "vport", "80"),
    "-m nfacct --nfacct-name  dropped": m.Nfacct("", "dropped"),
    "-m limit --limit 5/sec --limit-burst 10": m.Limit("", "limit", "5/sec"),
    "-m hashlimit --hashlimit-upto 1/min --hashlimit-name x": m.Limit("", "hashlimit", "1/min"),
    "-m iprange ! --dst-range 10.0.0.1-10.0.0.9": m.AddressRange(
        "", "dst", IPv4Address("10.0.0.1"), IPv4Address("10.0.0.9"), True
    ),
    "-m owner ! --uid-owner 1337": m.Opaque("", "owner", True),
    "-m hashlimit --hashlimit-above 1/min --hashlimit-name x": m.Opaque("", "hashlimit"),
    "-m tcp --dport 70000": m.Opaque("", "tcp"),
    "-m tcp --dport 90:80": m.Opaque("", "tcp"),
    "-m conntrack": m.Opaque("", "conntrack"),
    "-m conntrack --ctstate SOON": m.Opaque("", "conntrack"),
    "-m statistic --mode random --probability 1/0": m.Opaque("", "statistic"),
    "-m statistic --mode random --probability 2": m.Opaque("", "statistic"),
    "-m recent --set --remove": m.Opaque("", "recent"),
    "-m": m.Opaque("", ""),
    "-s": m.Opaque("", ""),
    "-s 10.0.0/8": m.Opaque("", ""),
    "-s 10.0.0.0/33": m.Opaque("", ""),
    "-p klingon": m.Opaque("", ""),
    "--dport 80": m.Opaque("", ""),
    "10.0.0.1": m.Opaque("", ""),
    "!": m.Opaque("", ""),
    '-m string --string "a -j ACCEPT': m.Opaque("", "string"),
}


@pytest.mark.parametrize("text", MATCHES)
def test_a_match_says_what_its_text_says(text: str) -> None:
    expected = MATCHES[text]
    assert _match(text) == replace(expected, text=text)


FIRST, LAST = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.9")
V6 = IPv6Address("fd00::1")
TARGETS: dict[str, t.Target] = {
    "-j ACCEPT": t.Accept("-j ACCEPT"),
    "-j REJECT --reject-with tcp-reset": t.Reject("", "tcp-reset"),
    "-g IN_public": t.Goto("", "IN_public"),
    "-j KUBE-SVC-X": t.Jump("", "KUBE-SVC-X"),
    "-j MARK --set-xmark 0x4000/0x0": t.SetMark("", 0xFFFFFFFF, 0x4000),
    "-j MARK --set-mark 0x4": t.SetMark("", 0, 4),
    "-j MARK --set-mark 0x110/0xff": t.SetMark("", 0xFFFFFE00, 0x110),
    "-j MARK --or-mark 0x8000": t.SetMark("", 0xFFFF7FFF, 0x8000),
    "-j MARK --and-mark 0xff": t.SetMark("", 0xFF, 0),
    "-j MARK --xor-mark 0x1": t.SetMark("", 0xFFFFFFFF, 1),
    "-j CONNMARK --set-xmark 0x80/0x80": t.SetConnMark("", 0xFFFFFF7F, 0x80),
    "-j CONNMARK --save-mark": t.SaveMark("", 0xFFFFFFFF, 0xFFFFFFFF),
    "-j CONNMARK --restore-mark --nfmask 0x1 --ctmask 0x3": t.RestoreMark("", 1, 3),
    "-j CONNMARK --restore-mark --mask 0x3": t.RestoreMark("", 3, 3),
    "-j DNAT --to-destination 10.0.0.1:80": t.Dnat("", (t.NatRange(FIRST, FIRST, (80, 80)),)),
    "-j DNAT --to-destination 10.0.0.1-10.0.0.9:80-90/8080 --random --persistent": t.Dnat(
        "", (t.NatRange(FIRST, LAST, (80, 90), 8080),), True, True
    ),
    "-j DNAT --to-destination :53": t.Dnat("", (t.NatRange(None, None, (53, 53)),)),
    "-j DNAT --to-destination [fd00::1]:53": t.Dnat("", (t.NatRange(V6, V6, (53, 53)),)),
    "-j DNAT --to-destination fd00::1": t.Dnat("", (t.NatRange(V6, V6),)),
    "-j DNAT --to-destination [fd00::1-fd00::1]:1-2": t.Dnat("", (t.NatRange(V6, V6, (1, 2)),)),
    "-j SNAT --to-source 10.0.0.1 --random-fully": t.Snat(
        "", (t.NatRange(FIRST, FIRST),), False, True
    ),
    "-j MASQUERADE --to-ports 1024-2048 --random-fully": t.Masquerade(
        "", (1024, 2048), False, True
    ),
    "-j REDIRECT --to-ports 15001": t.Redirect("", (15001, 15001)),
    "-j CT --notrack": t.Notrack(""),
    "-j CT --zone 1": t.Ct(""),
    "-j NFQUEUE --queue-num 1": t.Queue(""),
    "-j TPROXY --on-port 1 --on-ip 10.0.0.1 --tproxy-mark 0x2/0x3": t.Tproxy(
        "", 1, FIRST, 0xFFFFFFFC, 2
    ),
    '-j LOG --log-prefix "[UFW BLOCK] "': t.Continue("", "LOG"),
    "-j NETMAP --to 10.0.0.0/24": t.OpaqueTarget("", "NETMAP"),
    "-j HMARK": t.OpaqueTarget("", "HMARK"),
    "-j KUBE-SVC-X --odd": t.OpaqueTarget("", "KUBE-SVC-X"),
    "-j DNAT --to-destination 10.0.0.256:80": t.OpaqueTarget("", "DNAT"),
    "-j DNAT --to-destination 10.0.0.1:http": t.OpaqueTarget("", "DNAT"),
    "-j DNAT": t.OpaqueTarget("", "DNAT"),
    "-j MARK": t.OpaqueTarget("", "MARK"),
    "-j": t.OpaqueTarget("", ""),
    "-j ACCEPT -j DROP": t.OpaqueTarget("", "DROP"),
}


@pytest.mark.parametrize("text", TARGETS)
def test_a_target_says_what_its_text_says(text: str) -> None:
    expected = TARGETS[text]
    assert _target(text) == replace(expected, text=text)


def test_a_rule_without_a_target_only_counts() -> None:
    assert parse_rule("") == Rule(1, "", (), t.NoTarget())


def test_marks_are_changed_as_the_kernel_does() -> None:
    assert t.SetMark("", 0xFFFFBFFF, 0x4000).apply(0x8001) == 0xC001
    assert t.SetMark("", 0xFFFFFFFF, 0x4000).apply(0xC001) == 0x8001
    assert t.SetConnMark("", 0xFF, 0).apply(0x1234) == 0x34


def test_a_mask_need_not_be_a_prefix() -> None:
    match = _match("-s 10.0.7.0/255.0.255.0")
    assert isinstance(match, m.Address)
    assert match.contains(IPv4Address("10.200.7.0"))
    assert not match.contains(IPv4Address("10.200.8.0"))
    assert match.network is None


def test_a_plus_stands_for_any_end_of_an_interface_name() -> None:
    assert m.Interface("", "in", "cali+").covers("cali12")
    assert m.Interface("", "in", "+").covers("eth0")
    assert not m.Interface("", "in", "eth1").covers("eth10")


def test_options_of_one_module_are_conditions_of_their_own() -> None:
    rule = parse_rule("-p udp -m udp --sport 67 --dport 68 -m addrtype --src-type LOCAL "
                      "--dst-type UNICAST --limit-iface-in -j ACCEPT")  # fmt: skip
    assert [match.text for match in rule.matches] == [
        "-p udp",
        "-m udp --sport 67",
        "--dport 68",
        "-m addrtype --src-type LOCAL",
        "--dst-type UNICAST --limit-iface-in",
    ]
    assert [match.limit for match in rule.matches if isinstance(match, m.AddrType)] == ["in", "in"]


def test_rules_that_are_cut_or_garbled_never_raise_and_lose_no_word() -> None:
    chance = random.Random(20)
    texts = [text for path in THIRD_PARTY for text in path.read_text().splitlines()]
    for line in texts:
        text = line.partition(" ")[2]
        for _ in range(20):
            at = chance.randrange(len(text) + 1)
            change = chance.choice(("", ' ! "', "\\", " -m ", "\u00e9", " -j X -p 999 "))
            garbled = chance.choice((text[:at], text[at:], text[:at] + change + text[at + 1 :]))
            rule = parse_rule(garbled)
            assert rule.text == garbled
            assert parse_any_rule(garbled) == rule
            if not rule.counters:
                assert sorted(_joined(rule).split()) == sorted(garbled.split())
