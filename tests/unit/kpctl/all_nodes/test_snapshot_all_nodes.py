"""`kpctl snapshot --all-nodes` against a stub API server that runs programs in pods."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.open import open_snapshot
from diagnostics.snapshot.parts import Gap, Part
from kpctl.all_nodes.plan import Choice
from kpctl.all_nodes.session import all_nodes
from kpctl.commands.snapshot import snapshot
from tests.support.exec_apiserver import ExecApi, Output, recorded
from tests.support.waiting import eventually

DATA = Path(__file__).parents[3] / "data/snapshots"
SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


def items(mode: str, file: str) -> list:
    return json.loads((DATA / mode / file).read_text())["items"]


@pytest.fixture
def api():
    with ExecApi() as server:
        server.lists[SERVICES] = items("iptables", "services.json")
        server.lists[SLICES] = items("iptables", "endpointslices.json")
        server.lists["/api/v1/pods"] = []
        yield server


@pytest.fixture
def run(api, tmp_path):
    def call(*arguments: str, output: str = "x.tar.gz") -> Result:
        app = typer.Typer()
        app.command()(snapshot)
        kubeconfig = str(api.kubeconfig(tmp_path / "config"))
        place = output if output == "-" else str(tmp_path / output)
        every = ["--all-nodes", "--kubeconfig", kubeconfig, "-o", place, *arguments]
        return CliRunner().invoke(app, every)

    return call


def test_one_archive_has_all_nodes_and_the_clusters_objects_once(api, run, tmp_path):
    for mode in ("iptables", "ipvs", "nftables"):
        loaded = ("/proc/net/ip_vs", "/sys/module/ip_set")
        others = {("ls", "-d", path): Output() for path in loaded}
        api.add_node(f"node-{mode}", recorded(DATA / mode, others))
    result = run("--yes")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path}/x.tar.gz\n"
    with tarfile.open(tmp_path / "x.tar.gz") as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert [name for name in names if name.endswith("services.json")] == ["services.json"]
    assert "nodes/node-ipvs/ipvsadm-save.txt" in names
    found = open_snapshot(tmp_path / "x.tar.gz")
    assert found.names() == ("node-iptables", "node-ipvs", "node-nftables")
    for mode in ("iptables", "ipvs", "nftables"):
        node, before = found.node(f"node-{mode}"), open_snapshot(DATA / mode).node()
        for part in (Part.IPTABLES, Part.NFT_JSON, Part.IPVS, Part.IPSET, Part.ADDRESSES):
            if not isinstance(before.text(part), Gap):
                assert node.text(part) == before.text(part)
        assert len(node.objects().services) == len(items("iptables", "services.json"))
        assert {one.metadata.name for one in node.objects().nodes} == set(found.names())
        assert node.mode().mode == mode


def test_it_says_what_it_will_do_and_does_nothing_without_a_yes(api, run, tmp_path):
    api.add_node("a", recorded(DATA / "iptables"))
    api.add_node("b")
    result = run()
    assert result.exit_code == 2
    said = result.stderr
    assert "1 nodes: run programs in the proxy's pod (kube-system/kube-proxy-a on a)" in said
    assert "1 nodes: create a pod in namespace kube-system, image " in said
    assert "capabilities NET_ADMIN, NET_RAW; deleted afterwards (b)" in said
    assert "iptables-save -c; " in said
    assert "rights: create pods in namespace kube-system; " in said
    assert "get pods/exec in namespace kube-system" in said
    assert "use --yes" in said
    assert (api.ran, api.created) == ([], [])
    assert not (tmp_path / "x.tar.gz").exists()


def test_a_missing_right_is_one_line_and_nothing_is_done(api, run):
    api.add_node("a", recorded(DATA / "iptables"))
    api.forbidden = {"create pods/exec", "get pods/exec"}
    result = run("--yes")
    assert result.exit_code == 4
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "no right to create pods/exec in namespace kube-system" in errors[0]
    assert api.ran == []
    api.forbidden = {"list nodes"}
    result = run("--yes")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: no right to list nodes in the cluster: ")


def test_nodes_can_be_chosen_by_name_and_by_label(api, run, tmp_path):
    for name, zone in (("a", "x"), ("b", "x"), ("c", "y")):
        api.add_node(name, recorded(DATA / "iptables"), labels={"zone": zone})
    assert run("--yes", "--nodes", "a, c").exit_code == 0
    assert open_snapshot(tmp_path / "x.tar.gz").names() == ("a", "c")
    assert run("--yes", "-l", "zone=x", output="y.tar.gz").exit_code == 0
    assert open_snapshot(tmp_path / "y.tar.gz").names() == ("a", "b")
    result = run("--yes", "--nodes", "a,nix", output="z.tar.gz")
    assert result.exit_code == 4
    assert "error: there is no node nix; there are a, b, c" in result.stderr
    assert run("--yes", "-l", "zone=z", output="z.tar.gz").exit_code == 4


def test_nodes_of_other_systems_are_left_out_and_told(api, run, tmp_path):
    api.add_node("a", recorded(DATA / "iptables"), labels={"kubernetes.io/os": "linux"})
    api.add_node("w", labels={"kubernetes.io/os": "windows"})
    result = run("--yes")
    assert "note: node w is left out: it runs windows" in result.stderr
    assert open_snapshot(tmp_path / "x.tar.gz").names() == ("a",)
    assert api.created == []


def test_a_failed_node_is_gaps_that_the_snapshot_remembers(api, run, tmp_path):
    unreachable = "error dialing backend: dial tcp 10.0.0.9:10250: connect: no route to host"
    api.add_node("dead", lambda _: Output(runtime_error=unreachable))
    api.add_node("good", recorded(DATA / "iptables"))
    result = run("--yes")
    assert result.exit_code == 0
    assert re.search(rf"gap: dead: \d+ parts: {re.escape(unreachable)}; ", result.stderr)
    found = open_snapshot(tmp_path / "x.tar.gz")
    assert found.names() == ("dead", "good")
    why = found.node("dead").contents(Part.IPTABLES)
    assert isinstance(why, Gap)
    assert unreachable in why.why
    assert not isinstance(found.node("good").contents(Part.IPTABLES), Gap)


def test_without_rules_of_any_node_it_is_undetermined(api, run):
    api.add_node("a", lambda _: Output(cut=True))
    assert run("--yes").exit_code == 3


def test_redaction_gives_a_node_one_name_everywhere(api, run, tmp_path):
    slices = [one for one in api.lists[SLICES] if one["endpoints"]]
    slices[0]["endpoints"][0]["nodeName"] = "secret-b"
    for name, mode in (("secret-a", "iptables"), ("secret-b", "nftables")):
        api.add_node(name, recorded(DATA / mode), labels={"kubernetes.io/hostname": name})
    api.add_node("secret-c", lambda _: Output(cut=True))
    result = run("--yes", "--redact", output="d")
    assert result.exit_code == 0
    files = [path for path in (tmp_path / "d").rglob("*") if path.is_file()]
    for path in files:
        assert "secret" not in path.read_text() + str(path.relative_to(tmp_path)), path
        assert not re.search(r"\bns1/svc1\b", path.read_text()), path
    found = open_snapshot(tmp_path / "d")
    assert [name.partition("-")[0] for name in found.names()] == ["node"] * 3
    objects = found.nodes[0].objects()
    assert {one.metadata.name for one in objects.nodes} == set(found.names())
    known = {f"{one.metadata.namespace}/{one.metadata.name}" for one in objects.services}
    hidden = re.compile(r"\bns-\d+/svc-\d+")
    of_b = found.node(objects.slices[0].endpoints[0].node_name).text(Part.NFT_JSON)
    (of_a,) = (text for node in found.nodes if isinstance(text := node.text(Part.IPTABLES), str))
    assert set(hidden.findall(of_a)) & set(hidden.findall(of_b))
    assert set(hidden.findall(of_a)) | set(hidden.findall(of_b)) <= known


def test_an_archive_can_go_to_stdout(api, run, tmp_path):
    api.add_node("a", recorded(DATA / "iptables"))
    result = run("--yes", output="-")
    assert result.exit_code == 0
    (tmp_path / "y.tar.gz").write_bytes(result.stdout_bytes)
    assert open_snapshot(tmp_path / "y.tar.gz").names() == ("a",)


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_at_a_terminal_it_asks(answer, code, api, tmp_path):
    api.add_node("a", recorded(DATA / "iptables"))
    kubeconfig = str(api.kubeconfig(tmp_path / "config"))
    ours, terminal = pty.openpty()
    kpctl = [sys.executable, "-m", "kpctl", "snapshot", "--all-nodes"]
    place = tmp_path / "x.tar.gz"
    with subprocess.Popen(
        [*kpctl, "--kubeconfig", kubeconfig, "-o", str(place)],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(terminal)
        os.write(ours, answer)
        said = process.communicate(timeout=30)[1]
    os.close(ours)
    assert process.returncode == code
    assert b"Go on?" in said
    assert place.exists() == bool(api.ran) == (code == 0)


def test_each_node_can_be_examined_while_the_others_are_read(api, tmp_path):
    for mode in ("iptables", "nftables"):
        api.add_node(mode, recorded(DATA / mode))
    kubeconfig = str(api.kubeconfig(tmp_path / "config"))
    with all_nodes(kubeconfig, "", Choice(), yes=True) as session:
        found = {parts.node: NodeSnapshot(parts, parts.node) for parts in session.nodes}
    assert session.count == 2
    for mode, node in found.items():
        assert (node.name, node.mode().mode) == (mode, mode)
        assert len(node.objects().services) == len(api.lists[SERVICES])
        assert isinstance(node.config(), Gap)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_neither_pods_nor_half_an_archive(number, api, tmp_path):
    api.debug_programs = lambda _: Output(hang_s=60)
    api.add_node("a")
    kubeconfig = str(api.kubeconfig(tmp_path / "config"))
    kpctl = [sys.executable, "-m", "kpctl", "snapshot", "--all-nodes", "--yes"]
    process = subprocess.Popen(
        [*kpctl, "--kubeconfig", kubeconfig, "-o", str(tmp_path / "x.tar.gz")],
        stderr=subprocess.PIPE,
    )
    with process:
        eventually(lambda: api.ran)
        process.send_signal(number)
        said = process.communicate(timeout=20)[1]
    assert process.returncode != 0
    assert b"Traceback" not in said
    assert len(api.created) == 1
    assert api.deleted == [api.created[0]["metadata"]["name"]]
    assert [path.name for path in tmp_path.iterdir()] == ["config"]


def test_options_that_do_not_go_together_are_usage_errors(run):
    assert run("--node", "a").exit_code == 2
    app = typer.Typer()
    app.command()(snapshot)
    result = CliRunner().invoke(app, ["--nodes", "a"])
    assert result.exit_code == 2
    assert "need --all-nodes" in result.stderr
