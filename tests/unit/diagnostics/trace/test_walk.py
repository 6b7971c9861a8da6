"""What a walk does with matches that cannot be decided, gotos, and rules of others in between."""

from __future__ import annotations

from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path

import pytest

from diagnostics.snapshot.open import open_snapshot
from diagnostics.trace.build import node_of
from diagnostics.trace.packet import TCP, Packet
from diagnostics.trace.report import CERTAIN, DNAT, DROP, MAYBE, NONE, UNKNOWN, Trace, trace
from diagnostics.trace.walk import Tri
from proxy.model.addresses import IPFamily

TO = "-j DNAT --to-destination"
DNAT_RULE = f"-A PREROUTING -d 10.96.0.10/32 -p tcp -m tcp --dport 80 {TO} 10.180.0.1:8080"


def nat(*rules: str, chains: tuple[str, ...] = ()) -> str:
    """The nat table with rules, and more chains."""
    own = [f":{chain} - [0:0]" for chain in chains]
    return "\n".join(["*nat", ":PREROUTING ACCEPT [0:0]", *own, *rules, "COMMIT", ""])


def filtered(*rules: str, policy: str = "ACCEPT") -> str:
    """The filter table with rules in FORWARD."""
    return "\n".join(["*filter", f":FORWARD {policy} [0:0]", *rules, "COMMIT", ""])


@pytest.fixture
def follow(tmp_path: Path):
    """Follow a packet from outside to 10.96.0.10:80 through iptables-save text."""

    def followed(*tables: str) -> Trace:
        (tmp_path / "iptables-save.txt").write_text("".join(tables))
        (tmp_path / "ip-addr.json").write_text("[]")
        node = node_of(open_snapshot(tmp_path).node(), IPFamily.IPV4)
        source, destination = ip_address("203.0.113.9"), ip_address("10.96.0.10")
        return trace(node, Packet(source, destination, TCP, 80, iif="eth0"), from_node=False)

    return followed


def test_an_undecidable_match_before_a_drop_makes_the_verdict_a_maybe(follow) -> None:
    found = follow(nat(DNAT_RULE), filtered("-A FORWARD -m string --string x --algo bm -j DROP"))
    assert (found.verdict, found.certainty) == (DNAT, MAYBE)
    assert {end.verdict.value for end in found.ends} == {"accept", "drop"}


def test_an_undecidable_match_that_changes_nothing_leaves_the_verdict_certain(follow) -> None:
    found = follow(nat(DNAT_RULE), filtered("-A FORWARD -m time --timestart 01:00 -j ACCEPT"))
    assert (found.verdict, found.certainty) == (DNAT, CERTAIN)
    assert any(step.result is Tri.MAYBE for step in found.steps)


def test_goto_returns_to_the_callers_caller(follow) -> None:
    chains = ("OUTER", "INNER")
    found = follow(
        nat("-A PREROUTING -j OUTER", DNAT_RULE, "-A OUTER -g INNER", "-A OUTER -j RETURN",
            "-A INNER -j RETURN", chains=chains)
    )  # fmt: skip
    assert found.verdict == DNAT
    assert [step.chain for step in found.steps if step.table == "nat"] == [
        "PREROUTING",
        "OUTER",
        "INNER",
        "PREROUTING",
    ]


def test_draws_multiply(follow) -> None:
    draw = "-A PREROUTING -m statistic --mode random --probability"
    found = follow(
        nat(
            f"{draw} 0.33333333349 {TO} 10.180.0.1:80",
            f"{draw} 0.50000000000 {TO} 10.180.0.2:80",
            f"-A PREROUTING {TO} 10.180.0.3:80",
        )
    )
    assert [d.probability for d in found.destinations] == [Fraction(1, 3)] * 3


def test_a_target_that_cannot_be_read_makes_the_answer_a_maybe(follow) -> None:
    assert follow(nat("-A PREROUTING -j HMARK --hmark-mod 3")).certainty == MAYBE
    assert follow(nat("-A PREROUTING -s 192.0.2.1/32 -j HMARK --hmark-mod 3")).certainty == CERTAIN


def test_a_policy_that_drops_decides_where_no_rule_does(follow) -> None:
    found = follow(nat(DNAT_RULE), filtered(policy="DROP"))
    assert (found.verdict, found.certainty) == (DROP, CERTAIN)
    assert found.steps[-1].place == "policy"


def test_without_rules_for_it_a_packet_is_touched_by_nobody(follow) -> None:
    assert follow(nat()).verdict == NONE


def test_without_any_rules_the_answer_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "ip-addr.json").write_text("[]")
    node = node_of(open_snapshot(tmp_path).node(), IPFamily.IPV4)
    packet = Packet(ip_address("203.0.113.9"), ip_address("10.96.0.10"), TCP, 80, iif="eth0")
    assert trace(node, packet, from_node=False).certainty == UNKNOWN
