"""The tree on a terminal and in a file."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from diagnostics.trace.replies import Surroundings
from diagnostics.trace.report import Trace
from kpctl.trace_output.explain import explain
from kpctl.trace_output.show import show
from kpctl.trace_output.tree import view
from kpctl.trace_output.wording import cited
from tests.support.traces import (
    CLUSTER_CLIENT,
    ENDPOINT_OF_SVC4,
    OUTSIDER,
    SNAPSHOTS,
    recorded,
    traced,
    write_many_endpoints,
    write_rules,
)

EXPECTED = SNAPSHOTS.parent / "trace_output"
PICTURED = {
    "iptables-masqueraded": ("iptables", OUTSIDER, "172.30.0.44"),
    "iptables-hairpin": ("iptables", ENDPOINT_OF_SVC4, "172.30.0.44"),
    "iptables-rejected": ("iptables", CLUSTER_CLIENT, "172.30.0.46"),
    "nftables": ("nftables", CLUSTER_CLIENT, "172.30.0.42"),
    "ipvs": ("ipvs", OUTSIDER, "172.30.20.1"),
}


def drawn(
    found: Trace, around: Surroundings | None, width: int = 100, *, everything: bool = False
) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(view(found, around, everything=everything))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("name", PICTURED)
def test_the_tree_of_a_recorded_node_is_as_expected(name: str) -> None:
    assert drawn(*recorded(*PICTURED[name])) == (EXPECTED / f"{name}.txt").read_text()


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("name", PICTURED)
def test_the_tree_fits_its_width(name: str, width: int) -> None:
    lines = drawn(*recorded(*PICTURED[name]), width).splitlines()
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("name", PICTURED)
def test_every_step_of_every_end_is_cited_when_everything_is_shown(name: str) -> None:
    found, around = recorded(*PICTURED[name])
    told = drawn(found, around, 400, everything=True)
    for end in found.ends:
        for step in end.branch.steps():
            assert cited(step) in told


def test_many_endpoints_alike_are_folded(tmp_path: Path) -> None:
    write_many_endpoints(tmp_path, 100)
    found, around = traced(tmp_path, OUTSIDER, "10.96.0.10")
    told = drawn(found, around)
    assert "… 97 more alike: 10.244.0.4:8080" in told
    assert len(told.splitlines()) < 60
    assert told.count("1/100  10.244.0.") == 3


def test_all_of_them_are_shown_when_everything_is_asked_for(tmp_path: Path) -> None:
    write_many_endpoints(tmp_path, 100)
    found, around = traced(tmp_path, OUTSIDER, "10.96.0.10")
    told = drawn(found, around, everything=True)
    assert "more alike" not in told
    assert told.count("1/100  10.244.0.") == 100


def test_what_cannot_be_decided_is_shown_both_ways(tmp_path: Path) -> None:
    write_rules(tmp_path, "-A FORWARD -m string --string x --algo bm -j DROP")
    told = drawn(*traced(tmp_path, OUTSIDER, "10.96.0.10"))
    assert "◐ filter FORWARD rule 1" in told
    assert "perhaps dropped" in told
    assert "goes on to 10.96.0.10:80, not translated" in told


def test_an_ipv6_endpoint_is_no_markup(tmp_path: Path) -> None:
    rule = "-A PREROUTING -d fd00::10/128 -p tcp -m tcp --dport 80 -j DNAT --to-destination"
    text = f"*nat\n:PREROUTING ACCEPT [0:0]\n{rule} [fd00::1]:8080\nCOMMIT\n"
    (tmp_path / "ip6tables-save.txt").write_text(text)
    (tmp_path / "ip-addr.json").write_text("[]")
    told = drawn(*traced(tmp_path, "2001:db8::9", "fd00::10"))
    assert "\n[fd00::1]:8080  1 " in told


def test_a_file_gets_no_colour_and_no_trailing_spaces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show(*recorded("ipvs", OUTSIDER, "172.30.20.1"))
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert all(line == line.rstrip() for line in told.splitlines())
    assert max(map(len, told.splitlines())) <= 120


@pytest.mark.parametrize("name", PICTURED)
def test_the_long_form_quotes_every_rule_and_says_what_hooks_are_for(name: str) -> None:
    found, around = recorded(*PICTURED[name])
    told = explain(found, around, width=90, everything=True)
    for end in found.ends:
        for step in end.branch.steps():
            assert step.text in told or step.hook == "routing"
    assert "PREROUTING: the packet has just come in." in told
    assert ("REPLY: the client waits" in told) == bool(found.destinations)


def test_the_long_form_keeps_its_width_but_for_rules() -> None:
    told = explain(*recorded("iptables", OUTSIDER, "172.30.0.44"), width=70)
    assert all(len(line) <= 70 or "  | " in line for line in told.splitlines())
