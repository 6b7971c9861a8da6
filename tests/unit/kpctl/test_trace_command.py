"""``kpctl trace packet`` on recorded rules: answers, exit codes, and words for wrong input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kpctl.cli import app

DATA = Path(__file__).parents[2] / "data" / "nft"
OUTSIDER, POD = "203.0.113.2", "10.0.0.2"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A node that kube-proxy recorded in nftables mode, with its addresses."""
    (tmp_path / "nft-ruleset.json").write_text((DATA / "every-service-kind.json").read_text())
    own = [{"family": "inet", "local": "192.168.0.2", "prefixlen": 24}]
    links = [{"ifindex": 2, "ifname": "eth0", "addr_info": own, "flags": ["UP"]}]
    (tmp_path / "ip-addr.json").write_text(json.dumps(links))
    route = [{"dst": "default", "gateway": "192.168.0.1", "dev": "eth0", "flags": []}]
    (tmp_path / "ip-route.json").write_text(json.dumps(route))
    return tmp_path


def run(*arguments: str, stdin: str = "") -> Any:
    return CliRunner().invoke(app, ["trace", "packet", *arguments], input=stdin)


def asked(dump: Path, dst: str, *more: str, src: str = OUTSIDER) -> Any:
    return run("--from", str(dump), "--src", src, "--dst", dst, *more)


def test_the_json_answer_has_exact_shares_and_names_the_service(dump: Path) -> None:
    found = asked(dump, "172.30.0.44", "-o", "json")
    assert found.exit_code == 0
    report = json.loads(found.stdout)
    assert (report["apiVersion"], report["kind"]) == ("kpctl.io/v1", "TraceReport")
    assert report["packet"] == {
        "src": OUTSIDER,
        "dst": "172.30.0.44",
        "port": 80,
        "protocol": "TCP",
    }
    assert (report["verdict"], report["certainty"]) == ("dnat", "certain")
    assert report["endpoints"] == [
        {"address": ip, "port": 80, "probability": "1/2", "masquerade": True}
        for ip in ("10.180.0.4", "10.180.0.5")
    ]
    assert (report["service"], report["dataplane"]) == ("ns4/svc4:p80", "nftables")
    assert report["steps"]


def test_the_text_ends_with_the_verdict_in_one_sentence(dump: Path) -> None:
    found = asked(dump, "172.30.0.44")
    last = " ".join(found.stdout.rpartition("\n\n")[2].split())
    assert last == (
        "Certain: the packet goes to one of 2 endpoints of ns4/svc4:p80 by nftables, 1/2 each, "
        "with its source address rewritten."
    )


@pytest.mark.parametrize(
    ("dst", "verdict", "code"), [("172.30.0.46", "reject", 1), ("192.0.2.77", "none", 0)]
)
def test_the_exit_code_tells_whether_the_packet_gets_through(
    dump: Path, dst: str, verdict: str, code: int
) -> None:
    found = asked(dump, dst, "-o", "json")
    assert (json.loads(found.stdout)["verdict"], found.exit_code) == (verdict, code)


def test_without_rules_the_answer_is_undetermined(tmp_path: Path) -> None:
    (tmp_path / "ip-addr.json").write_text("[]")
    found = asked(tmp_path, "172.30.0.44", "-o", "json")
    assert found.exit_code == 3
    assert json.loads(found.stdout)["certainty"] == "unknown"
    assert "gap: IPv4 iptables rules" in found.stderr


def test_many_packets_get_one_line_each(dump: Path) -> None:
    questions = [
        {"src": POD, "dst": "172.30.0.41", "port": 80, "protocol": "TCP"},
        {"src": POD, "dst": "172.30.0.46", "port": 80, "protocol": "TCP", "iface": "eth0"},
    ]
    lines = "\n".join(map(json.dumps, questions))
    found = run("--from", str(dump), "--packets", "-", stdin=lines)
    assert found.exit_code == 0
    verdicts = [json.loads(line)["verdict"] for line in found.stdout.splitlines()]
    assert verdicts == ["dnat", "reject"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dst", "10.0.0.1"], "and --dst are needed"),
        (["--src", "x", "--dst", "10.0.0.1"], "src: 'x' is not an IP address"),
        (["--src", "::1", "--dst", "10.0.0.1"], "of different IP families"),
        (["--src", POD, "--dst", POD, "--protocol", "GRE"], "protocol: 'GRE' is none of"),
        (["--src", POD, "--dst", POD, "--mark", "red"], "mark: 'red' is not a number"),
    ],
)
def test_a_wrong_question_is_told_by_its_field(dump: Path, arguments: list[str], said: str) -> None:
    found = run("--from", str(dump), *arguments)
    assert found.exit_code == 2
    assert said in found.stderr


def test_a_wrong_line_is_told_by_its_number(dump: Path) -> None:
    found = run("--from", str(dump), "--packets", "-", stdin='{"src": "10.0.0.2"}\n')
    assert found.exit_code == 2
    assert "-: line 1: dst: missing" in found.stderr


def test_a_dump_that_is_not_there_is_an_environment_error(tmp_path: Path) -> None:
    found = asked(tmp_path / "nowhere", "172.30.0.44")
    assert found.exit_code == 4
    assert "nowhere" in found.stderr
