"""`kpctl drift --all-nodes` against a stub API server that runs programs in pods."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kpctl.cli import app
from tests.support.exec_apiserver import ExecApi, Output, recorded

DATA = Path(__file__).parents[3] / "data/snapshots/iptables"
NO_IPVS = {("ls", "-d", path): Output() for path in ("/proc/net/ip_vs", "/sys/module/ip_set")}
Run = Callable[..., Result]


@pytest.fixture
def api() -> Iterator[ExecApi]:
    def items(file: str) -> list[object]:
        return list(json.loads((DATA / file).read_text())["items"])

    with ExecApi() as server:
        server.lists["/api/v1/services"] = items("services.json")
        server.lists["/apis/discovery.k8s.io/v1/endpointslices"] = items("endpointslices.json")
        server.lists["/api/v1/pods"] = []
        server.add_node("test-node", recorded(DATA, NO_IPVS))
        yield server


@pytest.fixture
def run(api: ExecApi, tmp_path: Path) -> Run:
    config = str(api.kubeconfig(tmp_path / "config"))

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["drift", "--all-nodes", "--kubeconfig", config, *arguments])

    return call


def test_each_node_is_compared_with_what_the_api_asks_of_it(
    api: ExecApi, run: Run, tmp_path: Path
) -> None:
    healthy = run("--yes")
    assert healthy.exit_code == 0, healthy.output
    assert "node test-node: kernel and API agree (mode iptables, 6 service ports)" in healthy.stdout
    edited = tmp_path / "other"
    shutil.copytree(DATA, edited)
    rules = (edited / "iptables-save.txt").read_text().splitlines(keepends=True)
    kept = [line for line in rules if "-> 10.180.0.4:80" not in line]
    (edited / "iptables-save.txt").write_text("".join(kept))
    api.add_node("other", recorded(edited, NO_IPVS))
    result = run("--yes", "-o", "json")
    assert result.exit_code == 1
    found = {node["node"]: node["differences"] for node in json.loads(result.stdout)["nodes"]}
    assert found["test-node"] == []
    assert [(one["kind"], one["service"]) for one in found["other"]] == [
        ("endpoints", "ns4/svc4:p80")
    ]


def test_nothing_is_done_without_a_yes(api: ExecApi, run: Run) -> None:
    result = run()
    assert result.exit_code == 2
    assert "use --yes" in result.stderr
    assert api.ran == []


def test_a_node_that_cannot_be_read_is_undetermined(api: ExecApi, run: Run) -> None:
    api.add_node("mute", {})
    result = run("--yes", "-o", "json")
    assert result.exit_code == 3
    nodes = {node["node"]: node for node in json.loads(result.stdout)["nodes"]}
    assert nodes["mute"]["undetermined"]
    assert nodes["test-node"]["differences"] == []
