"""Lists of the API for snapshots, from a stub server."""

import json

import pytest

from diagnostics.readers.objects import read_objects
from diagnostics.snapshot.parts import Part
from kpctl import cluster_lists
from kpctl.cluster_lists import ClusterLists
from proxy.sources.credentials import ApiLocation
from proxy.sources.failures import ApiError
from proxy.sources.source import ConfigurationError
from tests.support import stub_objects


@pytest.fixture
def lists(api, tmp_path):
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    return ClusterLists(ApiLocation(str(path)), "kpctl/test")


def test_a_list_is_read_in_pages_and_joined(api, lists, monkeypatch):
    monkeypatch.setattr(cluster_lists, "PAGE_OBJECTS", 2)
    for number in range(5):
        api.store.put("services", stub_objects.service(f"more-{number}"))
    found = read_objects([("services.json", lists(Part.SERVICES))])
    assert len(found.services) == 6
    assert found.problems == ()


def test_every_kind_that_the_proxy_follows_can_be_listed(lists):
    parts = (Part.SLICES, Part.NODES, Part.SERVICE_CIDRS)
    found = read_objects([(part.value, lists(part)) for part in parts])
    assert (len(found.slices), len(found.nodes), len(found.service_cidrs)) == (1, 2, 1)


def test_a_server_without_servicecidrs_has_none_but_other_refusals_are_errors(api, lists):
    def refuse(handler, asked):
        handler.send_status(404, "no such thing")
        return True

    api.script("servicecidrs", "list", refuse)
    assert json.loads(lists(Part.SERVICE_CIDRS))["items"] == []
    api.script("services", "list", refuse)
    with pytest.raises(ApiError, match="404"):
        lists(Part.SERVICES)
    with pytest.raises(ConfigurationError):
        lists(Part.LOG)
