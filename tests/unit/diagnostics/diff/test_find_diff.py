"""Two dumps in terms of Services: what calls notice, and what is no difference."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diagnostics.cluster.plans import load_cluster
from diagnostics.diff.find import DiffReport, find_diff
from diagnostics.intended.compile import compile_cluster
from diagnostics.intended.node import IntendedNode
from diagnostics.snapshot.open import open_snapshot
from kpctl.cli import app
from proxy.model.addresses import IPFamily
from tests.support.drift_faults import DATA, Edit, both, swapped, without

IPTABLES, NFTABLES, IPVS = (
    DATA / "snapshots" / "iptables",
    DATA / "drift" / "nftables",
    DATA / "drift" / "ipvs",
)
RULES = {IPTABLES: "iptables-save.txt", NFTABLES: "nft-ruleset.txt", IPVS: "ipvsadm-save.txt"}


def diff(before: Path, after: Path) -> DiffReport:
    return find_diff(open_snapshot(before).node(), open_snapshot(after).node())


def kinds(report: DiffReport) -> set[tuple[str, str]]:
    return {(one.kind.value, one.service) for one in report.differences}


def edited(node: Path, edit: Edit, into: Path) -> Path:
    copy = shutil.copytree(node, into / "after")
    path = copy / RULES[node]
    text = path.read_text()
    changed = edit(text)
    assert changed != text
    path.chmod(0o644)
    path.write_text(changed)
    return copy


def with_lines_reversed(chain: str) -> Edit:
    """Turn the rules of an iptables chain round."""

    def edit(text: str) -> str:
        lines = text.splitlines()
        places = [n for n, line in enumerate(lines) if line.startswith(f"-A {chain} -d ")]
        for place, line in zip(places, [lines[n] for n in reversed(places)], strict=True):
            lines[place] = line
        return "\n".join(lines) + "\n"

    return edit


def with_other_hashes(text: str) -> str:
    """Rename every chain of a Service and an endpoint."""
    return re.sub(r"(KUBE-(?:SVC|SEP|EXT|FW|SVL)-)(\w{16})", lambda m: m[1] + m[2][::-1], text)


def with_counters(text: str) -> str:
    text = re.sub(r"^(:\w+ \w+) \[\d+:\d+\]", r"\1 [77:8888]", text, flags=re.MULTILINE)
    return re.sub(r"^(?:\[\d+:\d+\] )?-A", "[5:300] -A", text, flags=re.MULTILINE)


@pytest.mark.parametrize("node", RULES, ids=lambda node: RULES[node])
def test_a_node_does_not_differ_from_itself(node: Path) -> None:
    report = diff(node, node)
    assert (report.differences, report.undetermined) == ((), "")
    assert report.frontends >= 10


@pytest.mark.parametrize(
    "edit",
    [with_counters, with_other_hashes, with_lines_reversed("KUBE-SERVICES")],
    ids=["counters", "hashes", "order"],
)
def test_what_calls_do_not_notice_is_no_difference(edit: Edit, tmp_path: Path) -> None:
    after = edited(IPTABLES, edit, tmp_path)
    assert kinds(diff(IPTABLES, after)) == set()
    assert kinds(diff(after, IPTABLES)) == set()


def test_of_another_mode_only_what_it_does_otherwise_is_a_difference() -> None:
    node = open_snapshot(NFTABLES).node()
    compiled = compile_cluster(load_cluster(node), "iptables", [IPFamily.IPV4])
    report = find_diff(node, IntendedNode(node, compiled))
    assert report.frontends >= 10
    # Mode iptables drops at every address of the node what nftables drops at those for NodePorts;
    # the API server's Service is not among the recorded ones.
    expected = {("stale", "ns2/svc2:p80"), ("missing", "default/kubernetes:https")}
    assert kinds(report) == expected


LOST = both(without("172.30.0.41 . tcp . 80 : goto"), swapped("172.30.0.41, ?", ""))


DROPPED = ('(comment "ns6/svc6:p80" :) goto reject-chain', r"\1 drop")
UNEVEN = (
    r"mod 2 map \{ 0 : 10.180.0.4 . 80, 1",
    "mod 3 map { 0 : 10.180.0.4 . 80, 2 : 10.180.0.4 . 80, 1",
)


@pytest.mark.parametrize(
    ("edit", "kind", "service"),
    [
        (LOST, "missing", "ns1/svc1:p80"),
        (swapped("10.180.0.1 . 80", "10.180.0.1 . 8080"), "port", "ns1/svc1:p80"),
        (swapped("10.180.0.4 . 80", "10.180.0.44 . 80"), "endpoints", "ns4/svc4:p80"),
        (swapped(*DROPPED), "policy", "ns6/svc6:p80"),
        (without("masquerade clusterIP traffic"), "masquerade", "ns1/svc1:p80"),
        (without("@hairpin-connections masquerade"), "masquerade", "ns4/svc4:p80"),
        (swapped("timeout 3h", "timeout 10m"), "affinity", "ns5/svc5:p80"),
        (swapped(*UNEVEN), "weight", "ns4/svc4:p80"),
    ],
)
def test_what_calls_notice_is_told(edit: Edit, kind: str, service: str, tmp_path: Path) -> None:
    after = edited(NFTABLES, edit, tmp_path)
    assert (kind, service) in kinds(diff(NFTABLES, after))
    mirrored = {"missing": "stale"}.get(kind, kind)
    assert (mirrored, service) in kinds(diff(after, NFTABLES))


def test_without_rules_of_any_kind_there_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "ip-addr.json").write_text("[]")
    report = diff(NFTABLES, tmp_path)
    assert report.undetermined == "one side has no rules that could be read"
    assert report.gaps


def run(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, ["diff", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr


def test_the_command_exits_with_0_1_3_or_4(tmp_path: Path) -> None:
    after = edited(NFTABLES, LOST, tmp_path)
    (tmp_path / "blind").mkdir()
    (tmp_path / "blind" / "ip-addr.json").write_text("[]")
    assert run(NFTABLES, NFTABLES)[0] == 0
    assert run(NFTABLES, after)[0] == 1
    assert run(NFTABLES, tmp_path / "blind")[0] == 3
    assert run(NFTABLES, tmp_path / "nowhere")[0] == 4


def test_the_text_shows_both_sides(tmp_path: Path) -> None:
    _, text, _ = run(NFTABLES, edited(NFTABLES, LOST, tmp_path))
    assert "REMOVED: no longer served" in text
    assert "before: goes to 10.180.0.1:80" in text
    assert "after:  is dropped" in text
    assert re.search(r"1 difference in \d+ frontends", text)


def test_json_has_all_differences(tmp_path: Path) -> None:
    _, text, _ = run(NFTABLES, edited(NFTABLES, LOST, tmp_path), "-o", "json")
    report = json.loads(text)
    assert (report["apiVersion"], report["kind"]) == ("kpctl.io/v1", "DiffReport")
    assert [one["service"] for one in report["differences"]] == ["ns1/svc1:p80"]
    assert report["undetermined"] is None


def test_a_side_without_rules_is_undetermined_in_json_too(tmp_path: Path) -> None:
    (tmp_path / "ip-addr.json").write_text("[]")
    code, text, errors = run(NFTABLES, tmp_path, "-o", "json")
    assert (code, json.loads(text)["undetermined"]) == (
        3,
        "one side has no rules that could be read",
    )
    assert "gap: " in errors
