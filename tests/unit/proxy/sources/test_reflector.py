"""The list/watch state machine, without any I/O."""

import json

import pytest

from proxy.model.events import Removed, Replaced, Resource, Unreadable, Upserted
from proxy.sources.failures import ApiError, ConnectionFailedError, GarbledError
from proxy.sources.reflector import ABSENT_GROUP_S, PAGE_SIZE, Reflector
from proxy.sources.resources import followed_resources

SERVICES, SLICES, NODES, CIDRS = followed_resources("node-1")


def reflector(spec=SERVICES, random=lambda: 0.0):
    return Reflector(spec, random)


def obj(name="web", version="11"):
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": version}}


def page(*items, version="10", token=""):
    meta = {"resourceVersion": version, "continue": token}
    return json.dumps({"metadata": meta, "items": items}).encode()


def line(kind, item):
    return json.dumps({"type": kind, "object": item}).encode()


def watching(**options):
    machine = reflector(**options)
    machine.next_request()
    machine.receive_page(page(obj()))
    assert machine.next_request().watch
    return machine


def test_the_first_list_takes_any_version_in_pages_of_500_with_the_selectors():
    request = reflector().next_request()

    assert not request.watch
    assert request.delay_s == 0.0
    assert request.params == {
        "limit": str(PAGE_SIZE),
        "resourceVersion": "0",
        "labelSelector": "!service.kubernetes.io/service-proxy-name",
        "fieldSelector": "spec.clusterIP!=None",
    }


def test_pages_are_gathered_into_one_replacement():
    machine = reflector()
    machine.next_request()

    assert machine.receive_page(page(obj("a"), token="t1")) == []
    request = machine.next_request()
    assert request.params["continue"] == "t1"
    assert "resourceVersion" not in request.params
    (replaced,) = machine.receive_page(page(obj("b")))

    assert isinstance(replaced, Replaced)
    assert replaced.resource is Resource.SERVICE
    assert [item.metadata.name for item in replaced.objects] == ["a", "b"]


def test_a_watch_goes_on_from_the_lists_version_with_bookmarks_for_5_to_10_minutes():
    for fraction, timeout in ((0.0, 300), (0.999, 599)):
        machine = reflector(random=lambda fraction=fraction: fraction)
        machine.next_request()
        machine.receive_page(page(version="123"))

        request = machine.next_request()

        assert request.watch
        assert request.timeout_s == timeout
        assert request.params["resourceVersion"] == "123"
        assert request.params["allowWatchBookmarks"] == "true"
        assert request.params["timeoutSeconds"] == str(timeout)
        assert request.params["fieldSelector"] == "spec.clusterIP!=None"


def test_changes_become_events_that_carry_when_they_arrived():
    machine = watching()

    added = machine.receive_line(line("ADDED", obj("a")), 12.5)
    removed = machine.receive_line(line("DELETED", obj("a")), 13.0)

    assert isinstance(added, Upserted)
    assert (added.obj.metadata.name, added.received) == ("a", 12.5)
    assert removed == Removed(Resource.SERVICE, "shop", "a")


def test_the_next_watch_goes_on_from_the_last_event_or_bookmark():
    machine = watching()
    machine.receive_line(line("ADDED", obj("a", "20")), 0.0)
    machine.ended(400.0)
    assert machine.next_request().params["resourceVersion"] == "20"

    assert machine.receive_line(line("BOOKMARK", obj("", "35")), 0.0) is None
    machine.failed(ConnectionFailedError("reset"))

    request = machine.next_request()
    assert (request.watch, request.params["resourceVersion"]) == (True, "35")


def test_a_watch_that_worked_is_taken_up_again_at_once_however_it_ended():
    machine = watching()
    machine.receive_line(line("ADDED", obj()), 0.0)
    machine.ended(0.1)
    assert machine.next_request().delay_s == 0.0
    machine.receive_line(line("ADDED", obj()), 0.0)
    machine.failed(ConnectionFailedError("reset"))
    assert machine.next_request().delay_s == 0.0
    machine.ended(300.0)
    assert machine.next_request().delay_s == 0.0


def test_a_quiet_watch_cut_after_a_while_was_working_too():
    machine = watching()
    machine.failed(ConnectionFailedError("reset"), lasted_s=200.0)

    assert machine.was_working
    assert machine.next_request().delay_s == 0.0


def test_watches_that_end_at_once_are_asked_for_ever_more_rarely():
    machine = watching()
    delays = []
    for _ in range(3):
        machine.ended(0.01)
        delays.append(machine.next_request().delay_s)

    assert delays == [0.8, 1.6, 3.2]


@pytest.mark.parametrize("reason", ["Expired", "Gone", ""])
def test_an_expired_watch_lists_anew_from_no_older_version_without_pages(reason):
    machine = watching()
    machine.receive_line(line("ADDED", obj("a", "20")), 0.0)

    machine.failed(ApiError(410, reason))

    request = machine.next_request()
    assert not request.watch
    assert request.delay_s == 0.0
    assert request.params["resourceVersion"] == "20"
    assert request.params["resourceVersionMatch"] == "NotOlderThan"
    assert "limit" not in request.params


def test_expiry_right_after_a_list_waits_so_that_it_cannot_spin():
    machine = watching()

    machine.failed(ApiError(410))

    assert machine.next_request().delay_s == 0.8


def test_a_list_that_cannot_be_had_at_a_version_is_asked_for_the_newest():
    machine = watching()
    machine.failed(ApiError(410))
    machine.next_request()

    machine.failed(ApiError(504, "Timeout", "Too large resource version: 9, current: 3"))

    assert machine.next_request().params["resourceVersion"] == ""


def test_an_expired_continue_token_starts_the_list_again_and_drops_its_first_pages():
    machine = reflector()
    machine.next_request()
    machine.receive_page(page(obj("a"), token="t1"))
    machine.next_request()

    machine.failed(ApiError(410, "Expired"))

    request = machine.next_request()
    assert "continue" not in request.params
    assert request.params["resourceVersion"] == ""
    (replaced,) = machine.receive_page(page(obj("b")))
    assert [item.metadata.name for item in replaced.objects] == ["b"]


def test_a_version_from_the_future_after_a_restored_backup_lists_anew():
    machine = watching()

    machine.failed(ApiError(504, "Timeout", "Too large resource version: 9, current: 3"))

    request = machine.next_request()
    assert (request.watch, request.params["resourceVersion"]) == (False, "")


def test_failed_lists_are_repeated_with_growing_waits_until_one_works():
    machine = reflector()
    delays = []
    for _ in range(4):
        machine.next_request()
        machine.failed(ConnectionFailedError("refused"))
        delays.append(machine._delay_s)

    assert delays == [0.8, 1.6, 3.2, 6.4]
    assert not machine.next_request().watch


def test_a_list_that_works_alone_does_not_shorten_the_waits():
    machine = reflector()
    machine.next_request()
    machine.failed(ConnectionFailedError("refused"))
    machine.next_request()
    machine.receive_page(page())
    machine.next_request()

    machine.failed(ApiError(403))

    assert machine.next_request().delay_s == 1.6


def test_the_server_can_ask_for_a_longer_wait_up_to_a_minute():
    for asked_s, waited_s in ((7.0, 7.0), (3600.0, 60.0), (0.0, 0.8)):
        machine = watching()
        machine.failed(ApiError(429, "TooManyRequests", retry_after_s=asked_s))

        assert machine.next_request().delay_s == waited_s


def test_a_garbled_line_goes_on_from_the_version_before_it_and_in_the_end_lists():
    machine = watching()
    for _ in range(2):
        machine.failed(GarbledError("half a line"))
        request = machine.next_request()
        assert (request.watch, request.params["resourceVersion"]) == (True, "10")

    machine.failed(GarbledError("half a line"))

    request = machine.next_request()
    assert (request.watch, request.params["resourceVersion"]) == (False, "")


def test_garbled_lines_with_progress_between_them_do_not_add_up():
    machine = watching()
    for version in range(20, 26):
        machine.receive_line(line("ADDED", obj("a", str(version))), 0.0)
        machine.failed(GarbledError("half a line"))
        assert machine.next_request().watch


def test_unreadable_objects_of_a_list_are_named_as_existing_and_reported():
    machine = reflector()
    machine.next_request()
    bad = obj("bad") | {"spec": {"clusterIP": 3}}

    (replaced,) = machine.receive_page(page(obj("a"), bad, {"metadata": {"name": 7}}))

    good, named, nameless = replaced.objects
    assert good.metadata.name == "a"
    assert [type(other) for other in (named, nameless)] == [Unreadable, Unreadable]
    assert ((named.namespace, named.name), nameless.name) == (("shop", "bad"), "")


def test_a_deletion_of_an_object_that_cannot_be_read_is_still_a_deletion():
    machine = watching()
    bad = obj("bad") | {"spec": {"clusterIP": 3}}

    assert machine.receive_line(line("DELETED", bad), 0.0) == Removed(
        Resource.SERVICE, "shop", "bad"
    )


def test_a_deletion_of_nobody_knows_what_is_reported():
    outcome = watching().receive_line(line("DELETED", {"metadata": 3}), 0.0)

    assert isinstance(outcome, Unreadable)


def test_an_absent_optional_api_group_counts_as_empty_and_is_looked_for_rarely():
    machine = reflector(CIDRS)
    machine.next_request()

    assert machine.failed(ApiError(404)) == [Replaced(Resource.SERVICE_CIDR, ())]
    assert machine.next_request().delay_s == ABSENT_GROUP_S
    assert machine.failed(ApiError(404)) == []

    machine.next_request()
    (replaced,) = machine.receive_page(page(obj("kubernetes")))
    assert len(replaced.objects) == 1


def test_services_that_the_server_does_not_know_are_a_failure():
    machine = reflector()
    machine.next_request()

    assert machine.failed(ApiError(404)) == []
    assert machine.next_request().delay_s == 0.8
