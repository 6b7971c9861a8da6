"""What is printed of probes and watches, and the exit codes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from kpctl.exit_codes import ENVIRONMENT, FINDINGS, OK, UNDETERMINED, USAGE
from kpctl.live_trace import run
from kpctl.live_trace.guard import Limits
from kpctl.live_trace.packets import TracedPacket
from kpctl.live_trace.probe import Answer, Probe, Probed
from kpctl.live_trace.question import LiveTraceError, PacketFilter
from kpctl.live_trace.watch import Watch, WatchOptions
from proxy.conntrack.entries import Direction, Entry
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily
from tests.support.nft_traces import recorded
from tests.support.rule_books import FakeRuleBook

_FILTER = PacketFilter(IPFamily.IPV4, 6, ip_address("10.96.0.10"), 80)
_SENT = Direction("192.0.2.11", 50299, "10.96.0.10", 80)
_ENTRY = Entry(
    _SENT,
    Direction("10.244.1.11", 8080, "10.244.1.1", 20225),
    "ESTABLISHED",
    replied=True,
    assured=True,
    source_rewritten=True,
    destination_rewritten=True,
    mark=0,
)
_REJECT = {("reject-chain", 34): "reject"}


def packet(name: str) -> TracedPacket:
    return TracedPacket(1.0, tuple(recorded(name)))


class Book(FakeRuleBook):
    """Rules for these tests, and nothing that could not be listed."""

    def __init__(self) -> None:
        super().__init__(_REJECT)
        self.gaps: list[str] = []


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose rules are made up and that has no iptables-legacy."""
    monkeypatch.setattr(run, "KernelRuleBook", Book)
    monkeypatch.setattr(run, "legacy_tables", lambda family: ())
    monkeypatch.setenv("COLUMNS", "200")


def probed(**changes: object) -> Probed:
    whole = Probed(
        Answer.CONNECTED, "", 0.0123, _SENT, _ENTRY, (packet("iptables-cluster-ip"),), False
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def ask(monkeypatch: pytest.MonkeyPatch, result: Probed, *, as_json: bool = False) -> int:
    monkeypatch.setattr(run, "send_probe", lambda probe, limits: result)
    return run.run_probe(Probe(6, ip_address("10.96.0.10"), 80), as_json=as_json)


def watch(
    monkeypatch: pytest.MonkeyPatch,
    *names: str,
    as_json: bool = False,
    end: BaseException | None = None,
) -> int:
    def feed(self: Watch, take: Callable[[TracedPacket], None]) -> None:
        for name in names:
            take(packet(name))
        if end is not None:
            raise end

    monkeypatch.setattr(Watch, "run", feed)
    return run.run_watch(_FILTER, WatchOptions(), as_json=as_json)


def test_a_probe_ends_with_where_it_landed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(monkeypatch, probed()) == OK
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-2].startswith("connection table: 192.0.2.11:50299 -> 10.96.0.10:80, answers")
    assert lines[-1] == (
        "The connection was opened after 12.3 ms; it landed on 10.244.1.11:8080,"
        " which sees 10.244.1.1:20225 instead."
    )


def test_a_probes_json_has_all_that_the_text_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(monkeypatch, probed(lost=True), as_json=True) == OK
    report = json.loads(capsys.readouterr().out)
    assert (report["apiVersion"], report["kind"]) == ("kpctl.io/v1", "ProbeReport")
    assert report["landed"] == {"address": "10.244.1.11", "port": 8080}
    assert report["connection"]["state"] == "ESTABLISHED"
    assert report["packets"][0]["steps"][0]["hook"] == "output"
    assert report["packets"][0]["outcome"] == "sent"
    assert "more to tell than could be read" in report["gaps"][0]


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        (
            {
                "answer": Answer.REFUSED,
                "entry": None,
                "packets": (packet("nftables-reject"), packet("nftables-reject")),
            },
            FINDINGS,
            "It was refused after 12.3 ms; a rule rejected it in forward.",
        ),
        (
            {"answer": Answer.UNREACHABLE, "detail": "No route", "entry": None, "packets": ()},
            FINDINGS,
            "It is unreachable (No route) after 12.3 ms; neither the connection table nor the"
            " kernel's trace tells where it went.",
        ),
        (
            {
                "answer": Answer.SILENT,
                "entry": replace(
                    _ENTRY, replied=False, reply=Direction("10.244.1.11", 8080, *_SENT[:2])
                ),
            },
            FINDINGS,
            "No answer came after 12.3 ms; it was sent on to 10.244.1.11:8080,"
            " which sees the caller's address.",
        ),
        (
            {"entry": None},
            OK,
            "The connection was opened after 12.3 ms; it landed on 10.244.1.11:8080,"
            " which sees 10.244.1.1:20225 instead.",
        ),
        (
            {"answer": Answer.SILENT, "entry": replace(_ENTRY, replied=False, tcp_state="")},
            OK,
            "No answer came after 12.3 ms; it was sent on to 10.244.1.11:8080,"
            " which sees 10.244.1.1:20225 instead.",
        ),
    ],
)
def test_a_probe_that_is_not_answered_says_what_is_known(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    code: int,
    sentence: str,
) -> None:
    assert ask(monkeypatch, probed(**changes)) == code
    assert capsys.readouterr().out.strip().splitlines()[-1] == sentence


def test_a_watch_spells_a_way_out_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "nftables-pod-cluster-ip"
    assert watch(monkeypatch, name, name) == OK
    told = capsys.readouterr()
    assert told.out.count("goes to 10.244.2.13:8080") == 2
    assert told.out.count("kube-proxy services handle 48") == 1
    assert "2 packets in 0 s: 2 sent" in told.err


def test_a_watchs_json_is_a_line_for_each_packet_and_a_last_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(monkeypatch, "nftables-loopback", "nftables-reject", as_json=True) == FINDINGS
    first, second, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["kind"], first["outcome"]) == ("TracedPacket", "delivered")
    assert second["outcome"] == "rejected"
    assert (last["kind"], last["packets"]) == ("WatchReport", 2)
    assert (last["outcomes"]["rejected"], last["outcomes"]["sent"]) == (1, 0)


def test_a_watch_that_saw_nothing_is_undetermined(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(monkeypatch) == UNDETERMINED


def test_ctrl_c_ends_a_watch_with_its_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(monkeypatch, "nftables-loopback", end=KeyboardInterrupt()) == OK
    assert "1 packets in 0 s: 1 delivered" in capsys.readouterr().err


def test_a_refusal_says_why_and_what_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(monkeypatch, end=LiveTraceError("too busy", "wait", USAGE)) == USAGE
    assert capsys.readouterr().err.endswith("error: too busy; wait\n")


def test_a_refusal_of_the_kernel_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(monkeypatch, end=NetlinkError(12)) == ENVIRONMENT
    assert "error: the kernel's trace failed: Cannot allocate memory" in capsys.readouterr().err


def test_no_alarm_is_left_after_a_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, "nftables-loopback")
    assert signal.alarm(0) == 0


def test_tables_of_iptables_legacy_are_a_gap(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "legacy_tables", lambda family: ("filter", "nat"))
    watch(monkeypatch, "nftables-loopback")
    told = capsys.readouterr().err
    assert "gap: iptables-legacy has tables here (filter, nat): no trace shows their rules" in told


@pytest.mark.parametrize(("for_s", "count"), [(0.0, 1), (3601.0, 1), (1.0, 0), (1.0, 100_001)])
def test_a_watch_has_an_end(capsys: pytest.CaptureFixture[str], for_s: float, count: int) -> None:
    assert run.run_watch(_FILTER, WatchOptions(for_s, count)) == USAGE
    assert "is not within" in capsys.readouterr().err


def test_a_check_says_that_nothing_was_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "objections", lambda packets, limits: iter(()))
    assert run.run_check(_FILTER) == OK
    assert capsys.readouterr().err.endswith("to 10.96.0.10:80; nothing was sent\n")


def test_a_check_tells_all_reasons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = [LiveTraceError("too wide", "narrow it", USAGE), LiveTraceError("too busy", "wait")]
    monkeypatch.setattr(run, "objections", lambda packets, limits: iter(reasons))
    assert run.run_check(_FILTER, limits=Limits()) == USAGE
    assert capsys.readouterr().err == (
        "not possible here: too wide; narrow it\nnot possible here: too busy; wait\n"
    )
    assert run.run_check(_FILTER, as_json=True) == USAGE
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["possible"]) == ("LiveTraceCheck", False)
    assert report["objections"][1] == {"why": "too busy", "next": "wait"}


def test_a_device_that_is_gone_is_its_number() -> None:
    assert run.device_name(1) == "lo"
    assert run.device_name(2**30) == f"device {2**30}"
