"""The running node, with programs and the API replaced."""

from pathlib import Path

import pytest

from diagnostics.snapshot import live
from diagnostics.snapshot.live import LiveSource, live_snapshot
from diagnostics.snapshot.parts import Gap, Part
from proxy.kernel.command import Completed, Denied, ToolMissing
from proxy.sources.failures import ConnectionFailedError


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    ran: list[tuple[str, ...]] = []

    def run(argv, *, timeout_s, check):
        ran.append(tuple(argv))
        if argv[0] == "nft":
            raise ToolMissing(argv, "nft is not installed", hint="install the package nftables")
        if argv[0] == "iptables-save":
            raise Denied(argv, "exit status 4", hint="run as root")
        return Completed(
            {"ip": "[]", "sysctl": "net.ipv4.ip_forward = 1\n"}.get(argv[0], ""), "", 1
        )

    monkeypatch.setattr(live, "run", run)
    return ran


def node(tmp_path: Path, **more):
    from diagnostics.snapshot.node import NodeSnapshot

    return NodeSnapshot(LiveSource(root=tmp_path, **more))


def test_nothing_is_read_before_it_is_asked_for_and_then_once(commands, tmp_path):
    one = node(tmp_path)
    assert commands == []
    assert one.sysctls() is one.sysctls()
    assert commands == [("sysctl", "-a")]


def test_missing_tools_and_permissions_are_gaps_with_a_next_step(commands, tmp_path):
    one = node(tmp_path)
    denied, missing = one.text(Part.IPTABLES), one.text(Part.NFT_JSON)
    assert isinstance(denied, Gap)
    assert isinstance(missing, Gap)
    assert (denied.how, missing.how) == ("run as root", "install the package nftables")
    assert "nft is not installed" in missing.why
    assert one.gaps() == (denied, missing)


def test_programs_that_would_load_a_module_are_not_started(commands, tmp_path):
    one = node(tmp_path)
    assert one.ipvs().servers == ()
    assert list(one.ipsets()) == []
    assert commands == []
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/ip_vs").write_text("")
    assert node(tmp_path).ipvs().servers == ()
    assert commands == [("ipvsadm", "-Sn")]


def test_affinity_is_read_from_proc(tmp_path):
    folder = tmp_path / "proc/net/xt_recent"
    folder.mkdir(parents=True)
    (folder / "KUBE-SEP-A").write_text("src=10.0.0.2 ttl: 64 last_seen: 1 oldest_pkt: 1 1\n")
    assert {name: len(found) for name, found in node(tmp_path).recent().lists.items()} == {
        "KUBE-SEP-A": 1
    }


def test_objects_come_from_the_api_or_are_a_gap(tmp_path):
    def objects(part: Part) -> bytes:
        if part is Part.SERVICES:
            return b'{"kind":"ServiceList","apiVersion":"v1","items":[]}'
        raise ConnectionFailedError("connection refused")

    one = node(tmp_path, objects=objects)
    assert one.objects().services == ()
    assert one.objects().slices is None
    assert "connection refused" in one.object_gap(Part.SLICES).why
    lonely = live_snapshot(why_no_objects="nobody to ask", name="a")
    assert (lonely.name, lonely.object_gap(Part.PODS).why) == ("a", "nobody to ask")


def test_connections_come_from_proc_where_the_tool_is_missing(monkeypatch, tmp_path):
    def run(argv, **_):
        raise ToolMissing(argv, "conntrack is not installed")

    monkeypatch.setattr(live, "run", run)
    assert isinstance(node(tmp_path).flows(), Gap)
    (tmp_path / "proc/net").mkdir(parents=True)
    line = "ipv4 2 udp 17 9 src=1.1.1.1 dst=2.2.2.2 sport=1 dport=2 "
    line += "src=2.2.2.2 dst=1.1.1.1 sport=2 dport=1"
    (tmp_path / "proc/net/nf_conntrack").write_text(f"{line} mark=0 zone=0 use=2\n")
    assert [flow.protocol for flow in node(tmp_path).flows()] == [17]
