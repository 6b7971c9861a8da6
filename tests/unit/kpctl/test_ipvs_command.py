"""``kpctl ipvs`` on recorded virtual servers: names, what is not known, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from diagnostics.ipvs_view import live
from kpctl.commands.ipvs import ipvs

SAVE = """\
-A -t 10.96.0.9:80 -s rr -p 10800
-a -t 10.96.0.9:80 -r 10.0.0.1:8080 -m -w 1
-a -t 10.96.0.9:80 -r 10.0.0.2:8080 -m -w 0
-A -u 10.96.0.10:53 -s wrr
-a -u 10.96.0.10:53 -r 10.0.0.3:53 -m -w 5
"""
LIST = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.96.0.9:80 rr persistent 10800
  -> 10.0.0.1:8080                Masq    1      7          2
"""
STATS = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  10.96.0.9:80                       12       60       48     4000   123K
  -> 10.0.0.1:8080                      12       60       48     4000   123K
"""
CONNECTIONS = """\
IPVS connection entries
pro expire state       source             virtual            destination
TCP 01:54  FIN_WAIT    192.168.1.1:40000  10.96.0.9:80       10.0.0.1:8080
UDP 04:59  UDP         192.168.1.1:53     10.96.0.10:53      10.0.0.3:53
"""
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {
        "clusterIP": "10.96.0.9",
        "clusterIPs": ["10.96.0.9"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    },
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web-1", "namespace": "shop"},
    "spec": {"nodeName": "node-2"},
    "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
}


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    (tmp_path / "ipvsadm-save.txt").write_text(SAVE)
    for name, kind, item in (("services", "ServiceList", SERVICE), ("pods", "PodList", POD)):
        listed = {"kind": kind, "apiVersion": "v1", "items": [item]}
        (tmp_path / f"{name}.json").write_text(json.dumps(listed))
    return tmp_path


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(ipvs)
    return CliRunner().invoke(app, list(arguments))


def test_names_stand_beside_addresses(dump: Path) -> None:
    result = run("--from", str(dump))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[1].split()[:4] == ["TCP", "10.96.0.9:80", "shop/web:http", "rr"]
    assert "persistent 10800" in lines[1]
    assert "pod shop/web-1 on node-2" in lines[2]
    assert "?" in lines[2].split(), "numbers of connections are not in this dump"
    assert result.stderr.count("deprecated") == 1


def test_json_has_null_for_what_is_not_known(dump: Path) -> None:
    report = json.loads(run("--from", str(dump), "svc/web", "-n", "shop", "-o", "json").stdout)
    assert (report["apiVersion"], report["kind"]) == ("kpctl.io/v1", "IpvsReport")
    (server,) = report["virtualServers"]
    assert (server["service"], server["scheduler"]) == ("shop/web:http", "rr")
    real = server["realServers"][0]
    assert (real["owner"], real["weight"]) == ("pod shop/web-1 on node-2", 1)
    assert real["activeConnections"] is None


def test_the_listing_tells_connections_too(dump: Path) -> None:
    (dump / "ipvsadm-list.txt").write_text(LIST)
    report = json.loads(run("--from", str(dump), "-o", "json").stdout)
    real = report["virtualServers"][0]["realServers"][0]
    assert (real["activeConnections"], real["inactiveConnections"]) == (7, 2)


def test_statistics_have_the_settings_of_the_other_dump(dump: Path) -> None:
    (dump / "ipvsadm-list.txt").write_text(STATS)
    report = json.loads(run("--from", str(dump), "--stats", "-o", "json").stdout)
    (server,) = report["virtualServers"]
    assert server["counters"]["bytesOut"] == 123_000
    assert (server["scheduler"], server["realServers"][0]["weight"]) == ("rr", 1)
    assert "OUTBYTES" in run("--from", str(dump), "--stats").stdout


def test_statistics_that_no_dump_has_are_undetermined(dump: Path) -> None:
    result = run("--from", str(dump), "--rate")
    assert result.exit_code == 3
    assert "ipvsadm -Ln --rate" in result.stderr


def test_connections_are_read_from_a_file_of_a_directory(dump: Path) -> None:
    (dump / "ipvsadm-connections.txt").write_text(CONNECTIONS)
    result = run("--from", str(dump), "-c", "shop/web")
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()[1:]
    assert line.split()[:3] == ["TCP", "01:54", "FIN_WAIT"]
    assert "shop/web:http" in line
    assert "pod shop/web-1 on node-2" in line


def test_connections_are_read_from_a_listing_alone(tmp_path: Path) -> None:
    path = tmp_path / "anything"
    path.write_text(CONNECTIONS)
    report = json.loads(run("--from", str(path), "-c", "10.96.0.10", "-o", "json").stdout)
    assert report["kind"] == "IpvsConnections"
    (one,) = report["connections"]
    assert one["real"] == {"address": "10.0.0.3", "port": 53, "owner": None}


def test_connections_that_are_not_in_the_dump_are_undetermined(dump: Path) -> None:
    result = run("--from", str(dump), "-c")
    assert result.exit_code == 3
    assert "ipvsadm -Lnc" in result.stderr


def test_a_service_without_virtual_server_is_not_found(dump: Path) -> None:
    assert run("--from", str(dump), "svc/other", "-n", "shop").exit_code == 1


def test_a_name_without_api_objects_is_undetermined(dump: Path) -> None:
    (dump / "services.json").unlink()
    result = run("--from", str(dump), "svc/web")
    assert result.exit_code == 3
    assert "Services" in result.stderr


@pytest.mark.parametrize("arguments", [["--stats", "-c"], ["a/b/c"], ["--stats", "--rate"]])
def test_a_wrong_command_line_is_refused(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_node_without_ipvs_says_so_and_has_no_virtual_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "has_ipvs", lambda: False)
    result = run("-o", "json")
    assert result.exit_code == 0
    assert "ip_vs" in result.stderr
    report = json.loads(result.stdout)
    assert (report["available"], report["virtualServers"]) == (False, [])
    assert run("10.96.0.9:80").exit_code == 1
