"""Manifest files into objects."""

import json

import pytest

from proxy.model.events import Resource
from proxy.sources.manifest_files import ManifestSyntaxError, read_manifest

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  clusterIP: 10.0.0.1
  ports:
  - port: 80
"""
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
addressType: IPv4
endpoints:
- addresses: [10.1.0.1]
ports:
- port: 8080
"""
WEB = (Resource.SERVICE, "default", "web")
WEB_SLICE = (Resource.ENDPOINT_SLICE, "shop", "web-1")


def read(text, name="a.yaml"):
    return read_manifest(name, text.encode())


def test_several_documents_of_one_file_are_all_read():
    contents = read(f"{SERVICE}---\n{SLICE}---\n---\n# nothing\n")

    assert contents.objects.keys() == {WEB, WEB_SLICE}
    assert contents.problems == []


def test_what_an_api_server_would_fill_in_is_filled_in():
    contents = read(f"{SERVICE}  sessionAffinity: ClientIP\n---\n{SLICE}")
    service, slice_ = contents.objects[WEB], contents.objects[WEB_SLICE]

    assert service.metadata.namespace == "default"
    assert service.spec.ports[0].protocol == "TCP"
    assert service.spec.session_affinity_config.client_ip.timeout_seconds == 10800
    assert (slice_.ports[0].name, slice_.ports[0].protocol) == ("", "TCP")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("clusterIP: 10.0.0.1", ("10.0.0.1", ["10.0.0.1"], ["IPv4"])),
        ("clusterIPs: [fd00::1, 10.0.0.1]", ("fd00::1", ["fd00::1", "10.0.0.1"], ["IPv6", "IPv4"])),
        ("clusterIP: 10.0.0.1, ipFamilies: [IPv4]", ("10.0.0.1", ["10.0.0.1"], ["IPv4"])),
        ("clusterIPs: [None]", ("None", ["None"], [])),
        ("type: ClusterIP", (None, None, None)),
        ("type: ExternalName, clusterIP: 10.0.0.1", ("10.0.0.1", None, None)),
    ],
)
def test_cluster_addresses_and_families_complete_each_other(given, expected):
    contents = read(f"kind: Service\nmetadata: {{name: web}}\nspec: {{{given}}}\n")
    (service,) = contents.objects.values()

    assert (service.spec.cluster_ip, service.spec.cluster_ips, service.spec.ip_families) == expected


def test_what_is_given_is_kept():
    contents = read(
        f"{SERVICE}    protocol: UDP\n  sessionAffinity: ClientIP\n"
        "  sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}\n"
    )
    spec = contents.objects[WEB].spec

    assert spec.ports[0].protocol == "UDP"
    assert spec.session_affinity_config.client_ip.timeout_seconds == 5


def test_cluster_scoped_objects_have_no_namespace():
    contents = read("kind: Node\nmetadata: {name: n1, namespace: x}\n")

    assert contents.objects.keys() == {(Resource.NODE, "", "n1")}


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_lists_and_lists_of_lists_are_opened(name):
    service = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "web"}}
    plain = {"metadata": {"name": "n1"}}
    document = {
        "kind": "List",
        "items": [{"kind": "List", "items": [service]}, {"kind": "NodeList", "items": [plain]}],
    }

    contents = read(json.dumps(document), name)

    assert contents.objects.keys() == {WEB, (Resource.NODE, "", "n1")}
    assert contents.problems == []


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_lists_without_end_are_not_followed(name):
    document = {"kind": "List", "items": []}
    for _ in range(30):
        document = {"kind": "List", "items": [document]}

    (problem,) = read(json.dumps(document), name).problems

    assert "nested too deeply" in problem


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
@pytest.mark.parametrize(
    ("version", "kind"),
    [("v1", "Pod"), ("apps/v1", "Deployment"), ("serving.knative.dev/v1", "Service")],
)
def test_objects_of_other_kinds_are_ignored_silently(name, version, kind):
    document = {"kind": kind, "apiVersion": version, "metadata": {"name": "x"}, "spec": 3}

    contents = read(json.dumps(document), name)

    assert (contents.objects, contents.unreadable, contents.problems) == ({}, {}, [])


def test_a_wrong_type_names_the_document_and_the_field_and_spares_the_rest():
    contents = read(SERVICE.replace("80", "'80'") + f"---\n{SLICE}")

    assert contents.unreadable == {WEB: "line 1: spec.ports[0].port: Expected int, got str"}
    assert contents.objects.keys() == {WEB_SLICE}


def test_a_wrong_type_in_json_names_the_item_and_the_field():
    item = {"kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": "80"}]}}

    contents = read(json.dumps({"kind": "List", "items": [item]}), "a.json")

    assert contents.unreadable == {WEB: "items[0]: spec.ports[0].port: Expected int, got str"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("kind: Service\nmetadata: {name: 3}\n", "line 1: a Service without a readable name"),
        ("kind: Service\nmetadata: {}\n", "metadata.name: missing"),
        ("kind: Service\nmetadata: web\n", "metadata: Expected object, got str"),
        ("a: 1\n", "line 1: no kind; ignored"),
        ("- 1\n", "line 1: a list is no object; ignored"),
        ("kind: [Service]\n", ""),
    ],
)
def test_what_cannot_be_an_object_is_reported_with_its_line(text, part):
    contents = read(text)

    assert contents.objects == {}
    assert part in " ".join(contents.problems)


def test_an_object_that_is_in_a_file_twice_counts_once():
    contents = read(f"{SERVICE}---\n{SERVICE.replace('80', '81')}")

    assert contents.objects[WEB].spec.ports[0].port == 80
    assert contents.problems == [
        "line 10: Service default/web is in this file twice; the first counts"
    ]


def test_duplicate_keys_are_reported_and_the_last_counts():
    contents = read(f"{SERVICE}  clusterIP: 10.0.0.2\n")

    assert contents.objects[WEB].spec.cluster_ip == "10.0.0.2"
    assert contents.problems == ["line 9: key 'clusterIP' occurs twice; the last one counts"]


def test_merge_keys_are_not_duplicates():
    contents = read(
        "kind: Service\nmetadata: &m {name: web}\nx: {<<: *m, name: other}\nspec: {ports: []}\n"
    )

    assert contents.problems == []


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("fd00::1", "fd00::1"),
    ],
)
def test_text_that_only_old_yaml_takes_for_numbers_or_times_stays_text(scalar, value):
    contents = read(SERVICE.replace("web\n", f"web\n  annotations: {{a: {scalar}}}\n"))

    assert contents.objects[WEB].metadata.annotations == {"a": value}


@pytest.mark.parametrize("scalar", ["80", "0x50", "0120"])
def test_numbers_are_numbers(scalar):
    assert read(SERVICE.replace("80", scalar)).objects[WEB].spec.ports[0].port == 80


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.yaml", "kind: Service\nmetadata: {name: [\n", 3),
        ("a.yaml", "kind: Service\n\tx: 1\n", 2),
        ("a.yaml", "a: *unknown\n", 1),
        ("a.yaml", "a: !!python/object:os.system 1\n", 1),
        ("a.yaml", "a:\n  " + "[" * 300_000 + "]" * 300_000, 2),
        ("a.yaml", "- " * 300_000, 1),
        ("a.json", '{\n"kind": "Service",\n}', 3),
        ("a.json", '{\n"kind": "Service"', 2),
        ("a.json", '{"kind": "Service"}\n{"kind": "Service"}', 2),
    ],
)
def test_a_file_that_does_not_parse_is_refused_with_its_line(name, text, line):
    with pytest.raises(ManifestSyntaxError, match=f"^line {line}: "):
        read(text, name)


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
@pytest.mark.parametrize("data", [b"\xff\xfe\xfd", b'{"kind": "\xff"}', b"\x00"])
def test_bytes_that_are_no_text_are_refused(name, data):
    with pytest.raises(ManifestSyntaxError, match=r"^line 1: "):
        read_manifest(name, data)


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_an_empty_file_is_empty(name):
    assert read("\n \n", name).objects == {}
