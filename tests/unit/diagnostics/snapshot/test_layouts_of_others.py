"""The layouts of other tools, with the names that these tools write."""

from pathlib import Path

import pytest

from diagnostics.snapshot.archive import SnapshotError
from diagnostics.snapshot.open import open_snapshot
from diagnostics.snapshot.parts import Gap, Part, part_of

DATA = Path(__file__).parents[3] / "data/snapshots"
RULES = (DATA / "iptables/iptables-save.txt").read_text()
EMPTY = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"
TTY = "Unable to use a TTY - input is not a terminal or the right kind of file\n"
IP_ADDR = (
    "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN\r\n"
    "    inet 127.0.0.1/8 scope host lo\r\n"
)
IP_LINK = "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT\n" * 9
IP_NEIGH = "10.0.0.7 dev eth0 lladdr 02:42:ac:11:00:02 REACHABLE\n10.0.0.8 dev eth0  FAILED\n"
IPSETS = (
    "Name: A\nType: hash:ip\nRevision: 5\nHeader: family inet hashsize 1024 maxelem 65536\n"
    "Size in memory: 200\nReferences: 0\nNumber of entries: 1\nMembers:\n10.0.0.1\n"
)
SERVICES = (
    "apiVersion: v1\nkind: List\nitems:\n- kind: Service\n  apiVersion: v1\n  metadata: {name: s}\n"
)
POD = "kind: Pod\napiVersion: v1\nmetadata: {name: p, namespace: shop}\nstatus: {podIP: 10.0.0.1}\n"
NODE = "kind: Node\napiVersion: v1\nmetadata: {name: a.example.com}\n"
NO_NFT = "sh: nft: command not found\ncommand terminated with exit code 127\n"


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


CALICO = {
    "iptables-legacy-save.txt": Part.IPTABLES,
    "iptables-nft-save.txt": Part.IPTABLES,
    "nft-ruleset.txt": Part.NFT_TEXT,
    "ip-route.txt": Part.ROUTES,
    "ip-route-v6.txt": Part.ROUTES6,
    "ip-rule.txt": Part.RULES,
    "ip-addr.txt": Part.ADDRESSES,
    "ip-link.txt": None,
    "ip-neigh.txt": None,
    "ipset-list.txt": Part.IPSET,
    "conntrack-list.txt": Part.CONNTRACK,
    "tc-qdisc.txt": None,
    "bpf-nat.txt": None,
    "bpf-conntrack.json": None,
}
CALICO_NODE = {
    "ipv4_route": Part.ROUTES,
    "ipv6_route": Part.ROUTES6,
    "ipv4_addr": Part.ADDRESSES,
    "ipv6_addr": Part.ADDRESSES,
    "nft_ruleset": Part.NFT_TEXT,
    "ipv4_tables": Part.IPTABLES,
    "ipv6_tables": Part.IP6TABLES,
    "ipsets": Part.IPSET,
    "ipset_container": Part.IPSET,
    "hostname": Part.HOSTNAME,
    "ss": None,
}
BUGTOOL = {
    "hostname.md": Part.HOSTNAME,
    "ip-a.md": Part.ADDRESSES,
    "ip--4-r.md": Part.ROUTES,
    "ip--6-r.md": Part.ROUTES6,
    "ip--d--s-l.md": None,
    "ip--4-n.md": None,
    "ip-rule.md": Part.RULES,
    "ip--d-rule.md": Part.RULES,
    "sysctl--a.md": Part.SYSCTL,
    "iptables-save--c.md": Part.IPTABLES,
    "ip6tables-save--c.md": Part.IP6TABLES,
    "iptables-nft-save--c.md": Part.IPTABLES,
    "ip6tables-nft-save--c.md": Part.IP6TABLES,
    "iptables-legacy-save--c.md": Part.IPTABLES,
    "ip6tables-legacy-save--c.md": Part.IP6TABLES,
    "ipset-list.md": Part.IPSET,
    "iptables--L--v.md": None,
    "ip--4-route-show-table-2004.md": None,
    # As tasks, in system/cmd.
    "iptables-save-c.txt": Part.IPTABLES,
    "ip6tables-nft-save-c.txt": Part.IP6TABLES,
    "iptables-legacy-save-c.txt": Part.IPTABLES,
    "ipset-list.txt": Part.IPSET,
    "sysctl-a.txt": Part.SYSCTL,
    "hostname.txt": Part.HOSTNAME,
    "ip-j-addr.json": Part.ADDRESSES,
    "ip-j-4-route.json": Part.ROUTES,
    "ip-j-6-route.json": Part.ROUTES6,
    "ip-j-d-s-link.json": None,
    "ip-j-4-neighbor.json": None,
    "ip-j-rule.json": Part.RULES,
    "ip4-route-tables.json": None,
}
SYSDUMP = {
    "k8s-services-20260101-120000.yaml": Part.SERVICES,
    "k8s-endpointslices-20260101-120000.yaml": Part.SLICES,
    "k8s-nodes-20260101-120000.yaml": Part.NODES,
    "k8s-pods-20260101-120000.yaml": Part.PODS,
    "k8s-pods-20260101-120000.txt": None,
    "k8s-endpoints-20260101-120000.yaml": None,
    "ciliumendpointslices-20260101-120000.yaml": None,
    "ciliumnodes-20260101-120000.yaml": None,
}
MUST_GATHER = {
    "namespaces/shop/core/services.yaml": Part.SERVICES,
    "namespaces/shop/core/pods.yaml": Part.PODS,
    "namespaces/shop/core/endpoints.yaml": None,
    "namespaces/shop/discovery.k8s.io/endpointslices.yaml": Part.SLICES,
    "namespaces/shop/discovery.k8s.io/endpointslices/web-x1.yaml": Part.SLICES,
    "namespaces/openshift-kube-proxy/core/configmaps.yaml": Part.OBJECTS,
    "cluster-scoped-resources/core/nodes/a.example.com.yaml": Part.NODES,
}


EVERY = CALICO | CALICO_NODE | BUGTOOL | SYSDUMP | MUST_GATHER


@pytest.mark.parametrize(("name", "part"), EVERY.items())
def test_the_names_that_tools_write_are_known(name, part):
    assert part_of(f"top/{name}") is part


def test_calicoctl_cluster_diags(tmp_path):
    top = "calico-diagnostics-20260101_120000"
    node = f"{top}/nodes/node-a"
    files = {
        f"{node}/iptables-nft-save.txt": TTY + RULES.replace("\n", "\r\n"),
        f"{node}/iptables-legacy-save.txt": TTY + EMPTY,
        f"{node}/ip-addr.txt": TTY + IP_ADDR,
        f"{node}/ip-link.txt": TTY + IP_LINK,
        f"{node}/ip-neigh.txt": TTY + IP_NEIGH,
        f"{node}/ip-route.txt": TTY + "default via 10.0.0.1 dev eth0\n",
        f"{node}/ipset-list.txt": TTY + IPSETS,
        f"{node}/nft-ruleset.txt": TTY + NO_NFT,
        f"{node}/calico-system/calico-node-x1.txt": "Name: calico-node-x1\nNode: node-a/10.0.0.2\n",
        f"{node}/bpf-maps/cali_v4_nat-id_7.txt": IP_NEIGH,
        f"{top}/cluster/kubernetes/services.yaml": SERVICES,
        f"{top}/cluster/kubernetes/services.txt": "NAMESPACE NAME\nshop web\n",
    }
    (found,) = open_snapshot(lay_out(tmp_path, files)).nodes
    assert found.name == "node-a"
    assert found.text(Part.IPTABLES) == RULES
    assert [str(one) for one in found.ipsets().by_name] == ["A"]
    assert found.text(Part.ADDRESSES).startswith("1: lo:")
    assert found.text(Part.ROUTES) == "default via 10.0.0.1 dev eth0\n"
    missing = found.nft()
    assert isinstance(missing, Gap)
    text = found.contents(Part.NFT_TEXT)
    assert isinstance(text, Gap)
    assert text.why.endswith("nft-ruleset.txt says: sh: nft: command not found")
    assert len(found.objects().services) == 1


def test_calicoctl_node_diags_has_the_addresses_of_each_family(tmp_path):
    v6 = "1: lo: <LOOPBACK,UP> mtu 65536\n    inet6 ::1/128 scope host\n"
    files = {"diagnostics/ipv4_addr": IP_ADDR, "diagnostics/ipv6_addr": v6}
    node = open_snapshot(lay_out(tmp_path, files)).node()
    assert [str(one.address) for _, one in node.links().addresses()] == ["127.0.0.1", "::1"]


@pytest.mark.parametrize("markdown", [True, False])
def test_a_cilium_sysdump(markdown, tmp_path):
    top = "cilium-sysdump-20260101-120000"
    failed = "> Error while running 'ip6tables-save -c':  exit status 1\n\n"
    files = {f"{top}/k8s-services-20260101-120000.yaml": SERVICES}
    for pod in ("x1", "x2"):
        folder = f"{top}/cilium-bugtool-cilium-{pod}-20260101-120000/cmd"
        outputs = {
            "hostname": f"node-{pod}\n",
            "iptables-save -c": RULES,
            "iptables-nft-save -c": EMPTY,
            "ipset list": IPSETS,
            "ip -4 n": IP_NEIGH,
        }
        for command, text in outputs.items():
            shown = f"# {command}\n\n```\n{text}\n```\n" if markdown else text
            files[f"{folder}/{command.replace(' ', '-')}.md"] = shown
        files[f"{folder}/ip6tables-save--c.md"] = failed
        files[f"{folder}/sysctl--a.md"] = "net.ipv4.ip_forward = 1\n" + failed
    snapshot = open_snapshot(lay_out(tmp_path, files))
    assert snapshot.names() == ("node-x1", "node-x2")
    for node in snapshot.nodes:
        assert node.text(Part.IPTABLES).strip() == RULES.strip()
        assert "A" in node.ipsets().by_name
        assert "exit status 1" in node.contents(Part.IP6TABLES).why
        assert node.sysctls().values == {"net.ipv4.ip_forward": "1"}
        assert isinstance(node.contents(Part.ROUTES), Gap)
        assert len(node.objects().services) == 1


def test_cilium_bugtools_tasks(tmp_path):
    folder = "cilium-bugtool-cilium-x1-20260101-120000/system/cmd"
    files = {
        f"{folder}/hostname.txt": "node-a\n",
        f"{folder}/iptables-save-c.txt": RULES,
        f"{folder}/ip-j-addr.json": '[{"ifname":"lo","addr_info":[]}]',
        f"{folder}/ip-j-d-s-link.json": '[{"ifname":"lo","flags":[]},{"ifname":"eth0"}]',
        f"{folder}/ip-j-4-neighbor.json": '[{"dst":"10.0.0.7","dev":"eth0","state":["STALE"]}]',
        f"{folder}/ip4-route-tables.json": '[{"dst":"default","dev":"eth0"}]',
        "k8s-services-20260101-120000.yaml": SERVICES,
    }
    (node,) = open_snapshot(lay_out(tmp_path, files)).nodes
    assert node.name in ("node-a", "")
    assert [link.name for link in node.links()] == ["lo"]
    assert isinstance(node.contents(Part.ROUTES), Gap)
    assert node.text(Part.HOSTNAME).strip() == "node-a"


def test_a_must_gather_has_no_node_where_it_has_only_a_log(tmp_path):
    top = "must-gather.local.1/quay-io-image"
    config = (
        "kind: ConfigMapList\napiVersion: v1\nitems:\n- kind: ConfigMap\n  apiVersion: v1\n"
        "  metadata: {name: proxy-config, namespace: openshift-kube-proxy}\n  data:\n"
        "    kube-proxy-config.yaml: |\n      apiVersion: kubeproxy.config.k8s.io/v1alpha1\n"
        "      kind: KubeProxyConfiguration\n      mode: ipvs\n"
    )
    files = {
        f"{top}/host_service_logs/windows/log_files/kube-proxy/kube-proxy.log": "I0101\n",
        f"{top}/namespaces/shop/core/services.yaml": SERVICES,
        f"{top}/namespaces/shop/core/pods.yaml": "kind: PodList\napiVersion: v1\nitems:\n- "
        + POD.replace("\n", "\n  "),
        f"{top}/namespaces/shop/pods/p/p.yaml": POD,
        f"{top}/namespaces/openshift-kube-proxy/core/configmaps.yaml": config,
        f"{top}/cluster-scoped-resources/core/nodes/a.example.com.yaml": NODE,
        f"{top}/nodes/a.example.com/lscpu": "CPU NODE SOCKET\n",
        f"{top}/nodes/a.example.com/dmesg": "[ 0.1] Linux version 5\n",
        f"{top}/network_logs/cluster_scale": "services amount: 12\n",
    }
    (node,) = open_snapshot(lay_out(tmp_path, files)).nodes
    assert node.name in ("", "a.example.com")
    objects = node.objects()
    assert (len(objects.services), len(objects.pods), len(objects.nodes)) == (1, 1, 1)
    assert node.config().mode == "ipvs"
    assert isinstance(node.contents(Part.IPTABLES), Gap)


@pytest.mark.parametrize(
    "text",
    [
        "iptables-legacy-save v1.8.4 (legacy): Cannot initialize: (you must be root)\n",
        'OCI runtime exec failed: exec failed: exec: "iptables-save": executable file not found\n',
        'Error from server (NotFound): pods "calico-node-x1" not found\n',
        "command terminated with exit code 1\n",
    ],
)
def test_an_error_in_a_file_is_no_empty_ruleset(text, tmp_path):
    (tmp_path / "iptables-save.txt").write_text(text)
    (tmp_path / "sysctl.txt").write_text("net.ipv4.ip_forward = 1\n")
    found = open_snapshot(tmp_path).node().contents(Part.IPTABLES)
    assert isinstance(found, Gap)
    assert text.split()[0] in found.why
    (tmp_path / "sysctl.txt").unlink()
    with pytest.raises(SnapshotError, match="no dump was found"):
        open_snapshot(tmp_path)


@pytest.mark.parametrize("text", ["", "\n", "# Generated by iptables-save v1.8.9\n# Completed\n"])
def test_an_empty_ruleset_is_one(text, tmp_path):
    (tmp_path / "iptables-save.txt").write_text(text)
    assert not isinstance(open_snapshot(tmp_path).node().contents(Part.IPTABLES), Gap)


def test_a_node_may_be_called_like_a_folder_that_sorts_dumps(tmp_path):
    files = {f"nodes/{name}/iptables-save.txt": RULES for name in ("host", "net", "nodes")}
    assert open_snapshot(lay_out(tmp_path, files)).names() == ("host", "net", "nodes")
