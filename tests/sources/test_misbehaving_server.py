"""The API source against a server that is down, refuses us, or is none."""

import threading
import time

from proxy.model.events import Replaced, Resource
from proxy.sources.credentials import ApiLocation
from tests.support.apiserver import ApiServer, Cut
from tests.support.faults import put_service, status, stream
from tests.support.following import Following
from tests.support.waiting import eventually

SERVICE, SLICE = Resource.SERVICE, Resource.ENDPOINT_SLICE


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
