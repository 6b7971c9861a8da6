"""``kpctl endpoints``: what is used and why, the kernel beside the plan, exit codes, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kpctl.commands.endpoints import endpoints
from tests.support.cluster_objects import slice_manifest

DATA = Path(__file__).parents[2] / "data" / "nft"
CONFIG = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.0.0.0/8
hostnameOverride: test-node
"""
app = typer.Typer()
app.command()(endpoints)


def write_objects(directory: Path, *addresses: str) -> None:
    """Write Service ns1/svc1 as it was recorded, with endpoints."""
    spec = {
        "type": "ClusterIP",
        "clusterIP": "172.30.0.41",
        "clusterIPs": ["172.30.0.41"],
        "ipFamilies": ["IPv4"],
        "ports": [{"name": "p80", "protocol": "TCP", "port": 80}],
    }
    service = {"kind": "Service", "metadata": {"name": "svc1", "namespace": "ns1"}, "spec": spec}
    words = {"slice": "ns1/svc1-1", "service": "svc1", "ports": ["p80/TCP/80"]}
    one = {"kind": "EndpointSlice", **slice_manifest({**words, "endpoints": list(addresses)})}
    status = {"addresses": [{"type": "InternalIP", "address": "192.168.0.2"}]}
    node = {"kind": "Node", "metadata": {"name": "test-node"}, "status": status}
    for name, kind, items in (
        ("services", "ServiceList", [service]),
        ("endpointslices", "EndpointSliceList", [one]),
        ("nodes", "NodeList", [node]),
    ):
        (directory / f"{name}.json").write_text(json.dumps({"kind": kind, "items": items}))


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A node that kube-proxy recorded in nftables mode; ns1/svc1 has endpoint 10.180.0.1."""
    (tmp_path / "nft-ruleset.json").write_text((DATA / "every-service-kind.json").read_text())
    own = [{"family": "inet", "local": "192.168.0.2", "prefixlen": 24, "scope": "global"}]
    links = [{"ifindex": 2, "ifname": "eth0", "addr_info": own, "flags": ["UP"]}]
    (tmp_path / "ip-addr.json").write_text(json.dumps(links))
    route = [{"dst": "default", "gateway": "192.168.0.1", "dev": "eth0", "flags": []}]
    (tmp_path / "ip-route.json").write_text(json.dumps(route))
    (tmp_path / "kube-proxy-config.yaml").write_text(CONFIG)
    write_objects(tmp_path, "10.180.0.1 on=test-node", "10.180.0.9 !ready on=n2")
    return tmp_path


def run(dump: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["--from", str(dump), *arguments])


def test_the_short_list_has_what_is_used(dump: Path) -> None:
    found = run(dump, "svc/svc1", "-n", "ns1")
    assert found.exit_code == 0
    heading, line = found.stdout.splitlines()
    assert heading.split() == ["ENDPOINT", "PORT", "NODE", "POOLS"]
    assert line.split() == ["10.180.0.1:80", "p80/TCP", "test-node", "cluster"]


def test_why_has_every_address_with_plan_kernel_and_reason(dump: Path) -> None:
    found = run(dump, "ns1/svc1", "--why")
    assert found.exit_code == 0
    lines = [line.split() for line in found.stdout.splitlines()]
    assert lines[1][-3:] == ["cluster", "agrees", "ready"]
    assert lines[2][-4:] == ["no", "agrees", "not", "ready"]
    assert found.stdout.splitlines()[-1] == (
        "ns1/svc1: 1 of 2 entries are used on this node; the kernel agrees."
    )
    assert "ClusterIP 172.30.0.41:80/TCP gives pods, node, external: the cluster pool" in (
        found.stdout
    )


def test_wide_adds_slice_names_and_hints(dump: Path) -> None:
    write_objects(dump, "10.180.0.1 on=test-node zones=z7")
    found = run(dump, "ns1/svc1", "--why", "-o", "wide")
    assert "svc1-1" in found.stdout
    assert "zone z7" in found.stdout
    assert "zone hints are ignored: no zone of this node is known" in found.stdout
    assert "BEHIND" in run(dump, "ns1/svc1", "-o", "wide").stdout


def test_a_kernel_that_differs_is_a_finding(dump: Path) -> None:
    write_objects(dump, "10.180.0.77")
    found = run(dump, "ns1/svc1", "--why")
    assert found.exit_code == 1
    rows = {line.split()[0]: line for line in found.stdout.splitlines() if line.startswith("10.")}
    assert "missing" in rows["10.180.0.77:80"]
    assert "no slice has it" in rows["10.180.0.1:80"]
    assert "it goes to 10.180.0.1:80; by the plan it goes to 10.180.0.77:80" in found.stdout


def test_json_has_all_that_the_table_has(dump: Path) -> None:
    write_objects(dump, "10.180.0.77")
    found = run(dump, "ns1/svc1", "--why", "-o", "json")
    report = json.loads(found.stdout)
    assert (report["apiVersion"], report["kind"]) == ("kpctl.io/v1", "EndpointReport")
    (one,) = report["endpoints"]
    assert (one["target"], one["plan"], one["kernel"]) == ("10.180.0.77:80", True, "missing")
    assert one["pools"]["cluster"] == {
        "used": True,
        "why": [{"reason": "ready", "text": "ready"}],
    }
    assert report["kernel"]["agrees"] is False
    assert report["kernel"]["notInSlices"] == [
        {"target": "10.180.0.1:80", "servicePort": "ns1/svc1:p80", "protocol": "TCP"}
    ]
    assert report["ports"][0]["frontends"][0]["clients"]["pods"] == "cluster"


def test_json_of_the_short_list_says_that_the_kernel_was_not_asked(dump: Path) -> None:
    report = json.loads(run(dump, "ns1/svc1", "-o", "json").stdout)
    assert report["kernel"] is None
    assert [one["target"] for one in report["endpoints"]] == ["10.180.0.1:80"]


def test_without_rules_the_answer_is_undetermined(dump: Path) -> None:
    (dump / "nft-ruleset.json").unlink()
    found = run(dump, "ns1/svc1", "--why")
    assert found.exit_code == 3
    assert "unknown" in found.stdout
    assert "the kernel's rules could not be followed" in found.stdout
    assert "gap: nftables rules" in found.stderr
    assert (
        json.loads(run(dump, "ns1/svc1", "--why", "-o", "json").stdout)["kernel"]["agrees"] is None
    )


def test_a_port_name_narrows_the_answer(dump: Path) -> None:
    assert "10.180.0.1:80" in run(dump, "ns1/svc1:p80").stdout
    found = run(dump, "ns1/svc1:p81")
    assert found.exit_code == 2
    assert "ns1/svc1 has no port p81; it has p80" in found.stderr


def test_no_endpoint_at_all_is_said(dump: Path) -> None:
    write_objects(dump, "10.180.0.1 !ready")
    found = run(dump, "ns1/svc1")
    assert (found.exit_code, found.stdout) == (0, "")
    assert "no endpoint of ns1/svc1 is used on this node" in found.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ns1/svc2", "there is no Service ns1/svc2; did you mean ns1/svc1?"),
        ("svc/svc1", "there is no Service default/svc1; did you mean ns1/svc1?"),
        ("10.0.0.1:80", "expected a Service: svc/NAME or NAMESPACE/NAME"),
        ("svc//", "is no Service"),
    ],
)
def test_a_wrong_name_is_a_usage_error_in_one_line(dump: Path, name: str, said: str) -> None:
    found = run(dump, name)
    assert (found.exit_code, len(found.stderr.splitlines())) == (2, 1)
    assert said in found.stderr


def test_missing_objects_are_told_with_the_command_that_gets_them(dump: Path) -> None:
    (dump / "endpointslices.json").unlink()
    found = run(dump, "ns1/svc1")
    assert found.exit_code == 3
    assert "error: EndpointSlices: " in found.stderr
    assert "kubectl get endpointslices -A -o json" in found.stderr


def test_a_dump_that_is_not_there_is_an_environment_error(tmp_path: Path) -> None:
    found = run(tmp_path / "nowhere", "ns1/svc1")
    assert found.exit_code == 4
    assert "nowhere" in found.stderr
