"""Directories, archives and single dumps, in our layout and in those of other tools."""

import gzip
import io
import json
import random
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from diagnostics.snapshot.archive import SnapshotError
from diagnostics.snapshot.mode import guess_mode
from diagnostics.snapshot.open import open_snapshot
from diagnostics.snapshot.parts import Gap, Part, part_of
from proxy.model.addresses import IPFamily

DATA = Path(__file__).parents[3] / "data/snapshots"
MODES = ("iptables", "ipvs", "nftables")


def read(mode: str, name: str) -> str:
    return (DATA / mode / name).read_text()


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def tar(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=".")
    return path


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["directory", "tar.gz", "tar", "zip"])
def test_a_snapshot_says_the_same_in_every_form(mode, form, tmp_path):
    path = DATA / mode
    if form == "zip":
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in (DATA / mode).iterdir():
                archive.write(file, f"snap/{file.name}")
    elif form != "directory":
        path = tmp_path / "x.bin"  # its content tells
        with tarfile.open(path, "w:gz" if form == "tar.gz" else "w") as archive:
            archive.add(DATA / mode, arcname="snap")
    node = open_snapshot(path).node()
    assert (node.name, node.mode().mode) == ("test-node", mode)
    assert node.families() == set(IPFamily)
    assert node.objects().services
    assert node.routing().is_local(next(iter(node.routing().local_addresses())))
    assert node.sysctls().number("net.ipv4.ip_forward") == 1
    assert isinstance(node.flows(), Gap)
    assert node.notes() == ()
    gap = node.flows()
    assert "conntrack" in gap.how
    assert gap in node.gaps()


@pytest.mark.parametrize("mode", MODES)
def test_rules_are_parsed_by_their_own_readers(mode):
    node = open_snapshot(DATA / mode).node()
    if mode == "nftables":
        assert not isinstance(node.nft(), Gap)
        assert isinstance(node.iptables(IPFamily.IPV4), Gap)
    else:
        assert not isinstance(node.iptables(IPFamily.IPV4), Gap)
        assert isinstance(node.nft(), Gap)
    assert isinstance(node.ipvs(), Gap) is (mode != "ipvs")
    assert isinstance(node.ipsets(), Gap) is (mode != "ipvs")


@pytest.mark.parametrize(
    "file", [file for mode in MODES for file in sorted((DATA / mode).iterdir())],
    ids=lambda file: f"{file.parent.name}/{file.name}",
)  # fmt: skip
def test_a_single_dump_is_recognised_by_its_content_alone(file, tmp_path):
    path = tmp_path / "dump"
    shutil.copy(file, path)
    node = open_snapshot(path).node()
    found = [part for part in Part if not isinstance(node.contents(part), Gap)]
    objects = file.name in ("services.json", "endpointslices.json", "nodes.json")
    assert found == [Part.OBJECTS if objects else Part(file.name)]


def test_a_compressed_dump_is_one_dump(tmp_path):
    path = tmp_path / "iptables-save.txt.gz"
    path.write_bytes(gzip.compress(read("iptables", "iptables-save.txt").encode()))
    assert not isinstance(open_snapshot(path).node().text(Part.IPTABLES), Gap)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("iptables.txt", Part.IPTABLES),
        ("iptables-save", Part.IPTABLES),
        ("rules.v4", Part.IPTABLES),
        ("rules.v6", Part.IP6TABLES),
        ("ip6tables-nft-save.txt", Part.IP6TABLES),
        ("nft.json", Part.NFT_JSON),
        ("nftables.txt", Part.NFT_TEXT),
        ("ipvsadm.txt", Part.IPVS),
        ("ipvsadm-Ln.txt", Part.IPVS_LIST),
        ("ipset-list.txt", Part.IPSET),
        ("ip-addr.txt", Part.ADDRESSES),
        ("ip-route-v6.txt", Part.ROUTES6),
        ("ip-route.txt", Part.ROUTES),
        ("nf_conntrack", Part.CONNTRACK),
        ("svc.yaml", Part.SERVICES),
        ("endpoints.yaml", None),
        ("k8s-services-20260101-120000.yaml", Part.SERVICES),
        ("cluster-scoped-resources/core/nodes/a.yaml", Part.NODES),
        ("readme.txt", None),
    ],
)
def test_common_names_are_known(name, part):
    assert part_of(name) is part


def test_a_calico_bundle_has_its_nodes_and_the_clusters_objects(tmp_path):
    files = {
        "c/nodes/node-a/iptables-nft-save.txt": read("iptables", "iptables-save.txt"),
        "c/nodes/node-a/iptables-legacy-save.txt": "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n",
        "c/nodes/node-b/ip-addr.txt": "1: lo: <LOOPBACK,UP> mtu 65536\n    inet 127.0.0.1/8\n",
        "c/nodes/node-b/bpf-nat.txt": "nothing",
        "c/cluster/kubernetes/services.yaml": "kind: List\nitems:\n- kind: Service\n"
        "  apiVersion: v1\n  metadata: {name: s}\n",
    }
    snapshot = open_snapshot(tar(tmp_path / "x.tgz", lay_out(tmp_path / "x", files)))
    assert snapshot.names() == ("node-a", "node-b")
    node = snapshot.node("node-a")
    assert "KUBE-SERVICES" in node.text(Part.IPTABLES)
    assert [note.split(": ")[1] for note in node.notes()] == [
        "not c/nodes/node-a/iptables-legacy-save.txt"
    ]
    assert all(len(one.objects().services) == 1 for one in snapshot.nodes)
    with pytest.raises(SnapshotError, match="node-a, node-b"):
        snapshot.node()
    with pytest.raises(SnapshotError, match="no node 'c'"):
        snapshot.node("c")


def test_a_cilium_sysdump_is_read_through_its_markdown(tmp_path):
    rules = f"# iptables-save -c\n\n```\n{read('iptables', 'iptables-save.txt')}\n```\n"
    folder = "cilium-bugtool-cilium-x1-20260101/cmd"
    files = {
        f"{folder}/iptables-save--c.md": rules,
        f"{folder}/hostname.md": "# hostname\n\n```\nnode-a\n\n```\n",
        "k8s-nodes-20260101-120000.yaml": "kind: NodeList\nitems:\n- metadata: {name: node-a}\n",
    }
    node = open_snapshot(lay_out(tmp_path, files)).node()
    assert node.name == "node-a"
    assert node.text(Part.IPTABLES).startswith("#")
    assert "```" not in node.text(Part.IPTABLES)


def test_a_must_gather_gives_its_objects(tmp_path):
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\n"
    files = {
        "m/img/namespaces/shop/core/services.yaml": "kind: ServiceList\napiVersion: v1\nitems:\n- "
        + service.replace("\n", "\n  "),
        "m/img/namespaces/shop/discovery.k8s.io/endpointslices/s-1.yaml": "kind: EndpointSlice\n"
        "apiVersion: discovery.k8s.io/v1\nmetadata: {name: s-1, namespace: shop}\n"
        "addressType: IPv4\n",
        "m/img/cluster-scoped-resources/core/nodes/a.yaml": "kind: Node\napiVersion: v1\n"
        "metadata: {name: a}\n",
    }
    objects = open_snapshot(lay_out(tmp_path, files)).node().objects()
    assert (len(objects.services), len(objects.slices), len(objects.nodes)) == (1, 1, 1)


def test_the_mode_is_told_by_the_kernel_where_no_configuration_is():
    for mode in MODES:
        node = open_snapshot(DATA / mode).node()
        texts = [node.text(part) for part in (Part.IPTABLES, Part.NFT_JSON)]
        iptables, nft = (None if isinstance(text, Gap) else text for text in texts)
        assert guess_mode("", iptables, nft, mode == "ipvs").mode == mode
    assert guess_mode("nftables", read("iptables", "iptables-save.txt"), None, False).others == (
        "iptables",
    )
    assert guess_mode("", None, None, False).mode == ""


def test_other_encodings_are_read_and_told_of(tmp_path):
    files = {"iptables-save.txt": b"\xff" + read("iptables", "iptables-save.txt").encode()}
    files["sysctl.txt"] = "net.ipv4.ip_forward = 1\n".encode("utf-16")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    node = open_snapshot(tmp_path).node()
    assert node.sysctls().number("net.ipv4.ip_forward") == 1
    assert node.text(Part.IPTABLES).startswith("\ufffd")
    assert [note.split(": ", 1)[0] for note in node.notes()] == ["sysctl.txt", "iptables-save.txt"]


def test_what_holds_no_dump_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear all,\n")
    with pytest.raises(SnapshotError, match="no dump was found in 1 files"):
        open_snapshot(tmp_path)
    with pytest.raises(SnapshotError, match="no such file"):
        open_snapshot(tmp_path / "absent")


@pytest.mark.parametrize("mode", MODES)
def test_mutated_dumps_never_raise(mode, tmp_path):
    generator = random.Random(mode)
    for _ in range(15):
        for file in (DATA / mode).iterdir():
            data = bytearray(file.read_bytes())
            for _ in range(generator.randrange(1, 30)):
                position = generator.randrange(len(data))
                action = generator.randrange(3)
                if action == 0:
                    data[position] = generator.randrange(256)
                elif action == 1:
                    del data[position : position + generator.randrange(60)]
                else:
                    data[position:position] = data[: generator.randrange(60)]
                data = data or bytearray(b"\n")
            (tmp_path / file.name).write_bytes(data)
        for node in open_snapshot(tmp_path).nodes:
            node.ipvs(), node.ipvs_counters(), node.ipsets(), node.routing(), node.sysctls()
            node.objects(), node.config(), node.mode(), node.families(), node.gaps(), node.notes()
            if not isinstance(node.ipsets(), Gap):
                for one in node.ipsets():
                    assert isinstance(one.problems, tuple)


def test_a_node_without_a_name_takes_any(tmp_path):
    (tmp_path / "sysctl.txt").write_text("net.ipv4.ip_forward = 1\n")
    assert open_snapshot(tmp_path).node("somebody").name == "somebody"


def test_the_manifest_tells_the_node(tmp_path):
    (tmp_path / "sysctl.txt").write_text("net.ipv4.ip_forward = 1\n")
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "Snapshot", "node": "a"}))
    assert open_snapshot(tmp_path).node().name == "a"


def test_a_tar_is_never_larger_in_memory_than_its_dumps(tmp_path):
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, size in (("big.pcap", 30 << 20), ("sysctl.txt", 24)):
            member = tarfile.TarInfo(name)
            member.size = size
            text = b"net.ipv4.ip_forward = 1\n"
            archive.addfile(member, io.BytesIO(text if size == 24 else bytes(size)))
    assert open_snapshot(path).node().sysctls().number("net.ipv4.ip_forward") == 1
