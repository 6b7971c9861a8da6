"""``kpctl drift``: exit codes, both formats, narrowing to Services, and differences over time."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from diagnostics.drift.model import DriftReport
from diagnostics.fate.difference import Difference, Kind
from kpctl.cli import app
from kpctl.commands.drift import exit_code
from kpctl.drift_watch import Watch

NODE = Path(__file__).parents[2] / "data" / "drift" / "nftables"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A node whose kernel lacks one Service and has a wrong target port for another."""
    node = shutil.copytree(NODE, tmp_path / "node")
    rules = node / "nft-ruleset.txt"
    text = re.sub(r".*172\.30\.0\.41 \. tcp \. 80 : goto.*\n", "", rules.read_text())
    rules.chmod(0o644)
    rules.write_text(text.replace("10.180.0.2 . 80", "10.180.0.2 . 8080"))
    return node


def run(dump: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["drift", *arguments, "--from", str(dump)])


def services(dump: Path, *arguments: str) -> list[str]:
    found = run(dump, *arguments, "-o", "json")
    return sorted({one["service"] for one in json.loads(found.stdout)["nodes"][0]["differences"]})


@pytest.mark.parametrize("mode", ["nftables", "ipvs"])
def test_a_healthy_node_agrees_and_exits_with_0(mode: str) -> None:
    found = run(NODE.with_name(mode))
    assert found.exit_code == 0
    text = f"node test-node: kernel and API agree (mode {mode}, 6 service ports)\n"
    assert found.stdout == text


def test_the_text_says_what_was_expected_what_is_there_and_which_rule_decides(broken: Path) -> None:
    found = run(broken)
    assert found.exit_code == 1
    assert "MISSING: in the API, not in the kernel" in found.stdout
    assert "PORT: wrong ports of endpoints" in found.stdout
    lines = [line.strip() for line in found.stdout.splitlines()]
    at = next(n for n, line in enumerate(lines) if line.startswith("ns1/svc1:p80"))
    assert lines[at : at + 3] == [
        "ns1/svc1:p80  172.30.0.41:80/TCP  IPv4",
        "expected: goes to 10.180.0.1:80",
        "actual:   is rejected like every unused address or port of Services",
    ]
    assert re.fullmatch(
        r"node test-node: \d+ differences \(mode nftables, 6 service ports\)", lines[-1]
    )


def test_json_says_all_that_the_text_says(broken: Path) -> None:
    report = json.loads(run(broken, "-o", "json").stdout)
    assert (report["apiVersion"], report["kind"]) == ("kpctl.io/v1", "DriftReport")
    node = report["nodes"][0]
    assert (node["node"], node["mode"], node["servicePorts"]) == ("test-node", "nftables", 6)
    assert node["undetermined"] is None
    one = next(one for one in node["differences"] if one["service"] == "ns1/svc1:p80")
    assert (one["kind"], one["family"], one["actual"]) == (
        "missing",
        "IPv4",
        "is rejected like every unused address or port of Services",
    )
    assert one["subject"] == ["172.30.0.41:80/TCP"]
    assert one["expected"] == "goes to 10.180.0.1:80"
    assert {"external", "pod", "node"} <= set(one["clients"])
    assert one["evidence"]
    assert re.match(r"\d{4}-\d\d-\d\dT", one["since"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["ns1/svc1:p80", "ns2/svc2:p80"]),
        (["-A"], ["ns1/svc1:p80", "ns2/svc2:p80"]),
        (["ns1/svc1"], ["ns1/svc1:p80"]),
        (["svc/svc2", "-n", "ns2"], ["ns2/svc2:p80"]),
        (["ns1/svc1:p80"], ["ns1/svc1:p80"]),
        (["-n", "ns1"], ["ns1/svc1:p80"]),
        (["ns3/svc3"], []),
        (["ns1/svc"], []),
        (["-n", "ns"], []),
    ],
)
def test_differences_are_narrowed_to_services(
    broken: Path, arguments: list[str], expected: list[str]
) -> None:
    assert services(broken, *arguments) == expected
    assert run(broken, *arguments).exit_code == (1 if expected else 0)


def test_what_concerns_the_whole_node_is_never_narrowed_away(broken: Path) -> None:
    rules = broken / "nft-ruleset.txt"
    rules.write_text(rules.read_text().replace("table ip kube-proxy {", "table ip other {"))
    found = run(broken, "ns3/svc3")
    assert found.exit_code == 1
    assert "the whole node  table ip kube-proxy" in found.stdout


@pytest.mark.parametrize("missing", ["services.json", "endpointslices.json", "nft-ruleset.txt"])
def test_without_facts_the_answer_is_undetermined(missing: str, tmp_path: Path) -> None:
    node = shutil.copytree(NODE, tmp_path / "node")
    (node / missing).unlink()
    found = run(node)
    assert found.exit_code == 3
    assert "undetermined" in found.stdout
    assert "gap: " in found.stderr
    assert json.loads(run(node, "-o", "json").stdout)["nodes"][0]["undetermined"]


def test_a_dump_that_is_not_there_is_an_environment_error(tmp_path: Path) -> None:
    found = run(tmp_path / "nowhere")
    assert found.exit_code == 4
    assert "nowhere" in found.stderr


def test_an_undetermined_node_beside_a_drifting_one_is_a_finding() -> None:
    unknown = DriftReport("a", "", undetermined="no rules")
    assert exit_code((unknown,)) == 3
    assert exit_code((unknown, DriftReport("b", "", differences=(LOST,)))) == 1
    assert exit_code((DriftReport("b", ""),)) == 0


LOST = Difference(Kind.MISSING, "shop/web", "IPv4", ("10.96.0.1:80/TCP",), "goes on", "is dropped")
MOVED = Difference(
    Kind.PORT, "shop/api", "IPv4", ("10.96.0.2:80/TCP",), "10.0.0.1:80", "10.0.0.1:81"
)


def watched(*looks: DriftReport | tuple[Difference, ...]) -> list[str]:
    """Return what is said after looks ten seconds apart, without the time of day."""
    lines: list[str] = []
    clock = [0.0]
    watch = Watch(lines.append, lambda: clock[0])
    for look in looks:
        report = look if isinstance(look, DriftReport) else DriftReport("n", "", differences=look)
        watch.seen(report)
        clock[0] += 10
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    return [line.partition(" ")[2] for line in lines]


def test_watching_an_agreeing_node_says_so_once() -> None:
    nothing: Iterable[tuple[Difference, ...]] = ((), (), ())
    assert watched(*nothing) == ["kernel and API agree"]


def test_watching_tells_when_a_difference_comes_and_how_long_it_stayed() -> None:
    assert watched((), (LOST,), (LOST, MOVED), (MOVED,)) == [
        "kernel and API agree",
        "+ missing shop/web IPv4 10.96.0.1:80/TCP: expected: goes on; actual: is dropped",
        "+ port shop/api IPv4 10.96.0.2:80/TCP: expected: 10.0.0.1:80; actual: 10.0.0.1:81",
        "- missing shop/web IPv4 10.96.0.1:80/TCP: gone after 20 s",
    ]


def test_watching_forgets_nothing_while_there_is_no_answer() -> None:
    blind = DriftReport("n", "", undetermined="the API objects are not known")
    assert watched((LOST,), blind, (LOST,), ()) == [
        "+ missing shop/web IPv4 10.96.0.1:80/TCP: expected: goes on; actual: is dropped",
        "undetermined: the API objects are not known",
        "- missing shop/web IPv4 10.96.0.1:80/TCP: gone after 30 s",
    ]
