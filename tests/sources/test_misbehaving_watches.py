"""The API source against a server whose watches are cut, garbled or too old."""

import threading

import pytest

from proxy.model.events import Resource, Unreadable, Upserted
from proxy.sources.credentials import ApiLocation
from tests.support import stub_objects
from tests.support.apiserver import Cut
from tests.support.faults import added, body, put_service, status, stream
from tests.support.following import Following
from tests.support.waiting import eventually

SERVICE, SLICE = Resource.SERVICE, Resource.ENDPOINT_SLICE


def test_changes_arrive_in_order(api, follow):
    follow.wait_watching(api, "services")
    put_service(api, "a")
    put_service(api, "b")
    api.store.delete("services", "default", "a")

    follow.wait_names(SERVICE, {"web", "b"})


def test_an_object_that_leaves_the_selection_is_removed(api, follow):
    follow.wait_watching(api, "services")
    put_service(api, "web", clusterIP="None")
    follow.wait_names(SERVICE, set())

    put_service(api, "web")
    follow.wait_names(SERVICE, {"web"})

    other = stub_objects.service("web")
    other["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = "other"
    api.store.put("services", other)
    follow.wait_names(SERVICE, set())


def test_a_single_event_is_delivered_without_waiting_for_more_bytes(api, follow):
    follow.wait_watching(api, "services")
    for index in range(20):
        put_service(api, "tiny", clusterIP=f"10.96.1.{index}")
        seen = index + 1
        follow.wait_until(
            lambda seen=seen: sum(isinstance(e, Upserted) for e in follow.events) == seen,
            "the event is stuck in a buffer",
        )


def test_events_are_found_however_they_are_cut_into_chunks(api):
    a, b, c = (added(put_service(api, name)) for name in "abc")
    api.store.delete("services", "default", "c")

    def pieces(handler, asked):
        handler.start_stream()
        for piece in (a[:7], a[7:] + b + c[:40], b"", c[40:-1], b"\n"):
            if piece:
                handler.send_chunk(piece)
        return threading.Event().wait(0.2) or False

    api.script("services", "watch", pieces)
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_until(
            lambda: (
                [e.obj.metadata.name for e in follow.events if isinstance(e, Upserted)][:3]
                == ["a", "b", "c"]
            ),
            "events are missing",
        )


def test_a_stream_without_chunks_is_read_line_by_line_too(api):
    line = added(put_service(api, "plain"))
    go_on = threading.Event()

    def unchunked(handler, asked):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + line)
        go_on.wait(10)
        raise Cut

    api.script("services", "watch", unchunked)
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_until(
            lambda: any(isinstance(e, Upserted) for e in follow.events), "the line is stuck"
        )
        go_on.set()


def test_nothing_is_lost_when_streams_are_cut(api, follow):
    follow.wait_watching(api, "services")
    for index in range(10):
        put_service(api, f"s{index}")
        api.cut_connections()
        put_service(api, f"t{index}")

    names = {f"{letter}{index}" for letter in "st" for index in range(10)}
    follow.wait_names(SERVICE, names | {"web"})
    assert len(follow.lists(SERVICE)) == 1


def test_a_watch_goes_on_from_the_last_bookmark(api, follow):
    follow.wait_watching(api, "services")
    for index in range(5):
        api.store.put("nodes", stub_objects.node(f"other-{index}"))
    version = api.store.version
    api.bookmark("services")
    put_service(api, "sentinel")
    follow.wait_names(SERVICE, {"web", "sentinel"})
    last = api.store.version
    api.bookmark("services")
    api.cut_connections()
    eventually(lambda: len(api.requests("services", "watch")) >= 2)

    assert last > version
    assert api.requests("services", "watch")[1].params["resourceVersion"] == str(last)


def test_a_watch_that_reached_its_timeout_is_followed_by_the_next(api, monkeypatch):
    monkeypatch.setattr("proxy.sources.reflector.WATCH_SHORTEST_S", 0.6)
    with Following(ApiLocation(master=api.url)) as follow:
        eventually(lambda: len(api.requests("services", "watch")) >= 2)
        put_service(api, "late")
        follow.wait_names(SERVICE, {"web", "late"})
        assert follow.problems == []


def test_an_expired_watch_is_replaced_by_a_new_list(api, follow):
    follow.wait_watching(api, "services")
    api.stop()
    put_service(api, "new")
    api.store.delete("services", "default", "web")
    api.store.compact()
    api.start()

    follow.wait_synced(SERVICE, times=2)
    assert follow.names(SERVICE) == {"new"}


def test_a_410_by_http_status_is_an_expiry_too(api):
    api.script("services", "watch", status(410, "too old resource version"))
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_synced(SERVICE, times=2)
        follow.wait_watching(api, "services")
        assert follow.problems == []


@pytest.mark.parametrize(
    "chunk",
    [b'{"type":"ADDED","object":{"metadata":\n', b"\x00\xff\x01\n", b"<html>\n", b"[]\n"],
)
def test_a_garbled_line_is_reported_and_nothing_is_lost(api, chunk):
    api.script("services", "watch", stream(chunk))
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_problem("cannot read the watch of services")
        put_service(api, "after")
        follow.wait_names(SERVICE, {"web", "after"})
        assert len(follow.lists(SERVICE)) == 1


def test_a_server_that_keeps_garbling_is_asked_for_a_list(api):
    api.script("services", "watch", stream(b"garbage\n"), times=3)
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_synced(SERVICE, times=2)
        follow.wait_watching(api, "services")
    assert len([p for p in follow.problems if not p.resolved]) == 1


def test_half_a_line_at_the_end_of_a_stream_is_delivered_by_the_next(api):
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_watching(api, "services")
        stored = put_service(api, "half")
        api.store.delete("services", "default", "half")
        version = int(stored.version) - 1
        line = added(stored)
    api.script("services", "list", body(
        b'{"metadata":{"resourceVersion":"%d"},"items":[]}' % version
    ))  # fmt: skip
    api.script("services", "watch", stream(line[: len(line) // 2], end=False))
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_until(
            lambda: (
                [e.obj.metadata.name for e in follow.events if isinstance(e, Upserted)] == ["half"]
            ),
            "the change was lost",
        )


def test_a_bad_object_in_a_watch_is_reported_and_the_stream_goes_on(api, follow):
    follow.wait_watching(api, "services")
    put_service(api, "bad", clusterIP=7)
    put_service(api, "good")

    follow.wait_names(SERVICE, {"web", "good"})
    assert [e.problem for e in follow.events if isinstance(e, Unreadable)] == [
        "spec.clusterIP: Expected str, got int"
    ]
    assert len(api.requests("services", "watch")) == 1
