"""The comparison of iptables rules sees what matters, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import pytest

from tests.support.golden import load
from tests.support.golden_thousand import DIGESTS, stale_chains, thousand_services
from tests.support.iptables_text import Chain, canonical, differences, parse, render

RECORDED = load("every-service-kind.iptables", "iptables").steps[0].rulesets["iptables"]
TEXT = render(RECORDED)
LINES = TEXT.splitlines()
TAIL = next(line for line in LINES if "must be the last rule" in line)
FIRST_SERVICE = next(line for line in LINES if line.startswith("-A KUBE-SERVICES -d 172.16.0.1"))
BALANCED = next(line for line in LINES if "--probability" in line)
OTHER_ENDPOINT = LINES[LINES.index(BALANCED) + 1]


def _swapped(first: str, second: str) -> str:
    swap = {first: second, second: first}
    assert first in LINES
    assert second in LINES
    return "\n".join(swap.get(line, line) for line in LINES)


def _rule(*parts: str) -> str:
    (found,) = [line for line in LINES if all(part in line for part in parts)]
    return found


def _without(line: str) -> str:
    return "\n".join(other for other in LINES if other != line)


def _moved_before(line: str, place: str) -> str:
    lines = [other for other in LINES if other != line]
    lines.insert(lines.index(place), line)
    return "\n".join(lines)


WRONG: dict[str, Callable[[], str]] = {
    "two rules of one service swapped in a chain of its own": lambda: _swapped(
        _rule("-A KUBE-EXT-4SW47YFZTEDKD3PK", "KUBE-MARK-MASQ"),
        "-A KUBE-EXT-4SW47YFZTEDKD3PK -j KUBE-SVC-4SW47YFZTEDKD3PK",
    ),
    "two rules of one service swapped in a shared chain": lambda: _swapped(
        _rule("-A KUBE-SERVICES -d 192.168.99.22/32"), _rule("-A KUBE-SERVICES -d 1.2.3.4/32")
    ),
    "two rules of one NodePort swapped": lambda: _swapped(
        _rule("-A KUBE-NODEPORTS -d 127.0.0.0/8", "31001"),
        _rule("-A KUBE-NODEPORTS -p tcp", '"ns2/svc2:p80"', "31001"),
    ),
    "two endpoints in another order": lambda: _swapped(BALANCED, OTHER_ENDPOINT),
    "a rule missing in a chain of a service": lambda: _without(BALANCED),
    "a rule missing in a shared chain": lambda: _without(FIRST_SERVICE),
    "a rule there twice": lambda: TEXT.replace(FIRST_SERVICE, f"{FIRST_SERVICE}\n{FIRST_SERVICE}"),
    "another probability": lambda: TEXT.replace("0.50000000000", "0.49999999977"),
    "a foreign rule in a built-in chain": lambda: TEXT.replace(
        "-A INPUT -j KUBE-FIREWALL", "-A INPUT -j ACCEPT\n-A INPUT -j KUBE-FIREWALL"
    ),
    "a foreign rule in a shared chain": lambda: TEXT.replace(
        FIRST_SERVICE, f"-A KUBE-SERVICES -p tcp -j ACCEPT\n{FIRST_SERVICE}"
    ),
    "a foreign chain": lambda: TEXT.replace("*nat\n", "*nat\n:FOREIGN - [0:0]\n"),
    "a foreign table": lambda: f"{TEXT}*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n",
    "a chain missing": lambda: TEXT.replace(":KUBE-PROXY-CANARY - [0:0]\n", "", 1),
    "another policy": lambda: TEXT.replace(":FORWARD ACCEPT", ":FORWARD DROP"),
    "jumps in another order": lambda: _swapped(
        "-A OUTPUT -j KUBE-FIREWALL", _rule("-A OUTPUT", "load balancer firewall")
    ),
    "NodePorts before a service": lambda: _moved_before(TAIL, FIRST_SERVICE),
    "another comment": lambda: TEXT.replace("ns2/svc2:p80 has no local", "ns2/svc2:p80 has no"),
    "a blank too few": lambda: TEXT.replace("--nfacct-name  ", "--nfacct-name "),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_difference_that_matters_is_seen(case: str) -> None:
    changed = WRONG[case]()
    assert changed.strip() != TEXT.strip(), "the case changes nothing"
    assert differences(RECORDED, parse(changed)) != ""


def test_a_difference_is_told_by_the_rules_in_question() -> None:
    told = differences(RECORDED, parse(_without(FIRST_SERVICE))).splitlines()
    assert f"-{FIRST_SERVICE}" in told
    assert [line for line in told if line.startswith("+-A")] == []


def test_the_order_of_services_in_a_shared_chain_does_not_matter() -> None:
    # Two whole services change places in KUBE-SERVICES; one of them has three rules.
    second = [line for line in LINES if line.startswith("-A KUBE-SERVICES") and "svc2" in line]
    moved = [line for line in LINES if line not in second]
    moved[moved.index(FIRST_SERVICE) : moved.index(FIRST_SERVICE)] = second
    assert len(second) == 3
    assert moved != LINES
    assert differences(RECORDED, parse("\n".join(moved))) == ""


def test_rules_of_services_may_be_interleaved_in_a_shared_chain() -> None:
    external = _rule("-A KUBE-SERVICES -d 192.168.99.22/32")
    loadbalancer = _rule("-A KUBE-SERVICES -d 1.2.3.4/32")
    between = TEXT.replace(f"{FIRST_SERVICE}\n", "").replace(
        f"{external}\n{loadbalancer}\n", f"{external}\n{FIRST_SERVICE}\n{loadbalancer}\n"
    )
    assert between != TEXT
    assert differences(RECORDED, parse(between)) == ""


def test_comment_lines_counters_and_the_order_of_chains_do_not_matter() -> None:
    tables = TEXT.replace("[0:0]", "[7:420]").split("COMMIT\n")[:-1]
    shuffled = []
    for table in reversed(tables):
        head, *lines = table.splitlines()
        chains = [line for line in lines if line.startswith(":")]
        rules = [line for line in lines if not line.startswith(":")]
        by_chain = sorted(rules, key=lambda rule: rule.split()[1], reverse=True)
        counted = [f"[3:180] {rule}" for rule in by_chain]
        shuffled += ["# Generated", head, *reversed(chains), *counted, "COMMIT", "# Completed"]
    assert differences(RECORDED, parse("\n".join(shuffled))) == ""


def test_several_jumps_to_nodeports_keep_their_order() -> None:
    recorded = load("nodeport-v6-one-network", "iptables").steps[0].rulesets["iptables"]
    chain = recorded["nat"]["KUBE-SERVICES"]
    *services, first, second = chain.rules
    swapped = Chain(chain.policy, (*services, second, first))
    changed = {**recorded, "nat": {**recorded["nat"], "KUBE-SERVICES": swapped}}
    assert differences(recorded, changed) != ""


def test_text_that_is_not_of_iptables_save_is_refused() -> None:
    with pytest.raises(AssertionError, match="not a line of iptables-save: -N KUBE-SERVICES"):
        parse("*nat\n-N KUBE-SERVICES\nCOMMIT\n")


@pytest.mark.parametrize("program", DIGESTS)
def test_the_thousand_services_are_those_that_were_recorded(program: str) -> None:
    rules = thousand_services().steps[0].rulesets[program]
    stale = stale_chains() if program == "iptables" else {}
    whole = {**rules, "nat": {**rules["nat"], **stale}}
    assert sha256(canonical(whole).encode()).hexdigest() == DIGESTS[program]
