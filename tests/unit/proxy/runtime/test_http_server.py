import contextlib
import logging
import socket
import threading
import time

import pytest

from proxy.runtime.http_message import Response
from proxy.runtime.http_server import HttpLoop
from proxy.runtime.listening import Address, BindError

LOOPBACK = Address("127.0.0.1", 0)


def echo(request):
    return Response(200, f"{request.method} {request.path} {request.peer}".encode())


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.005)


def accepts(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_wildcard_takes_both_families_and_shows_ipv4_clients_as_such(loop, fetch, host):
    port = loop.listen(Address(host, 0), echo).address.port
    assert fetch(port).body == b"GET / 127.0.0.1"
    assert fetch(port, host="::1").body == b"GET / ::1"


def test_a_connection_serves_many_requests_even_sent_at_once(loop):
    port = loop.listen(LOOPBACK, echo).address.port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.0\r\n\r\n")
        data = b""
        while piece := sock.recv(4096):
            data += piece
    assert [b"GET /%d " % number in data for number in (1, 2, 3)] == [True] * 3
    assert data.count(b"Connection: close") == 1


def test_a_request_in_pieces_is_put_together(loop):
    port = loop.listen(LOOPBACK, echo).address.port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        for piece in (b"GET /pie", b"ces HTTP/1.0\r", b"\n\r\n"):
            sock.sendall(piece)
        assert b"GET /pieces " in sock.makefile("rb").read()


def test_an_answer_larger_than_the_socket_s_buffer_arrives_whole(loop, fetch):
    body = b"x" * 20_000_000
    port = loop.listen(LOOPBACK, lambda _request: Response(200, body)).address.port
    assert fetch(port).body == body


def test_garbage_is_answered_with_400_and_the_connection_ends(loop):
    port = loop.listen(LOOPBACK, echo).address.port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"\x16\x03\x01 TLS hello\r\n\r\n")
        assert sock.makefile("rb").read().startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_fault_in_a_handler_costs_one_request_and_is_logged(loop, fetch, caplog):
    def broken(_request):
        raise KeyError("lost")

    port = loop.listen(LOOPBACK, broken).address.port
    other = loop.listen(LOOPBACK, echo).address.port
    with caplog.at_level(logging.ERROR):
        assert fetch(port).status == 500
    assert fetch(other).status == 200
    assert caplog.messages == ["HTTP handler failed"]


def test_idle_connections_do_not_keep_others_out(fetch):
    loop = HttpLoop("small", max_connections=2)
    loop.start()
    try:
        port = loop.listen(LOOPBACK, echo).address.port
        with contextlib.ExitStack() as stack:
            idle = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
                for _ in range(3)
            ]
            assert fetch(port).status == 200
            assert idle[0].recv(1) == b""
    finally:
        loop.stop()


def test_a_connection_that_stays_silent_is_closed():
    loop = HttpLoop("impatient", idle_timeout_s=0.02)
    loop.start()
    try:
        port = loop.listen(LOOPBACK, echo).address.port
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(b"GET / HT")
            assert sock.recv(1) == b""
    finally:
        loop.stop()


def test_stop_closes_listeners_and_connections_at_once(loop):
    port = loop.listen(LOOPBACK, echo).address.port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(4096)
        started = time.monotonic()
        loop.stop()
        assert time.monotonic() - started < 0.5
        assert sock.recv(1) == b""
    assert not accepts(port)
    loop.stop()


def test_a_stopped_loop_listens_no_more(loop):
    loop.stop()
    with pytest.raises(BindError, match="stopped"):
        loop.listen(LOOPBACK, echo)


def test_a_loop_that_never_ran_can_be_stopped():
    loop = HttpLoop("unused")
    port = loop.listen(LOOPBACK, echo).address.port
    loop.stop()
    assert not accepts(port)


def test_a_taken_port_is_tried_until_it_is_free(loop, fetch):
    errors = []
    with socket.socket() as blocker:
        blocker.bind(("127.0.0.1", 0))
        blocker.listen()
        port = blocker.getsockname()[1]
        loop.serve(Address("127.0.0.1", port), echo, errors.append)
        eventually(lambda: len(errors) >= 3)
    assert str(errors[0]) == f"cannot listen on 127.0.0.1:{port}: address already in use"
    eventually(lambda: accepts(port))
    assert fetch(port).status == 200


def test_a_port_left_in_time_wait_can_be_opened_again(loop, fetch):
    listener = loop.listen(LOOPBACK, echo)
    fetch(listener.address.port)
    loop.close(listener)
    again = loop.listen(listener.address, echo)
    assert again.address == listener.address
    loop.close(again)
    loop.close(again)


@pytest.mark.parametrize("port", [-1, 65536, 10**12])
def test_a_port_that_cannot_exist_is_a_bind_error(loop, port):
    with pytest.raises(BindError, match=f"127.0.0.1:{port}: no such port"):
        loop.listen(Address("127.0.0.1", port), echo)
