"""``kpctl conntrack`` on a dump: tables, JSON, exit codes, and what it says of missing parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kpctl.commands.conntrack import app
from tests.support import conntrack_dump as dump


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return dump.write_dump(tmp_path / "node")


def run(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def read(result: Result) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(result.stdout)
    assert value["apiVersion"] == "kpctl.io/v1"
    return value


# -- status ----------------------------------------------------------------------------------------


def test_status_tells_use_shares_and_counters(node: Path) -> None:
    result = run("status", "--from", str(node))
    assert result.exit_code == 1  # stale UDP flows
    for part in (
        "Entries:   11 of 131072",
        "shop/dns:p",
        "pod shop/dns_2 on n1",
        "10.244.0.9",
        "invalid",
        "warning: 4 UDP entries lead to no current endpoint",
    ):
        assert part in result.stdout


def test_status_as_json_has_what_the_table_has(node: Path) -> None:
    value = read(run("status", "--from", str(node), "-o", "json"))
    assert value["kind"] == "ConntrackStatus"
    assert (value["table"]["count"], value["table"]["max"]) == (11, 131072)
    assert value["counters"]["found"] == 100
    assert value["meanings"]["invalid"]["what"]
    assert value["content"]["services"][0] == {
        "service": "shop/dns:p",
        "protocol": "UDP",
        "count": 4,
    }
    assert {one["name"] for one in value["findings"]} == {"stale"}


def test_a_full_table_is_an_error_level_finding(tmp_path: Path) -> None:
    full = dump.write_dump(tmp_path / "full", (dump.FINE_UDP,) * 20, nf_conntrack_max=20)
    result = run("status", "--from", str(full), "-o", "json")
    assert result.exit_code == 1
    assert [one["level"] for one in read(result)["findings"]] == ["error"]


def test_a_healthy_table_is_done(tmp_path: Path) -> None:
    fine = dump.write_dump(tmp_path / "fine", (dump.FINE_UDP, dump.FINE_TCP, dump.PING))
    assert run("status", "--from", str(fine)).exit_code == 0


def test_growth_since_a_former_answer(node: Path, tmp_path: Path) -> None:
    former = tmp_path / "former.json"
    value = read(run("status", "--from", str(node), "-o", "json"))
    value["time"] -= 10
    value["table"]["count"] = 1
    former.write_text(json.dumps(value))
    grown = read(run("status", "--from", str(node), "--since", str(former), "-o", "json"))
    assert grown["growth"]["entriesPerSecond"] == pytest.approx(1, abs=0.01)


def test_without_a_limit_the_use_is_not_known(node: Path) -> None:
    (node / "sysctl.txt").unlink()
    result = run("status", "--from", str(node), "--top", "1")
    assert "Entries:   11 of ? (?)" in result.stdout
    assert "gap: kernel settings" in result.stderr


def test_without_a_table_what_is_known_is_told_and_the_answer_undetermined(node: Path) -> None:
    (node / "conntrack.txt").unlink()
    result = run("status", "--from", str(node))
    assert result.exit_code == 3
    assert "of 131072" in result.stdout
    assert "gap: connections: not in" in result.stderr


def test_a_table_alone_is_read_without_names(node: Path) -> None:
    value = read(run("status", "--from", str(node / "conntrack.txt"), "-o", "json"))
    assert value["content"]["entries"] == 11
    assert value["content"]["stale"] is None
    assert any("Services" in gap for gap in value["gaps"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--interval", "1s"), "--since"),
        (("--interval", "1s", "--since", "x"), "choose one"),
        (("--interval", "soon"), "duration"),
        (("--since", "/dev/null"), "is no JSON"),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    node: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = run("status", "--from", str(node), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_path_that_is_not_there_is_an_environment_error(tmp_path: Path) -> None:
    assert run("status", "--from", str(tmp_path / "absent")).exit_code == 4


@pytest.mark.parametrize("what", ["status", "capacity", "audit", "tune"])
def test_numbers_that_no_kernel_has_do_no_harm(tmp_path: Path, what: str) -> None:
    huge = "9" * 400
    lines = (dump.GONE_ENDPOINT.replace("bytes=500", f"bytes={huge}"), "udp 17 " + huge, huge)
    node = dump.write_dump(tmp_path / "odd", lines, nf_conntrack_max=int(huge))
    (node / "conntrack-S.txt").write_text(f"cpu=0 found={huge} drop={huge}\n")
    for output in ("table", "json"):
        result = run(what, "--from", str(node), "-o", output)
        assert result.exit_code in (0, 1, 3)
    line = dump.GONE_ENDPOINT.replace("bytes=500", f"bytes={huge}").replace("17 25", f"17 {huge}")
    assert run("explain", line, "--from", str(node)).exit_code == 1


@pytest.mark.parametrize(
    "value",
    [
        '{"kind":"ConntrackStatus","time":1,"table":[]}',
        '{"kind":"ConntrackStatus","time":1,"table":{"count":' + "9" * 400 + "}}",
        '{"kind":"ConntrackStatus","time":1e999,"table":{"count":1}}',
        '{"kind":"ConntrackStatus","time":1,"table":{"count":-1},"counters":3}',
    ],
)
def test_a_former_answer_that_was_edited_is_refused(node: Path, value: str) -> None:
    former = node / "former.json"
    former.write_text(value)
    assert run("status", "--from", str(node), "--since", str(former)).exit_code == 2


def test_a_table_without_a_limit_is_never_full(tmp_path: Path) -> None:
    node = dump.write_dump(tmp_path / "free", (dump.FINE_UDP,), nf_conntrack_max=0)
    result = run("status", "--from", str(node))
    assert result.exit_code == 0
    assert "1 of no limit" in result.stdout
    capacity = run("capacity", "--from", str(node))
    assert capacity.exit_code == 0
    assert "nf_conntrack_max" not in capacity.stdout


# -- capacity and tune -----------------------------------------------------------------------------


def test_capacity_tells_size_and_memory(node: Path) -> None:
    result = run("capacity", "--from", str(node), "--entries", "300000", "-o", "json")
    value = read(result)
    assert result.exit_code == 1
    assert value["advised"]["entries"] == 1 << 20
    assert value["advised"]["memoryBytes"] == (1 << 20) * 392
    table = run("capacity", "--from", str(node), "--entries", "300000").stdout
    assert "392.0 MiB" in table
    assert "384 bytes an entry" in table


def test_a_table_that_is_large_enough_is_done(node: Path) -> None:
    assert run("capacity", "--from", str(node)).exit_code == 0


def test_a_horizon_needs_growth(node: Path) -> None:
    assert run("capacity", "--from", str(node), "--horizon", "1h").exit_code == 2


def test_tune_prints_a_file_for_a_dump_and_applies_nothing(node: Path) -> None:
    result = run("tune", "--from", str(node), "--entries", "300000")
    assert result.exit_code == 0
    assert "\nnet.netfilter.nf_conntrack_max = 1048576\n" in result.stdout
    assert run("tune", "--from", str(node), "--yes").exit_code == 2
    assert run("tune", "--from", str(node), "--undo").exit_code == 2


# -- audit -----------------------------------------------------------------------------------------


def test_audit_lists_stale_entries_udp_first_with_rates(node: Path) -> None:
    result = run("audit", "--from", str(node))
    assert result.exit_code == 1
    rows = result.stdout.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["UDP"] * 4 + ["TCP"]
    assert "10 B/s" in rows[0]
    assert "10.244.0.77:5353" in rows[0]
    assert "(not translated)" in result.stdout


def test_audit_as_json_has_reason_service_and_entry(node: Path) -> None:
    value = read(run("audit", "--from", str(node), "-o", "json", "--protocol", "tcp", "--all"))
    assert [item["reason"] for item in value["items"]] == ["NotServing", "NotServing"]
    assert {item["entry"]["state"] for item in value["items"]} == {"ESTABLISHED", "TIME_WAIT"}
    assert value["items"][0]["service"] == "shop/web:p"
    assert value["deletion"] is None


def test_what_is_not_listed_is_told(node: Path) -> None:
    result = run("audit", "--from", str(node), "--limit", "2")
    assert len(result.stdout.splitlines()) == 3
    assert "3 more stale entries are not listed" in result.stderr


def test_no_stale_entries_is_done(tmp_path: Path) -> None:
    fine = dump.write_dump(tmp_path / "fine", (dump.FINE_UDP, dump.FINE_TCP))
    result = run("audit", "--from", str(fine))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no stale entries among 2" in result.stderr


@pytest.mark.parametrize("part", ["endpointslices.json", "services.json", "conntrack.txt"])
def test_what_cannot_be_judged_is_undetermined_never_fine(node: Path, part: str) -> None:
    (node / part).unlink()
    result = run("audit", "--from", str(node))
    assert result.exit_code == 3
    assert "gap: " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--delete", "--yes", "--from", "x"),
        ("--yes",),
        ("--delete",),  # standard input is no terminal here
        ("--interval", "1s", "--from", "x"),
        ("--protocol", "gre", "--from", "x"),
        ("--limit", "0"),
    ],
)
def test_an_audit_that_cannot_be_meant_is_refused_before_anything_is_read(
    arguments: tuple[str, ...],
) -> None:
    assert run("audit", *arguments).exit_code == 2


# -- explain ---------------------------------------------------------------------------------------


def test_a_pasted_line_is_explained_with_its_reason_and_what_clears_it(node: Path) -> None:
    result = run("explain", *dump.GONE_ENDPOINT.split(), "--from", str(node))
    assert result.exit_code == 1
    for part in (
        "Service:    shop/dns:p",
        "destination 10.96.0.10:53 became 10.244.0.77:5353",
        "UNREPLIED: no answer has passed by here",
        "Time left:  25s",
        "Verdict:    stale",
        "its endpoint does not serve the Service",
        "conntrack -D -p udp -s 10.244.0.9 -d 10.96.0.10 --sport 4002 --dport 53",
    ):
        assert part in result.stdout


def test_lines_are_read_from_standard_input(node: Path) -> None:
    lines = f"{dump.FINE_UDP}\n{dump.GONE_TCP}\n"
    result = run("explain", "-", "--from", str(node), "-o", "json", stdin=lines)
    assert result.exit_code == 1
    assert [item["verdict"] for item in read(result)["items"]] == ["fine", "stale"]


def test_a_tuple_is_looked_up_in_either_direction(node: Path) -> None:
    ends = ("--src", "10.244.0.9", "--dst", dump.WEB, "--sport", "5000", "--dport", "80")
    result = run("explain", *ends, "--from", str(node), "-o", "json")
    assert result.exit_code == 0
    value = read(result)
    assert (value["verdict"], value["endpoint"]) == ("fine", "pod shop/web_4 on n1")
    assert value["entry"]["state"] == "ESTABLISHED"
    back = ("--src", "10.244.0.4", "--dst", "10.244.0.9", "--sport", "8080", "--dport", "5000")
    answer = run("explain", *back, "--from", str(node), "-o", "json")
    assert read(answer)["entry"] == value["entry"]


def test_the_rule_that_leads_to_the_endpoint_is_shown(node: Path) -> None:
    (node / "iptables-save.txt").write_text(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
        ":POSTROUTING ACCEPT [0:0]\n:KUBE-SVC-X - [0:0]\n"
        "-A PREROUTING -d 10.96.0.20/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-X\n"
        "-A KUBE-SVC-X -p tcp -m tcp -j DNAT --to-destination 10.244.0.4:8080\nCOMMIT\n"
    )
    fine = run("explain", dump.FINE_TCP, "--from", str(node))
    assert "a new connection goes to 10.244.0.4:8080; which is this endpoint" in fine.stdout
    assert "KUBE-SVC-X" in fine.stdout
    gone = run("explain", dump.GONE_TCP, "--from", str(node), "-o", "json")
    rules = read(gone)["rules"]
    assert rules["endpointReachable"] is False
    assert any("--to-destination" in step["text"] for step in rules["steps"])


def test_without_services_the_verdict_is_unknown(node: Path) -> None:
    (node / "services.json").unlink()
    result = run("explain", dump.FINE_UDP, "--from", str(node))
    assert result.exit_code == 3
    assert "Verdict:    unknown" in result.stdout
    assert "gap: Services" in result.stderr


def test_an_entry_that_is_not_there_is_a_finding(node: Path) -> None:
    ends = ("--src", "10.244.0.9", "--dst", "9.9.9.9", "--dport", "80")
    result = run("explain", *ends, "--from", str(node))
    assert result.exit_code == 1
    assert "no such entry" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "paste a line"),
        (("nonsense",), "is no line of conntrack -L"),
        (("x", "--src", "1.1.1.1"), "choose one"),
        (("--src", "1.1.1.1"), "--dst needed"),
        (("--src", "x", "--dst", "1.1.1.1", "--dport", "1"), "--src 'x' is no IP address"),
        (("--src", "::1", "--dst", "1.1.1.1", "--dport", "1"), "different IP families"),
        (("--src", "1.1.1.1", "--dst", "1.1.1.2"), "--dport needed"),
        (("--src", "1.1.1.1", "--dst", "1.1.1.2", "--dport", "1", "--protocol", "x"), "none of"),
    ],
)
def test_a_question_that_cannot_be_understood_is_one_line(
    arguments: tuple[str, ...], said: str
) -> None:
    result = run("explain", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
