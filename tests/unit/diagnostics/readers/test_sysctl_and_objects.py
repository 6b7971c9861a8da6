"""Kernel settings, and what kubectl prints."""

from pathlib import Path

import pytest

from diagnostics.readers.objects import ConfigProblem, read_config, read_objects
from diagnostics.readers.sysctl import read_sysctl

DATA = Path(__file__).parents[3] / "data/snapshots"
POD = (
    b"kind: Pod\nmetadata: {name: p, namespace: n}\nspec: {nodeName: a, hostNetwork: true}\n"
    b"status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}\n"
)
CONFIG = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n"


def test_settings_are_read_with_dots_slashes_and_complaints():
    found = read_sysctl(
        "net.ipv4.ip_forward = 1\nnet/ipv4/conf/eth0.5/rp_filter=2\n"
        "sysctl: permission denied on key 'x'\nrubbish\nnet.ipv4.vs.sync_threshold = 3\t50\n"
    )
    assert found.number("net.ipv4.ip_forward") == 1
    assert found.get("net.ipv4.conf.eth0/5.rp_filter") == "2"
    assert found.number("net.ipv4.vs.sync_threshold") is None
    assert found.get("absent") is None
    assert [problem.line for problem in found.problems] == [4]


def test_objects_of_a_recorded_node_become_the_proxys_own():
    folder = DATA / "iptables"
    names = ("services.json", "endpointslices.json", "nodes.json")
    found = read_objects([(name, (folder / name).read_bytes()) for name in names])
    assert found.problems == ()
    assert found.services
    assert found.slices
    assert [node.metadata.name for node in found.nodes] == ["test-node"]
    assert found.pods is None


def test_many_documents_lists_and_single_objects_are_read():
    service = b"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.0.0.1}\n"
    listed = b'{"kind":"List","apiVersion":"v1","items":[{"kind":"Node","metadata":{"name":"a"}}]}'
    found = read_objects([("a.yaml", service + b"---\n" + POD), ("b.json", listed)])
    assert found.services[0].metadata.namespace == "default"
    assert found.nodes[0].metadata.name == "a"
    assert found.pods[0].addresses == ("10.0.0.1", "fd00::1")
    assert found.pods[0].spec.host_network


def test_an_empty_list_is_known_to_be_empty():
    found = read_objects([("services.json", b'{"kind":"ServiceList","items":[]}')])
    assert found.services == ()
    assert found.slices is None


def test_files_that_cannot_be_read_are_problems_of_that_file():
    found = read_objects([("x.json", b"{"), ("y.yaml", b"a: [\n"), ("z.yaml", POD)])
    assert [problem.partition(":")[0] for problem in found.problems] == ["x.json", "y.yaml"]
    assert len(found.pods) == 1


@pytest.mark.parametrize(
    "text",
    [
        CONFIG,
        "kind: ConfigMap\napiVersion: v1\ndata:\n  config.conf: |\n    "
        + CONFIG.replace("\n", "\n    "),
        "kind: List\napiVersion: v1\nitems:\n- kind: ConfigMap\n  data:\n    config.conf: |\n      "
        + CONFIG.replace("\n", "\n      "),
        '{"kubeproxy.config.k8s.io":{"kind":"KubeProxyConfiguration","mode":"ipvs",'
        '"apiVersion":"kubeproxy.config.k8s.io/v1alpha1"}}',
    ],
)
def test_a_configuration_is_found_in_its_wrappings(text):
    assert read_config(text.encode()).mode == "ipvs"


def test_a_wrong_configuration_says_why():
    with pytest.raises(ConfigProblem, match="expected"):
        read_config(b"kind: Pod\n")
