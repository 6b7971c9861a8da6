"""What --config accepts."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from proxy.config.file import load_file, load_text, write_file
from proxy.config.problems import InvalidConfiguration, UnreadableFile
from tests.support.config_cases import DATA, HEADER, cases, resolved


@pytest.mark.parametrize("case", cases("defaults", "loadFile"))
def test_files_load_as_they_do_for_kube_proxy(case: dict[str, Any]) -> None:
    assert load_text(case["yaml"]).config == resolved(case["expect"])


@pytest.mark.parametrize("case", cases("defaults", "loadFileErrors"))
def test_texts_that_are_no_yaml_do_not_load(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load_text(case["yaml"])
    assert [problem.kind for problem in caught.value.problems] == ["syntax"]


def test_the_complete_example_loads_with_its_outdated_parts_reported() -> None:
    loaded = load_file(str(DATA / "kubeadm-complete.yaml"))
    assert loaded.config.mode == "ipvs"
    assert loaded.config.min_sync_period_s == 2.0
    assert {problem.path for problem in loaded.warnings} == {
        "logging.sanitization",
        "featureGates.NFTablesProxyMode",
    }


def config_map(content: str, key: str = "config.conf") -> str:
    return f"apiVersion: v1\nkind: ConfigMap\ndata:\n  {key}: |\n{textwrap.indent(content, '    ')}"


@pytest.mark.parametrize("key", ["config.conf", "kube-proxy-config.yaml"])
def test_a_config_map_is_unpacked(key: str) -> None:
    assert load_text(config_map(f"{HEADER}mode: ipvs\n", key)).config.mode == "ipvs"


def test_a_config_map_in_json_is_unpacked() -> None:
    text = json.dumps({"kind": "ConfigMap", "data": {"config.conf": f"{HEADER}mode: ipvs\n"}})
    assert load_text(text).config.mode == "ipvs"


def test_lines_inside_a_config_map_are_lines_of_the_file() -> None:
    (warning,) = load_text(config_map(f"{HEADER}nonsense: 1\n")).warnings
    assert (warning.path, warning.line) == ("nonsense", 7)


def test_the_configuration_is_found_among_several_documents() -> None:
    text = f"kind: DaemonSet\n---\n{HEADER}mode: nftables\n"
    assert load_text(text).config.mode == "nftables"


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        ("", "", "no mapping found"),
        ("- a\n", "", "no mapping found"),
        ("mode: ipvs\n", "apiVersion", 'expected "kubeproxy.config.k8s.io/v1alpha1", got nothing'),
        (HEADER.replace("v1alpha1", "v1"), "apiVersion", 'got "kubeproxy.config.k8s.io/v1"'),
        (HEADER.replace("KubeProxy", "Kubelet"), "kind", 'got "KubeletConfiguration"'),
        ("kind: ConfigMap\ndata: {a: b}\n", "data", "it has a"),
        ("kind: ConfigMap\n", "data", "it has nothing"),
        ("kind: ConfigMap\ndata: {config.conf: prose}\n", "data.config.conf", "expected the text"),
    ],
)
def test_what_is_no_configuration_is_refused_by_name(text: str, path: str, said: str) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load_text(text)
    assert caught.value.problems[0].path == path
    assert said in caught.value.problems[0].message


def test_type_errors_are_all_reported_and_come_with_the_warnings() -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load_text(f"{HEADER}mode: 1\noomScoreAdj: x\nnonsense: 1\n")
    assert [problem.path for problem in caught.value.problems] == ["mode", "oomScoreAdj"]
    assert [problem.path for problem in caught.value.warnings] == ["nonsense"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"cannot read .*absent: No such file"):
        load_file(str(tmp_path / "absent"))


def test_a_path_no_system_accepts_is_refused_cleanly() -> None:
    with pytest.raises(UnreadableFile, match="null byte"):
        load_file("a\0b")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"mode: \xff\n")
    with pytest.raises(InvalidConfiguration, match="byte 6 is invalid"):
        load_file(str(tmp_path / "binary"))


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "bom").write_text(f"{HEADER}mode: ipvs\n", encoding="utf-8-sig")
    assert load_file(str(tmp_path / "bom")).config.mode == "ipvs"


def test_writing_replaces_the_file_or_names_it(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_file(str(target), "old and longer")
    write_file(str(target), "new")
    assert target.read_text() == "new"
    with pytest.raises(UnreadableFile, match="cannot write"):
        write_file(str(tmp_path / "absent" / "out"), "")
