"""``ipset save`` and lookups."""

import time
from ipaddress import ip_address
from pathlib import Path

from diagnostics.readers.ipset import read_ipset

DATA = Path(__file__).parents[3] / "data/snapshots/ipvs"
ip = ip_address


def test_sets_of_a_node_in_ipvs_mode_answer():
    sets = read_ipset((DATA / "ipset-save.txt").read_text())
    assert sets.problems == ()
    assert all(one.problems == () for one in sets)
    assert sets.contains("KUBE-CLUSTER-IP", [ip("172.30.20.1"), (6, 80)]) is True
    assert sets.contains("KUBE-CLUSTER-IP", [ip("172.30.20.1"), (17, 80)]) is False
    assert sets.contains("KUBE-CLUSTER-IP", [ip("fd00::1"), (6, 80)]) is False
    assert sets.contains("KUBE-NODE-PORT-TCP", [(6, 32258)]) is True
    assert sets.contains("KUBE-NODE-PORT-TCP", [32259]) is False
    loop = [ip("10.0.1.3"), (6, 80), ip("10.0.1.3")]
    assert sets.contains("KUBE-LOOP-BACK", loop) is True
    assert sets.contains("KUBE-LOOP-BACK", [*loop[:2], ip("10.0.1.1")]) is False
    assert sets.contains("ABSENT", loop) is None


def test_the_most_specific_network_decides_so_that_nomatch_makes_a_hole():
    sets = read_ipset(
        "create n hash:net family inet timeout 300 comment\n"
        'add n 10.0.0.0/8 timeout 12 comment "not nomatch"\n'
        "add n 10.1.0.0/16 timeout 0 nomatch\n"
        "add n 10.1.2.0/24\n"
    )
    answers = {address: sets.contains("n", [ip(address)]) for address in
               ("10.9.9.9", "10.1.9.9", "10.1.2.9", "11.0.0.1")}  # fmt: skip
    assert answers == {"10.9.9.9": True, "10.1.9.9": False, "10.1.2.9": True, "11.0.0.1": False}


def test_ranges_networks_and_marks_match():
    sets = read_ipset(
        "create a hash:ip,port,net family inet6\nadd a fd00::1,tcp:80-81,fd01::/64\n"
        "create b bitmap:ip range 10.0.0.0-10.0.0.255\nadd b 10.0.0.4-10.0.0.6\n"
        "create c hash:ip netmask 24\nadd c 10.0.7.0\n"
        "create d hash:ip,mark\nadd d 10.0.0.1,0x3\n"
        "create e hash:net,iface\nadd e 10.0.0.0/8,eth0\n"
    )
    assert sets.contains("a", [ip("fd00::1"), (6, 81), ip("fd01::9")]) is True
    assert sets.contains("a", [ip("fd00::1"), (6, 82), ip("fd01::9")]) is False
    assert sets.contains("b", [ip("10.0.0.5")]) is True
    assert sets.contains("b", [ip("10.0.0.7")]) is False
    assert sets.contains("c", [ip("10.0.7.200")]) is True
    assert sets.contains("d", [ip("10.0.0.1"), 3]) is True
    assert sets.contains("e", [ip("10.2.0.1"), "eth0"]) is True
    assert sets.contains("e", [ip("10.2.0.1"), None]) is None


def test_a_list_of_sets_asks_its_members_and_survives_a_circle():
    sets = read_ipset(
        "create a hash:ip\nadd a 10.0.0.1\ncreate l list:set size 8\nadd l a\n"
        "create m list:set size 8\nadd m m\nadd m gone\n"
    )
    assert sets.contains("l", [ip("10.0.0.1")]) is True
    assert sets.contains("l", [ip("10.0.0.2")]) is False
    assert sets.contains("m", [ip("10.0.0.2")]) is None


def test_what_is_not_understood_makes_a_negative_answer_unknown():
    sets = read_ipset("create a hash:ip\nadd a 10.0.0.1\nadd a what\ncreate x hash:new\nadd x 1\n")
    assert sets.contains("a", [ip("10.0.0.1")]) is True
    assert sets.contains("a", [ip("10.0.0.2")]) is None
    assert sets.get("a").problems[0].line == 2
    assert sets.contains("x", [ip("10.0.0.2")]) is None


def test_lines_of_other_things_are_problems():
    sets = read_ipset("create a hash:ip\nadd b 1.2.3.4\nrubbish\n")
    assert [problem.line for problem in sets.problems] == [2, 3]


def test_the_listing_of_ipset_is_read_too():
    sets = read_ipset(
        "Name: b\nType: hash:ip,port\nRevision: 8\nHeader: family inet hashsize 1024\n"
        "Size in memory: 728\nReferences: 0\nNumber of entries: 1\nMembers:\n1.2.3.4,tcp:80\n\n"
        "Name: empty\nType: hash:ip\nHeader: family inet\nMembers:\n"
    )
    assert sets.contains("b", [ip("1.2.3.4"), (6, 80)]) is True
    assert sets.contains("empty", [ip("1.2.3.4")]) is False
    assert sets.problems == ()


def test_a_hundred_thousand_entries_are_sorted_quickly_and_read_on_demand():
    text = "create s hash:ip,port family inet\n" + "".join(
        f"add s 10.{i >> 16}.{i >> 8 & 255}.{i & 255},tcp:80\n" for i in range(100_000)
    )
    started = time.process_time()
    sets = read_ipset(text)
    assert sets.contains("s", [ip("10.1.2.3"), (6, 80)]) is True
    assert len(sets.get("s")) == 100_000
    assert time.process_time() - started < 3
