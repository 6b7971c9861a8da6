"""Requests and streams of the HTTP client."""

import threading
import time

import pytest

from proxy.sources import client as client_module
from proxy.sources.client import Client
from proxy.sources.credentials import ApiLocation, Credentials
from proxy.sources.failures import ApiError, ConnectionFailedError, GarbledError
from tests.support.apiserver import Cut

PATH = "/api/v1/services"


@pytest.fixture
def client(api):
    return Client(Credentials(ApiLocation(master=api.url)), "kpctl/test")


def test_an_answer_is_read_whole_and_its_connection_used_again(api, client):
    for _ in range(3):
        with client.get(PATH, {"limit": "500"}) as response:
            assert response.body().startswith(b'{"kind":"ServiceList"')

    assert len(api.connections) == 1


def test_a_connection_whose_answer_was_not_read_is_not_used_again(api, client):
    for _ in range(2):
        with client.get(PATH, {}):
            pass
    with client.get(PATH, {}) as response:
        assert response.body().endswith(b"]}\n")

    assert len(api.connections) == 3


def test_an_error_carries_the_servers_words_and_wait(api, client):
    def fault(handler, asked):
        handler.send_status(429, "slow down", {"Retry-After": "7"})
        return True

    api.script("services", "list", fault)
    with pytest.raises(ApiError) as caught, client.get(PATH, {}):
        pass

    error = caught.value
    assert (error.status, error.message, error.retry_after_s) == (429, "slow down", 7.0)


def test_a_silent_server_is_given_up_after_the_read_timeout(api, client):
    go_on = threading.Event()
    api.script("services", "list", lambda handler, asked: go_on.wait(10) or True)

    with (
        pytest.raises(ConnectionFailedError, match="timed out"),
        client.get(PATH, {}, read_timeout_s=0.05),
    ):
        pass
    go_on.set()


def test_a_stream_that_falls_silent_is_given_up_after_the_read_timeout(api, client):
    params = {"watch": "1", "resourceVersion": str(api.store.version)}

    with (
        pytest.raises(ConnectionFailedError, match="timed out"),
        client.get(PATH, params, read_timeout_s=0.05) as response,
    ):
        list(response.lines())


def test_a_line_without_end_is_garbled(api, client, monkeypatch):
    monkeypatch.setattr(client_module, "LONGEST_LINE_BYTES", 1000)

    def endless(handler, asked):
        handler.start_stream()
        for _ in range(20):
            handler.send_chunk(b"x" * 100)
        handler.end_stream()
        return True

    api.script("services", "watch", endless)
    with (
        pytest.raises(GarbledError, match="1000 bytes"),
        client.get(PATH, {"watch": "1"}) as response,
    ):
        list(response.lines())


def test_half_a_line_at_an_orderly_end_is_an_interruption(api, client):
    def half(handler, asked):
        handler.start_stream()
        handler.send_chunk(b'{"type":"ADDED"}\n{"type":')
        handler.end_stream()
        return True

    api.script("services", "watch", half)
    with client.get(PATH, {"watch": "1"}) as response:
        lines = response.lines()
        assert next(lines)[0] == b'{"type":"ADDED"}'
        with pytest.raises(ConnectionFailedError, match="middle of a line"):
            next(lines)


def test_a_line_carries_the_time_its_last_byte_arrived(api, client):
    with client.get(PATH, {"watch": "1", "resourceVersion": str(api.store.version)}) as response:
        lines = response.lines()
        before = time.monotonic()
        threading.Timer(0.01, api.bookmark, ["services"]).start()
        _, received = next(lines)

    assert before <= received <= time.monotonic()


def test_a_read_is_ended_from_another_thread(api, client):
    params = {"watch": "1", "resourceVersion": str(api.store.version)}
    with client.get(PATH, params) as response:
        threading.Timer(0.02, response.abort).start()
        with pytest.raises(ConnectionFailedError):
            list(response.lines())
        response.abort()


def test_posting_tells_what_the_server_says(api, client):
    client.post("/api/v1/namespaces/default/services", {"metadata": {"name": "posted"}})
    assert api.store.get("services", "default", "posted") is not None

    def refuse(handler, asked):
        handler.send_status(403, 'User "kp" cannot create')
        return True

    def fault(handler, asked):
        raise Cut

    api.script("services", "create", refuse)
    api.script("services", "create", fault)
    with pytest.raises(ApiError) as caught:
        client.post("/api/v1/namespaces/default/services", {"metadata": {"name": "lost"}})
    assert (caught.value.status, caught.value.message) == (403, 'User "kp" cannot create')
    with pytest.raises(ConnectionFailedError):
        client.post("/api/v1/namespaces/default/services", {"metadata": {"name": "lost"}})
