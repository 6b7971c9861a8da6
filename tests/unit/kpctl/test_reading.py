"""Where commands that read take their objects and the node's name from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diagnostics.snapshot.parts import Part
from kpctl.manifest_lists import ManifestLists
from kpctl.reading import api_of
from proxy.sources.source import SourceError

MANIFEST = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}
- {apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop}}
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    (tmp_path / "all.yaml").write_text(MANIFEST)
    (tmp_path / "notes.txt").write_text("kind: Service")
    return tmp_path


def names(listed: bytes) -> list[str]:
    return [item["metadata"]["name"] for item in json.loads(listed)["items"]]


def test_manifests_are_listed_by_kind(manifests: Path) -> None:
    lists = ManifestLists(manifests)
    assert names(lists(Part.SERVICES)) == ["web", "api"]
    assert names(lists(Part.NODES)) == ["n1"]
    assert names(lists(Part.PODS)) == []


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        ManifestLists(tmp_path / "nowhere")(Part.SERVICES)


def test_what_manifests_cannot_have_is_told(manifests: Path) -> None:
    with pytest.raises(SourceError, match="metrics"):
        ManifestLists(manifests)(Part.METRICS)


def test_manifests_stand_for_the_api_unless_a_kubeconfig_is_named(
    manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPCTL_MANIFESTS", str(manifests))
    objects, why = api_of("")
    assert isinstance(objects, ManifestLists)
    assert why == ""
    asked, _ = api_of(str(manifests / "kubeconfig"))
    assert not isinstance(asked, ManifestLists)
