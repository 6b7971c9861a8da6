"""Kubernetes Events to the API server."""

import msgspec
import pytest

from proxy.sources.client import Client
from proxy.sources.credentials import ApiLocation, Credentials
from proxy.sources.poster import WAITING_AT_MOST, EventPoster
from tests.support.waiting import eventually

EVENT = {
    "apiVersion": "events.k8s.io/v1",
    "kind": "Event",
    "metadata": {"name": "node-0.1", "namespace": "default"},
    "reason": "Starting",
}


@pytest.fixture
def told():
    return []


@pytest.fixture
def poster(api, told):
    client = Client(Credentials(ApiLocation(master=api.url)), "kpctl/test")
    return EventPoster(client, told.append)


def test_an_event_is_created_in_its_namespace(api, poster):
    poster.post_event(EVENT)

    eventually(lambda: api.requests("events", "create"))
    (asked,) = api.requests("events", "create")
    assert asked.namespace == "default"
    assert msgspec.json.decode(asked.body)["reason"] == "Starting"
    assert asked.headers["content-type"] == "application/json"


def test_a_refused_event_is_told_once_with_what_to_grant_and_dropped(api, poster, told):
    def refuse(handler, asked):
        handler.send_status(403, 'User "kp" cannot create')
        return True

    api.script("events", "create", refuse, times=2)
    for _ in range(3):
        poster.post_event(EVENT)

    eventually(lambda: len(told) == 2)
    assert 'resource events in API group "events.k8s.io"' in told[0].text
    assert told[1].resolved
    assert len(api.requests("events", "create")) == 3


def test_posting_never_blocks_while_the_server_is_down(api, poster, told):
    api.stop()
    for _ in range(3 * WAITING_AT_MOST):
        poster.post_event(EVENT)

    eventually(lambda: told)
