"""``kpctl whatif``: edits of API objects, who notices, and words for edits that cannot be made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kpctl.cli import app

NODE = Path(__file__).parents[2] / "data" / "drift" / "nftables"
UNUSED = "like every unused address or port of Services"
TIMEOUT = "sessionAffinityConfig.clientIP.timeoutSeconds"


def run(*arguments: str, dump: Path = NODE) -> Any:
    return CliRunner().invoke(app, ["whatif", *arguments, "--from", str(dump)])


def changes(*arguments: str) -> list[tuple[str, str, str, str]]:
    """Return kind, service port, and both sides of each difference."""
    found = run(*arguments, "-o", "json")
    report = json.loads(found.stdout)
    assert (report["apiVersion"], report["kind"]) == ("kpctl.io/v1", "WhatIfReport")
    assert found.exit_code == (1 if report["differences"] else 0)
    keys = ("kind", "service", "expected", "actual")
    return [tuple(one[key] for key in keys) for one in report["differences"]]


def manifest(directory: Path, name: str, spec: str) -> str:
    path = directory / "manifest.yaml"
    namespace, _, name = name.partition("/")
    metadata = f"metadata: {{name: {name}, namespace: {namespace}}}"
    path.write_text(f"apiVersion: v1\nkind: Service\n{metadata}\nspec: {spec}\n")
    return str(path)


def test_a_policy_local_keeps_the_source_address() -> None:
    assert changes("ns3/svc3", "--set", "externalTrafficPolicy=Local") == [
        (
            "masquerade",
            "ns3/svc3:p80",
            "the source address is rewritten",
            "the source address is kept",
        )
    ]


def test_a_policy_local_leaves_out_endpoints_elsewhere() -> None:
    found = changes("svc/svc4", "-n", "ns4", "--set", "spec.externalTrafficPolicy=Local")
    assert (
        "endpoints",
        "ns4/svc4:p80",
        "10.180.0.4:80, 10.180.0.5:80",
        "without 10.180.0.4:80",
    ) in found


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        (["sessionAffinity=ClientIP"], 10800),
        (["sessionAffinity=ClientIP", f"{TIMEOUT}=77"], 77),
        (["spec.sessionAffinity=ClientIP", f"spec.{TIMEOUT}=77"], 77),
    ],
)
def test_session_affinity_is_set_with_its_timeout(settings: list[str], seconds: int) -> None:
    options = [word for setting in settings for word in ("--set", setting)]
    assert changes("ns3/svc3", *options) == [
        ("affinity", "ns3/svc3:p80", "forgotten", f"remembered for {seconds} s")
    ]


def test_a_deleted_service_is_no_longer_served() -> None:
    found = changes("ns3/svc3", "--delete")
    assert {(kind, service) for kind, service, *_ in found} == {("missing", "ns3/svc3:p80")}
    text = run("ns3/svc3", "--delete").stdout
    assert "REMOVED: no longer served" in text
    assert "changes of 1 service ports on node test-node (mode nftables)" in text


def test_an_endpoint_that_fails_gets_no_calls() -> None:
    assert changes("--endpoint-down", "10.180.0.4") == [
        ("endpoints", "ns4/svc4:p80", "10.180.0.4:80, 10.180.0.5:80", "without 10.180.0.4:80")
    ]


def test_a_node_that_fails_takes_all_its_endpoints_along() -> None:
    found = changes("--node-down", "test-node")
    rejected = {service for kind, service, *_, then in found if then == "is rejected"}
    assert rejected == {"ns1/svc1:p80", "ns3/svc3:p80", "ns5/svc5:p80"}
    assert any(service == "ns4/svc4:p80" for _, service, *_ in found)


def test_several_edits_are_made_together() -> None:
    found = changes("--endpoint-down", "10.180.0.4", "--endpoint-down", "10.180.0.5")
    assert {(service, then) for _, service, _, then in found} == {("ns4/svc4:p80", "is rejected")}


def test_a_manifest_of_a_new_service_is_served_anew(tmp_path: Path) -> None:
    ports = "ports: [{name: p, port: 80, protocol: TCP}]"
    spec = f"{{clusterIP: 172.30.0.77, clusterIPs: [172.30.0.77], ipFamilies: [IPv4], {ports}}}"
    found = changes("-f", manifest(tmp_path, "ns1/new", spec))
    assert found == [("stale", "ns1/new:p", f"is dropped {UNUSED}", "is rejected")]


def test_a_manifest_replaces_the_service_of_its_name(tmp_path: Path) -> None:
    ports = "ports: [{name: p80, port: 81, protocol: TCP}]"
    spec = f"{{clusterIP: 172.30.0.41, clusterIPs: [172.30.0.41], ipFamilies: [IPv4], {ports}}}"
    kinds = {
        (kind, service) for kind, service, *_ in changes("-f", manifest(tmp_path, "ns1/svc1", spec))
    }
    assert ("missing", "ns1/svc1:p80") in kinds
    assert ("stale", "ns1/svc1:p80") in kinds


def test_what_is_set_already_changes_nothing() -> None:
    found = run("ns3/svc3", "--set", "externalTrafficPolicy=Cluster")
    assert found.exit_code == 0
    assert (
        "nothing would change on node test-node: no Service is planned differently" in found.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what changes: -f, --set, --delete, --endpoint-down or --node-down"),
        (["--set", "type=NodePort"], "--set and --delete need the name of a Service"),
        (["--delete"], "--set and --delete need the name of a Service"),
        (["ns3/svc3", "--set", "type"], "--set type: write FIELD=VALUE"),
        (["ns3/svc3", "--set", "=Local"], "a node proxy looks at no field ''"),
        (["ns3/svc3", "--set", "color=red"], "looks at no field 'color' of a Service"),
        (["ns3/svc3", "--set", "sessionAffinityConfig.x.y=1"], "looks at no field 'x' there"),
        (["ns3/svc3", "--set", "externalTrafficPolicy=local"], "is one of Cluster, Local"),
        (["ns3/svc3", "--set", "sessionAffinity=Yes"], "sessionAffinity"),
        (["ns3/svc3", "--set", "type=Nodeport"], "is one of ClusterIP, NodePort"),
        (["ns3/svc3", "--set", "type=["], "--set type=[: the value is no YAML: while parsing"),
        (["ns3/svc3", "--set", "ports=7"], "--set ports=7: Expected `array | null`, got `int`"),
        (["ns3/svc3", "--set", f"{TIMEOUT}=soon"], "Expected `int | null`, got `str`"),
        (["ns9/x", "--delete"], "there is no Service ns9/x"),
        (["svc3", "--delete"], "there is no Service default/svc3"),
        (["--endpoint-down", "web"], "--endpoint-down web: this is not an IP address"),
        (["--endpoint-down", "10.9.9.9"], "no EndpointSlice has this address"),
        (["--node-down", "x"], "--node-down x: no EndpointSlice has an endpoint on this Node"),
    ],
)
def test_an_edit_that_cannot_be_made_is_one_line(arguments: list[str], said: str) -> None:
    found = run(*arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert said in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Pod\napiVersion: v1\nmetadata: {name: x}\n", "no Service, EndpointSlice or Node"),
        ("{{{", "manifest.yaml: line 1"),
    ],
)
def test_a_manifest_that_says_nothing_is_an_error(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(text)
    found = run("-f", str(path))
    assert found.exit_code == 2
    assert said in found.stderr


def test_a_manifest_that_is_not_there_is_an_environment_error(tmp_path: Path) -> None:
    found = run("-f", str(tmp_path / "none.yaml"))
    assert found.exit_code == 4
    assert "none.yaml: No such file or directory" in found.stderr


def test_without_objects_there_is_no_answer(tmp_path: Path) -> None:
    node = shutil.copytree(NODE, tmp_path / "node")
    (node / "endpointslices.json").unlink()
    for arguments in (["ns3/svc3", "--delete"], ["--node-down", "test-node"]):
        found = run(*arguments, dump=node)
        assert found.exit_code == 3
        assert "gap: EndpointSlices" in found.stderr
