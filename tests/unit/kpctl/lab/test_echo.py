"""Tests of kpctl.lab.echo: the answers as bytes, and the program on loopback."""

import json
import socket
import sys
import time
from contextlib import ExitStack

import pytest

from kpctl.lab import echo
from proxy.kernel.command import DEVNULL, spawn


def test_an_ipv4_peer_is_shown_as_ipv4():
    assert json.loads(echo.reply("a", "::ffff:10.0.0.1")) == {"pod": "a", "source": "10.0.0.1"}


def test_a_dns_query_is_answered_by_a_text_record():
    query = echo.dns_query("whoami.lab", 0xBEEF)
    answer = echo.dns_answer(query, b"text")
    assert answer is not None
    assert answer[:4] == b"\xbe\xef\x81\x80"  # response, recursion desired and available
    assert answer[4:12] == b"\0\1\0\1\0\0\0\0"  # one question, one answer
    assert answer[12 : len(query)] == query[12:]
    assert answer[len(query) :] == b"\xc0\x0c\0\x10\0\1\0\0\0\0\0\5\4text"
    assert echo.dns_text(answer, query) == b"text"


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"hello\n",
        b"\0" * 12,
        echo.dns_query("a.b", 1)[:-1],
        b"\0\1\x80" + echo.dns_query("a.b", 1)[3:],
    ],
    ids=["empty", "text", "no question", "cut", "a response"],
)
def test_what_is_no_dns_query_gets_no_dns_answer(datagram):
    assert echo.dns_answer(datagram, b"text") is None


def test_a_response_to_another_query_is_not_taken():
    answer = echo.dns_answer(echo.dns_query("a.b", 1), b"text")
    assert echo.dns_text(answer, echo.dns_query("a.b", 2)) is None


def test_a_response_without_a_record_holds_no_text():
    query = echo.dns_query("a.b", 1)
    assert echo.dns_text(query, query) is None


@pytest.fixture(scope="module")
def port():
    """The port, TCP and UDP, of a running pod named web-9."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    argv = [sys.executable, "-I", "-S", echo.__file__, "--pod", "web-9"]
    process = spawn([*argv, f"tcp:{number}", f"udp:{number}"], stderr=DEVNULL)
    with process:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", number), 1).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None
                assert time.monotonic() < deadline
        yield number
        process.kill()


ANSWER = {"pod": "web-9", "source": "127.0.0.1"}


def test_each_line_on_a_connection_is_answered(port):
    with socket.create_connection(("127.0.0.1", port), 5) as peer, peer.makefile("rwb") as lines:
        for _ in range(3):
            lines.write(b"whoami\n")
            lines.flush()
            assert json.loads(lines.readline()) == ANSWER


def test_several_connections_are_open_at_once(port):
    with ExitStack() as stack:
        peers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5)) for _ in range(5)
        ]
        for peer in reversed(peers):
            peer.sendall(b"whoami\n")
            assert json.loads(peer.recv(1000)) == ANSWER


def test_an_http_client_gets_a_response(port):
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
        with peer.makefile("rb") as lines:
            head, _, body = lines.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == ANSWER


def test_a_reset_connection_does_not_stop_the_pod(port):
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.sendall(b"whoami")
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(b"whoami\n")
        assert json.loads(peer.recv(1000)) == ANSWER


def test_datagrams_are_answered_as_dns_or_as_text(port):
    query = echo.dns_query("whoami.lab", 7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(5)
        peer.connect(("127.0.0.1", port))
        peer.send(query)
        assert json.loads(echo.dns_text(peer.recv(1000), query)) == ANSWER
        peer.send(b"whoami\n")
        assert json.loads(peer.recv(1000)) == ANSWER


def test_ipv6_peers_are_served_too(port):
    with socket.create_connection(("::1", port), 5) as peer:
        peer.sendall(b"whoami\n")
        assert json.loads(peer.recv(1000)) == {"pod": "web-9", "source": "::1"}
