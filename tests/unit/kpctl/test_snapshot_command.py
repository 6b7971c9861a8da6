"""`kpctl snapshot`, with the node and the API replaced."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from diagnostics.snapshot import live
from diagnostics.snapshot.open import open_snapshot
from diagnostics.snapshot.parts import Part
from kpctl import cluster_lists
from kpctl.commands.snapshot import snapshot
from proxy.kernel.command import Completed, ToolMissing

RULES = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(snapshot)
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Give what programs print, by their name; others are not installed."""
    output = {"iptables-save": RULES, "ip": "[]"}

    def run_tool(argv, **_):
        if argv[0] not in output:
            raise ToolMissing(argv, f"{argv[0]} is not installed", hint="install it")
        return Completed(output[argv[0]], "", 0)

    monkeypatch.setattr(live, "run", run_tool)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    return output


def test_it_writes_an_archive_and_tells_the_gaps(tools, tmp_path):
    path = tmp_path / "x.tar.gz"
    result = run("-o", str(path), "--node", "Node-A")
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    assert "gap: nftables rules: nft -j list ruleset: nft is not installed" in result.stderr
    assert "gap: Services: there is no kubeconfig and this is no pod" in result.stderr
    node = open_snapshot(path).node()
    assert (node.name, node.text(Part.IPTABLES)) == ("node-a", RULES)


def test_without_any_rules_it_is_undetermined(tools, tmp_path):
    tools.clear()
    assert run("-o", str(tmp_path / "d")).exit_code == 3
    assert (tmp_path / "d/manifest.json").exists()


def test_what_cannot_be_written_is_the_environments_fault(tools, tmp_path):
    (tmp_path / "x.tar.gz").write_text("mine")
    result = run("-o", str(tmp_path / "x.tar.gz"))
    assert result.exit_code == 4
    assert "error: " in result.stderr
    assert "exists already" in result.stderr


def test_a_broken_kubeconfig_is_a_gap_that_names_it(tools, tmp_path):
    result = run("-o", str(tmp_path / "d"), "--kubeconfig", str(tmp_path / "absent"))
    assert result.exit_code == 0
    assert f"{tmp_path}/absent" in result.stderr


def test_the_kubeconfig_is_the_one_of_kubectl(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert cluster_lists.kubeconfig_path("") == ""
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").write_text("")
    assert cluster_lists.kubeconfig_path("") == str(tmp_path / ".kube/config")
    monkeypatch.setenv("KUBECONFIG", "/a:/b")
    assert cluster_lists.kubeconfig_path("") == "/a"
    assert cluster_lists.kubeconfig_path("/given") == "/given"
