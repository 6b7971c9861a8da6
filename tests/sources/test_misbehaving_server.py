"""The API source against a server that does everything a server can do to a client."""

import threading
import time

import pytest

from proxy.model.events import Replaced, Resource, Unreadable, Upserted
from proxy.sources.credentials import ApiLocation
from tests.support import stub_objects
from tests.support.apiserver import ApiServer, Cut
from tests.support.following import Following
from tests.support.waiting import eventually

SERVICE, SLICE = Resource.SERVICE, Resource.ENDPOINT_SLICE


def status(code, message="", **headers):
    def fault(handler, asked):
        handler.send_status(code, message, {k.replace("_", "-"): v for k, v in headers.items()})
        return True

    return fault


def body(data):
    def fault(handler, asked):
        handler.send(200, data)
        return True

    return fault


def stream(*chunks, end=True):
    def fault(handler, asked):
        handler.start_stream()
        for chunk in chunks:
            handler.send_chunk(chunk)
        if not end:
            raise Cut
        handler.end_stream()
        return True

    return fault


def put_service(api, name, **spec):
    obj = stub_objects.service(name)
    obj["spec"] |= spec
    return api.store.put("services", obj)


def added(stored):
    return b'{"type":"ADDED","object":' + stored.raw + b"}\n"


# Lists


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
        follow.wait_until(lambda: any(isinstance(e, Unreadable) for e in follow.events), "report")
    assert [obj.metadata.name for obj in replaced.objects] == ["web"]
    assert replaced.unreadable == {("default", "bad")}
    (unreadable,) = [e for e in follow.events if isinstance(e, Unreadable)]
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


# Watches


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


# Server and rights


def test_a_server_that_is_down_at_start_is_told_once_and_then_followed(api):
    api.stop()
    with Following(ApiLocation(master=api.url)) as follow:
        problem = follow.wait_problem("no connection to the API server")
        assert api.url in problem.text
        assert "Connection refused" in problem.text
        assert "Check that" in problem.text
        api.start()
        follow.wait_all_synced()
        follow.wait_problem("answers again", resolved=True)
    assert [p.resolved for p in follow.problems] == [False, True]


def test_a_restarted_server_is_followed_again_without_a_new_list(api, follow):
    follow.wait_all_synced()
    follow.wait_watching(api, "services")
    api.stop()
    put_service(api, "meanwhile")
    follow.wait_problem("no connection to the API server")
    api.start()

    follow.wait_names(SERVICE, {"web", "meanwhile"})
    assert len(follow.lists(SERVICE)) == 1


def test_missing_rights_name_what_to_grant_and_spare_the_other_resources(api):
    api.script("endpointslices", "list", status(403, 'User "kp" cannot list'), times=3)
    with Following(ApiLocation(master=api.url)) as follow:
        problem = follow.wait_problem("not allowed to list endpointslices")
        assert "grant the verbs list and watch on resource endpointslices" in problem.text
        assert '"discovery.k8s.io"' in problem.text
        follow.wait_synced(SERVICE)
        follow.wait_synced(SLICE)
        follow.wait_problem("endpointslices are followed again", resolved=True)


def test_a_missing_right_to_watch_is_told_apart_and_the_list_is_not_repeated(api):
    api.script("services", "watch", status(403, "no"), times=3)
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_problem("not allowed to watch services")
        follow.wait_watching(api, "services")
    assert len(follow.lists(SERVICE)) == 1


def test_a_server_of_something_else_is_told(api):
    api.absent.update(("services", "endpointslices", "nodes"))
    with Following(ApiLocation(master=api.url)) as follow:
        problem = follow.wait_problem("knows no resource services")
        assert "check that the address" in problem.text


def test_a_server_that_cuts_every_watch_at_once_is_told(api):
    api.script("services", "watch", stream(end=False), times=4)
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_problem("no connection to the API server")
        follow.wait_watching(api, "services")


def test_a_mistake_in_the_program_is_told_and_does_not_freeze_the_resource(api, monkeypatch):
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_watching(api, "services")
        with monkeypatch.context() as patch:
            patch.setattr("proxy.sources.reflector.Upserted", None)
            put_service(api, "lost")
            problem = follow.wait_problem("a mistake in kpctl")
        assert "TypeError" in problem.text
        follow.wait_names(SERVICE, {"web", "lost"})


def test_something_that_does_not_speak_http_is_told():
    with ApiServer() as api:

        def babble(handler, asked):
            handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            raise Cut

        for plural in ("services", "endpointslices", "nodes", "servicecidrs"):
            api.script(plural, "list", babble, times=1000)
        with Following(ApiLocation(master=api.url)) as follow:
            follow.wait_problem("no connection to the API server")


# Requests and the end


def test_requests_say_who_we_are_and_want_plain_json(api, follow):
    follow.wait_all_synced()
    follow.wait_watching(api, "services")

    for asked in [*api.requests("services", "list"), *api.requests("services", "watch")]:
        assert asked.headers["user-agent"] == "kpctl/test"
        assert asked.headers["accept"] == "application/json"
        assert asked.headers["accept-encoding"] == "identity"


def test_every_request_is_counted_with_its_host_code_and_duration(api):
    api.script("services", "list", status(500))
    with Following(ApiLocation(master=api.url)) as follow:
        follow.wait_synced(SERVICE)
        api.stop()
        eventually(lambda: any(code == "<error>" for _, _, code, _ in follow.requests))
    codes = {code for _, _, code, _ in follow.requests}
    assert {"200", "500", "<error>"} <= codes
    assert {(method, host) for method, host, _, _ in follow.requests} == {
        ("GET", f"127.0.0.1:{api.port}")
    }
    assert all(0 <= seconds < 10 for *_, seconds in follow.requests)


def test_after_stop_nothing_arrives_and_no_thread_is_left(api, follow):
    follow.wait_all_synced()
    follow.wait_watching(api, "services")
    started = time.monotonic()
    follow.source.stop()
    assert time.monotonic() - started < 1.5
    delivered = len(follow.events)
    put_service(api, "late")

    assert len(follow.events) == delivered
    assert [t.name for t in threading.enumerate() if t.name.startswith("watch-")] == []


def test_lists_of_ten_thousand_are_complete(api):
    for index in range(10_000):
        put_service(api, f"s{index}")
    with Following(ApiLocation(master=api.url)) as follow:
        replaced = follow.wait_synced(SERVICE)
    assert isinstance(replaced, Replaced)
    assert len(replaced.objects) == 10_001
