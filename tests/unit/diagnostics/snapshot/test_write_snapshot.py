"""What ``kpctl snapshot`` writes: everything, and nothing secret."""

import hashlib
import json
import re
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from diagnostics.snapshot.archive import SnapshotError
from diagnostics.snapshot.open import open_snapshot
from diagnostics.snapshot.parts import OBJECT_PARTS, Gap, Part, gap
from diagnostics.snapshot.source import Content, MemorySource
from diagnostics.snapshot.write import Origin, write_snapshot

DATA = Path(__file__).parents[3] / "data/snapshots"
ORIGIN = Origin("1.2.3", "test-node", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
SECRET = "hunter2-hunter2"
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6.eyJpc3MiOiJrdWJlcm5ldGVz.c2lnbmF0dXJl"


def source_of(folder: Path, **more: str) -> MemorySource:
    parts = {}
    for part in Part:
        if (folder / part.value).exists():
            parts[part] = (Content(part.value, (folder / part.value).read_bytes()),)
    parts |= {Part[name]: (Content(name, text.encode()),) for name, text in more.items()}
    return MemorySource(parts, "memory")


@pytest.mark.parametrize("mode", ["iptables", "ipvs", "nftables"])
@pytest.mark.parametrize("form", ["out", "out.tar.gz"])
def test_a_written_snapshot_reads_as_its_source(mode, form, tmp_path):
    path = tmp_path / form
    seen = []
    written = write_snapshot(
        source_of(DATA / mode), path, ORIGIN, progress=lambda *told: seen.append(told)
    )
    assert seen[-1][1] == seen[-1][2] == len(seen)
    before, after = open_snapshot(DATA / mode).node(), open_snapshot(path).node()
    assert (after.name, after.mode()) == (before.name, before.mode())
    assert after.objects() == before.objects()
    assert after.config() == before.config()
    for part in (Part.IPTABLES, Part.IP6TABLES, Part.NFT_JSON, Part.IPVS, Part.IPSET):
        if not isinstance(before.text(part), Gap):
            assert after.text(part) == before.text(part)
    assert {one.what for one in written.gaps} >= {"connections", "Pods"}
    manifest = json.loads(after.text(Part.MANIFEST))
    assert (manifest["kpctlVersion"], manifest["node"]) == ("1.2.3", "test-node")
    assert manifest["created"] == "2026-01-02T03:04:05+00:00"
    for file in manifest["files"]:
        data = after.contents(Part(file["name"]))[0].data
        assert file["size"] == len(data)
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
    assert [one["what"] for one in manifest["gaps"]] == [one.what for one in written.gaps]


def test_files_are_their_owners_alone(tmp_path):
    write_snapshot(source_of(DATA / "ipvs"), tmp_path / "d", ORIGIN)
    write_snapshot(source_of(DATA / "ipvs"), tmp_path / "x.tgz", ORIGIN)
    paths = [tmp_path / "d", tmp_path / "x.tgz", *(tmp_path / "d").iterdir()]
    assert {path.stat().st_mode & 0o077 for path in paths} == {0}
    with tarfile.open(tmp_path / "x.tgz") as archive:
        assert {entry.mode for entry in archive} == {0o600}
    assert {one.name for one in tmp_path.iterdir()} == {"d", "x.tgz"}


def test_nothing_secret_is_inside(tmp_path):
    pods = {
        "kind": "List",
        "items": [
            {
                "kind": "Pod",
                "metadata": {
                    "name": "p",
                    "namespace": "n",
                    "annotations": {
                        "kubectl.kubernetes.io/last-applied-configuration": SECRET,
                        "service.kubernetes.io/topology-mode": "Auto",
                    },
                    "managedFields": [{"manager": SECRET}],
                },
                "spec": {
                    "nodeName": "a",
                    "containers": [{"env": [{"name": "A", "value": SECRET}], "args": [SECRET]}],
                },
                "status": {"podIP": "10.0.0.1"},
            },
            {"kind": "Secret", "metadata": {"name": "s"}, "data": {"a": SECRET}},
        ],
    }
    config_map = (
        "kind: ConfigMap\napiVersion: v1\ndata:\n  kubeconfig.conf: |\n    token: " + SECRET + "\n"
        "  config.conf: |\n    apiVersion: kubeproxy.config.k8s.io/v1alpha1\n"
        "    kind: KubeProxyConfiguration\n    mode: ipvs\n"
    )
    source = source_of(
        DATA / "ipvs",
        PODS=json.dumps(pods),
        CONFIG=config_map,
        LOG=f"Authorization: Bearer {SECRET}\n{JWT}\npassword={SECRET}\n"
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----\n",
        SYSCTL=f"net.ipv4.tcp_fastopen_key = {SECRET}\nnet.ipv6.conf.all.stable_secret = {SECRET}\n"
        f"kernel.domainname = {SECRET}\nnet.ipv4.ip_forward = 1\n",
    )
    write_snapshot(source, tmp_path / "d", ORIGIN)
    every = b"".join(path.read_bytes() for path in (tmp_path / "d").iterdir())
    assert SECRET.encode() not in every
    assert JWT.encode() not in every
    node = open_snapshot(tmp_path / "d").node()
    (pod,) = node.objects().pods
    assert pod.addresses == ("10.0.0.1",)
    assert pod.metadata.annotations == {"service.kubernetes.io/topology-mode": "Auto"}
    assert node.config().mode == "ipvs"
    assert node.sysctls().values == {"net.ipv4.ip_forward": "1"}


@pytest.mark.parametrize("mode", ["iptables", "ipvs", "nftables"])
def test_redaction_hides_names_everywhere_and_keeps_addresses(mode, tmp_path):
    write_snapshot(
        source_of(DATA / mode, LOG="ns1/svc1", METRICS="ns1"), tmp_path / "d", ORIGIN, redact=True
    )
    for path in (tmp_path / "d").iterdir():
        text = path.read_text()
        assert not re.search(r"\bns1/svc1\b|\"svc1|\"ns1\"|test-node", text), path.name
    before, after = open_snapshot(DATA / mode).node(), open_snapshot(tmp_path / "d").node()
    assert after.name == "node-1"
    services = zip(before.objects().services, after.objects().services, strict=True)
    for old, new in services:
        assert new.spec.cluster_ip == old.spec.cluster_ip
        assert new.metadata.name.startswith("svc-")
        assert new.metadata.namespace.startswith("ns-")
    known = {f"{one.metadata.namespace}/{one.metadata.name}" for one in after.objects().services}
    owners = {
        f"{one.metadata.namespace}/{one.metadata.labels['kubernetes.io/service-name']}"
        for one in after.objects().slices
    }
    assert owners <= known
    assert after.config().hostname_override == "node-1"
    rules = after.text(Part.NFT_JSON if mode == "nftables" else Part.IPTABLES)
    named = set(re.findall(r"\bns-\d+/svc-\d+", rules))
    assert named <= known
    assert named or mode == "ipvs"
    addresses = re.compile(r"\d+\.\d+\.\d+\.\d+")
    old_rules = before.text(Part.NFT_JSON if mode == "nftables" else Part.IPTABLES)
    assert addresses.findall(rules) == addresses.findall(old_rules)
    assert isinstance(after.contents(Part.LOG), Gap)


def test_gaps_of_the_source_are_in_the_manifest(tmp_path):
    class Nothing:
        def read(self, part: Part) -> Gap:
            return gap(part, "no permission")

    written = write_snapshot(Nothing(), tmp_path / "x.tar.gz", ORIGIN)
    assert written.files == ()
    assert {one.why for one in written.gaps} == {"no permission"}
    assert len(written.gaps) == len(Part) - 2


def test_what_exists_is_never_overwritten(tmp_path):
    (tmp_path / "x.tgz").write_text("mine")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_text("mine")
    for name in ("x.tgz", "d"):
        with pytest.raises(SnapshotError, match="exists already"):
            write_snapshot(source_of(DATA / "ipvs"), tmp_path / name, ORIGIN)
    with pytest.raises(SnapshotError, match="cannot be written"):
        write_snapshot(source_of(DATA / "ipvs"), tmp_path / "x.tgz/d.tgz", ORIGIN)
    assert OBJECT_PARTS


def test_what_was_changed_or_cut_after_collecting_is_told(tmp_path):
    folder = tmp_path / "d"
    write_snapshot(source_of(DATA / "ipvs"), folder, ORIGIN)
    with (folder / "iptables-save.txt").open("a") as stream:
        stream.write("# mine\n")
    (folder / "ipset-save.txt").unlink()
    node = open_snapshot(folder).node()
    for part in Part:
        node.contents(part)
    assert [note for note in node.notes() if "changed after" in note] == [
        "iptables-save.txt: it was changed after it was collected, says the manifest's SHA-256"
    ]
    assert "its manifest lists it" in node.contents(Part.IPSET).why


def test_a_gap_is_remembered_with_its_reason(tmp_path):
    write_snapshot(source_of(DATA / "ipvs"), tmp_path / "d", ORIGIN, redact=True)
    found = open_snapshot(tmp_path / "d").node().contents(Part.LOG)
    assert "left out of a redacted snapshot" in found.why


def test_a_node_alone_has_nothing_of_the_cluster(tmp_path):
    written = write_snapshot(source_of(DATA / "ipvs"), tmp_path / "d", ORIGIN, node_only=True)
    assert not {file.name for file in written.files} & {"services.json", "kube-proxy-config.yaml"}
    assert "services.json" not in {path.name for path in (tmp_path / "d").iterdir()}


def test_a_stream_gets_the_same_archive(tmp_path):
    with (tmp_path / "x.tar.gz").open("wb") as stream:
        written = write_snapshot(source_of(DATA / "ipvs"), stream, ORIGIN)
    assert written.path is None
    node = open_snapshot(tmp_path / "x.tar.gz").node()
    assert (node.name, node.mode().mode) == ("test-node", "ipvs")
