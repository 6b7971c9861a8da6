"""The API source against a server whose lists are late, cut, refused or nonsense."""

import threading
import time

import pytest

from proxy.model.events import Resource, Unreadable
from proxy.sources.credentials import ApiLocation
from tests.support.apiserver import Cut
from tests.support.faults import body, put_service, status
from tests.support.following import Following

SERVICE, SLICE = Resource.SERVICE, Resource.ENDPOINT_SLICE


def test_everything_is_listed_once_and_only_what_is_selected(api, follow):
    follow.wait_all_synced()

    assert follow.names(SERVICE) == {"web"}
    assert follow.names(SLICE) == {"web-abcde"}
    assert follow.names(Resource.NODE) == {"node-0"}
    assert follow.names(Resource.SERVICE_CIDR) == {"kubernetes"}
    assert follow.problems == []


def test_a_paged_list_arrives_as_one(api):
    api.page_from_cache = True
    for index in range(1200):
        put_service(api, f"s{index}")
    with Following(ApiLocation(master=api.url)) as follow:
        assert len(follow.wait_synced(SERVICE).objects) == 1201
    assert len(api.requests("services", "list")) == 3


def test_a_list_whose_pages_expire_is_started_again(api):
    api.page_from_cache = True
    for index in range(1200):
        put_service(api, f"s{index}")

    def compact(handler, asked):
        if "continue" in asked.params:
            api.store.compact()
        return False

    api.script("services", "list", compact, times=2)
    with Following(ApiLocation(master=api.url)) as follow:
        assert len(follow.wait_synced(SERVICE).objects) == 1201
        assert len(follow.lists(SERVICE)) == 1
        assert follow.problems == []
    assert api.requests("services", "list")[2].params["resourceVersion"] == ""


def test_a_bad_object_in_a_list_costs_only_itself(api):
    put_service(api, "bad", ports=[{"port": "http"}])
    with Following(ApiLocation(master=api.url)) as follow:
        replaced = follow.wait_synced(SERVICE)
    unreadable, good = sorted(replaced.objects, key=lambda o: not isinstance(o, Unreadable))
    assert good.metadata.name == "web"
    assert (unreadable.namespace, unreadable.name) == ("default", "bad")
    assert unreadable.problem == "spec.ports[0].port: Expected int, got str"


def test_a_slow_list_does_not_hold_up_the_other_resources(api):
    go_on = threading.Event()

    def slow(handler, asked):
        go_on.wait(10)
        return False

    api.script("services", "list", slow)
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_synced(SLICE)
        follow.wait_synced(Resource.NODE)
        assert follow.lists(SERVICE) == []
        go_on.set()
        follow.wait_synced(SERVICE)


@pytest.mark.parametrize(
    "fault",
    [
        body(b"<html>Please sign in</html>"),
        body(b'{"metadata":{"resourceVersion":"5"},"items":[{"meta'),
        body(b""),
    ],
)
def test_a_list_that_is_no_list_is_reported_and_asked_for_again(api, fault):
    api.script("services", "list", fault)
    with Following(ApiLocation(master=api.url)) as follow:
        assert len(follow.wait_synced(SERVICE).objects) == 1
        problem = follow.wait_problem("cannot read the list of services")
        assert api.url in problem.text
        follow.wait_problem("services are followed again", resolved=True)


def test_a_list_that_breaks_off_is_asked_for_again(api):
    def half(handler, asked):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b'{"items":[')
        raise Cut

    api.script("services", "list", half)
    with Following(ApiLocation(master=api.url)) as follow:
        assert len(follow.wait_synced(SERVICE).objects) == 1
        follow.wait_problem("no connection to the API server")


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_list_the_server_fails_is_asked_for_again(api, code):
    api.script("services", "list", status(code, "overloaded"), times=2)
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_synced(SERVICE)
        problem = follow.wait_problem(str(code))
        assert "overloaded" in problem.text
        follow.wait_problem("answers again", resolved=True)
    assert len([p for p in follow.problems if not p.resolved]) == 1


def test_the_server_decides_how_long_to_stay_away(api):
    api.script("services", "list", status(429, "later", Retry_After="1"))
    started = time.monotonic()
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_synced(SERVICE)
    assert time.monotonic() - started >= 1.0


def test_a_missing_api_group_is_an_empty_list_and_no_problem(api):
    api.absent.add("servicecidrs")
    with Following(ApiLocation(master=api.url)) as follow:
        assert follow.wait_synced(Resource.SERVICE_CIDR).objects == ()
        follow.wait_synced(SERVICE)
        assert follow.problems == []
    assert len(api.requests("servicecidrs", "list")) == 1
