"""Tests of kpctl.lab.traffic on loopback, where the caller's own namespace is the sender's."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager

import pytest

from kpctl.lab import echo
from kpctl.lab.probes import Observation, Outcome, Probe
from kpctl.lab.traffic import attempt, healthy


class Here:
    """A namespace that is the caller's own."""

    @staticmethod
    def socket(family=socket.AF_INET, kind=socket.SOCK_STREAM):
        return socket.socket(family, kind)


@contextmanager
def answering(answer):
    """A TCP server that sends *answer* to its only client and closes; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve():
            with server.accept()[0] as peer:
                peer.settimeout(10)
                peer.recv(1000)
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def send(port, patience_s=5, **changes):
    probe = Probe("shop/web", "127.0.0.1", port, "toolbox", **changes)
    return asyncio.run(attempt(probe, Here(), patience_s))


def test_an_answer_tells_who_answered_and_both_sources():
    with answering(b'{"pod": "web-1", "source": "10.0.0.1"}\n') as port:
        seen = send(port)
    assert seen == Observation(Outcome.LANDED, "web-1", "127.0.0.1", "10.0.0.1")


def test_a_chosen_source_address_is_used():
    with answering(b'{"pod": "web-1", "source": "x"}\n') as port:
        assert send(port, bind="127.0.0.7").sent_from == "127.0.0.7"


@pytest.mark.parametrize("answer", [b"", b"hello\n", b"{}\n", b"{"])
def test_an_answer_that_is_no_pods_is_a_failure(answer):
    with answering(answer) as port:
        seen = send(port)
    assert seen.outcome is Outcome.FAILED
    assert "not one of the lab's pods" in seen.detail


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_without_a_listener_is_refused(protocol):
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[protocol]
    with socket.socket(socket.AF_INET, kind) as reserved:
        # Bound but not listening, or connected to elsewhere: nobody else can answer there.
        reserved.bind(("127.0.0.1", 0))
        if protocol == "udp":
            reserved.connect(("127.0.0.1", 9))
        assert send(reserved.getsockname()[1], protocol=protocol).outcome is Outcome.REFUSED


def test_silence_is_a_drop():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        seen = send(silent.getsockname()[1], 0.05, protocol="udp")
    assert seen == Observation(Outcome.DROPPED)


def test_any_other_error_is_a_failure_with_the_kernels_words():
    seen = send(80, bind="203.0.113.7")
    assert seen.outcome is Outcome.FAILED
    assert seen.detail == "Cannot assign requested address"


def test_udp_asks_and_understands_dns():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)

        def serve():
            query, peer = server.recvfrom(1000)
            text = json.dumps({"pod": "dns-1", "source": peer[0]}).encode()
            server.sendto(echo.dns_answer(query, text), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        seen = send(server.getsockname()[1], protocol="udp")
        thread.join()
    assert seen == Observation(Outcome.LANDED, "dns-1", "127.0.0.1", "127.0.0.1")


@pytest.mark.parametrize(("status", "expected"), [(b"200 OK", True), (b"503 No", False)])
def test_healthz_is_judged_by_its_status(status, expected):
    with answering(b"HTTP/1.0 " + status + b"\r\n\r\n") as port:
        assert asyncio.run(healthy(Here(), port)) is expected


def test_healthz_of_nobody_is_not_healthy():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        assert asyncio.run(healthy(Here(), reserved.getsockname()[1])) is False
