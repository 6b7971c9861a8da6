"""``kpctl trace svc``: every way to name a Service and a client; words for what is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kpctl.cli import app

NODE = Path(__file__).parents[2] / "data" / "drift" / "nftables"


def run(*arguments: str, dump: Path = NODE) -> Any:
    return CliRunner().invoke(app, ["trace", "svc", *arguments, "--from", str(dump)])


def answer(*arguments: str, dump: Path = NODE) -> dict[str, Any]:
    found = run(*arguments, "-o", "json", dump=dump)
    assert found.stdout, found.stderr
    report: dict[str, Any] = json.loads(found.stdout)
    return report


@pytest.mark.parametrize(
    ("target", "service"),
    [
        ("ns1/svc1", "ns1/svc1:p80"),
        ("svc/ns1/svc1", "ns1/svc1:p80"),
        ("ns1/svc1:p80", "ns1/svc1:p80"),
        ("ns1/svc1:80", "ns1/svc1:p80"),
        ("172.30.0.41:80", "ns1/svc1:p80"),
        ("172.30.0.41", "ns1/svc1:p80"),
        ("31003", "ns3/svc3:p80"),
        (":31003", "ns3/svc3:p80"),
        ("nodeport/31003", "ns3/svc3:p80"),
        ("1.2.3.4:80", "ns2/svc2:p80"),
        ("192.168.99.33:80", "ns4/svc4:p80"),
        ("ns6/svc6", "ns6/svc6:p80"),
    ],
)
def test_a_service_is_found_by_whatever_people_call_it(target: str, service: str) -> None:
    assert answer(target)["service"] == service


@pytest.mark.parametrize("target", ["svc1", "svc/svc1", "service/svc1"])
def test_a_name_without_namespace_is_one_of_the_namespace_asked_for(target: str) -> None:
    assert answer(target, "-n", "ns1")["service"] == "ns1/svc1:p80"


def test_a_node_port_is_called_at_an_address_of_the_node() -> None:
    assert answer("31003")["packet"]["dst"] == "192.168.0.2"


def test_an_address_that_no_service_has_is_followed_with_its_port() -> None:
    found = answer("[2001:db8::1]:80")
    assert (found["packet"]["dst"], found["verdict"]) == ("2001:db8::1", "none")


def test_a_call_that_is_rejected_is_a_finding() -> None:
    assert run("ns6/svc6").exit_code == 1
    assert run("ns1/svc1").exit_code == 0


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("svc1", "no Service default/svc1; did you mean ns1/svc1?"),
        ("ns1/scv1", "did you mean ns1/svc1"),
        ("qqqqqqqq/zzzzzzzzzzzzzzzzzz", "among the 7 known here"),
        ("ns1/svc1:81", "has no port '81'; it has p80 (80/TCP)"),
        ("ns1/svc1:http", "has no port 'http'; it has p80 (80/TCP)"),
        ("172.30.0.41:99999", "port 99999 is not within 1..65535"),
        ("172.30.0.99", "no Service has this address; name a port to follow it"),
        ("70000", "port 70000 is not within 1..65535"),
        ("10.0.0.256", "is no Service (NAMESPACE/NAME[:port]), address with port or NodePort"),
        ("[::zz]:80", "is no Service"),
        ("a b", "is no Service"),
        ("", "is no Service"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(target: str, said: str) -> None:
    found = run(target)
    assert found.exit_code == 2
    assert said in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("UDP", "Service ns1/svc1 has no protocol UDP; it has p80 (80/TCP)"),
        ("GRE", "protocol: 'GRE' is none of TCP, UDP, SCTP"),
    ],
)
def test_a_wrong_protocol_is_an_error(protocol: str, said: str) -> None:
    found = run("ns1/svc1", "--protocol", protocol)
    assert found.exit_code == 2
    assert said in found.stderr


@pytest.mark.parametrize(
    ("client", "source", "masquerade"),
    [
        ("pod", "10.255.255.254", False),
        ("node", "192.168.0.2", True),
        ("external", "198.51.100.7", True),
        ("loopback", "127.0.0.1", True),
        ("10.0.0.9", "10.0.0.9", False),
        ("203.0.113.9", "203.0.113.9", True),
    ],
)
def test_who_calls_decides_about_the_source_address(
    client: str, source: str, masquerade: bool
) -> None:
    found = answer("172.30.0.43:80", "--from", client)
    assert found["packet"]["src"] == source
    assert [one["masquerade"] for one in found["endpoints"]] == [masquerade]


def test_one_from_outside_calls_what_is_meant_for_outsiders() -> None:
    assert answer("ns5/svc5", "--from", "external")["packet"]["dst"] == "5.6.7.8"
    assert answer("ns5/svc5", "--from", "pod")["packet"]["dst"] == "172.30.0.45"


def test_all_frontends_are_followed_on_demand() -> None:
    found = answer("ns5/svc5", "--all", "--from", "203.0.113.9")
    assert found["kind"] == "TraceReportList"
    called = {(one["packet"]["dst"], one["packet"]["port"]) for one in found["items"]}
    assert called == {("172.30.0.45", 80), ("5.6.7.8", 80), ("192.168.0.2", 31002)}


def with_pod(directory: Path) -> Path:
    """Return a copy of the node that knows a Pod."""
    node = shutil.copytree(NODE, directory / "node")
    metadata = {"name": "web-1", "namespace": "shop"}
    status = {"podIPs": [{"ip": "10.180.0.77"}], "podIP": "10.180.0.77"}
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "status": status}
    pod["spec"] = {"nodeName": "test-node"}
    (node / "pods.json").write_text(json.dumps({"kind": "PodList", "items": [pod]}))
    return node


@pytest.mark.parametrize("options", [["pod/shop/web-1"], ["pod/web-1", "-n", "shop"]])
def test_a_pod_calls_from_its_own_address(options: list[str], tmp_path: Path) -> None:
    found = answer("172.30.0.43:80", "--from", *options, dump=with_pod(tmp_path))
    assert found["packet"]["src"] == "10.180.0.77"


@pytest.mark.parametrize(
    ("clients", "said"),
    [
        (["pod/x"], "the address of pod default/x is not known"),
        (["pod/ns1/x"], "the address of pod ns1/x is not known"),
        (["2001:db8::7"], "there is no client '2001:db8::7' of IPv4 on this node"),
        (["pod", "node"], "--from: several clients: pod, node; one is followed"),
        (["elsewhere"], f"--from: several snapshots: elsewhere, {NODE}; one is followed"),
    ],
)
def test_a_client_that_is_not_there_is_an_error(clients: list[str], said: str) -> None:
    found = run("ns3/svc3", *(word for client in clients for word in ("--from", client)))
    assert found.exit_code == 2
    assert said in found.stderr


def test_a_snapshot_that_is_not_there_is_an_environment_error(tmp_path: Path) -> None:
    found = run("ns1/svc1", dump=tmp_path / "nowhere")
    assert found.exit_code == 4
    assert "nowhere" in found.stderr


def test_without_objects_the_rules_tell_names(tmp_path: Path) -> None:
    node = shutil.copytree(NODE, tmp_path / "node")
    for name in ("services.json", "endpointslices.json", "nodes.json"):
        (node / name).unlink()
    assert answer("ns3/svc3", "--from", "external", dump=node)["service"] == "ns3/svc3:p80"
    found = run("ns3/nothing", dump=node)
    assert found.exit_code == 2
    assert "without the API only rules tell names" in found.stderr


def test_live_options_need_a_live_node() -> None:
    found = run("ns1/svc1", "--live")
    assert found.exit_code == 2
    assert "--live looks at this node's packets, not at" in found.stderr
