"""A stub API server with a few objects, and a source that follows it with short waits."""

import pytest

from proxy.sources import backoff
from proxy.sources.credentials import ApiLocation
from tests.support import stub_objects
from tests.support.apiserver import ApiServer
from tests.support.following import NODE, Following


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(backoff, "FIRST_S", 0.02)


@pytest.fixture
def api():
    server = ApiServer()
    server.store.put("nodes", stub_objects.node(NODE))
    server.store.put("nodes", stub_objects.node("node-9"))
    server.store.put("servicecidrs", stub_objects.service_cidr())
    server.store.put("services", stub_objects.service("web"))
    server.store.put("endpointslices", stub_objects.endpoint_slice("web", ["10.180.0.1"]))
    with server:
        yield server


@pytest.fixture
def follow(api):
    with Following(ApiLocation(master=api.url)) as following:
        yield following
