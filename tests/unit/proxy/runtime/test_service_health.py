import json
import socket
from pathlib import Path

import pytest

from proxy.runtime.service_health import ServiceHealth

DATA = json.loads((Path(__file__).parents[3] / "data" / "healthcheck.json").read_text())
CASES = DATA["servicePorts"]
# What node-port addresses select on a machine whose only loopback address is the usual one.
LOCAL = {"127.0.0.0/8": "127.0.0.1"}


class Health:
    proxy = True

    def __init__(self):
        self.failures = []

    def __call__(self):
        return self.proxy


def keys(table):
    return {tuple(name.split("/")): value for name, value in table.items()}


def check_answer(answer, service, expected):
    status, count, healthy = expected
    namespace, name = service.split("/")
    # The exact text, since load balancers' probes match on it.
    body = (
        f'{{\n\t"service": {{\n\t\t"namespace": "{namespace}",\n\t\t"name": "{name}"\n\t}},\n'
        f'\t"localEndpoints": {count},\n'
        f'\t"serviceProxyHealthy": {"true" if healthy else "false"}\n}}'
    )
    assert (answer.status, answer.body.decode()) == (status, body)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Load-Balancing-Endpoint-Weight"] == str(count)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_health_ports_answer_as_the_table_says(case, loop, fetch, free_port):
    health = Health()
    addresses = [LOCAL[cidr] for cidr in case["nodePortAddresses"]] or None
    server = ServiceHealth(loop, case["family"], health, health.failures.append, addresses)
    # The table's port numbers may be taken on this machine.
    real_ports: dict[int, int] = {}
    port_of: dict[str, int] = {}
    for step in case["steps"]:
        health.proxy = step.get("proxyHealthy", health.proxy)
        if "services" in step:
            for number in step["services"].values():
                real_ports.setdefault(number, free_port())
            port_of = {name: real_ports[port] for name, port in step["services"].items()}
            server.sync_services(keys(port_of))
        if "endpoints" in step:
            server.sync_endpoints(keys(step["endpoints"]))
        assert server.local_endpoints() == keys(step["served"])
        if "listening" in step:
            wanted = [one.rpartition(":") for one in step["listening"]]
            assert server.listening() == [
                f"{host}:{real_ports[int(port)]}" for host, _, port in wanted
            ]
        for service, expected in step.get("answers", {}).items():
            check_answer(fetch(port_of[service]), service, expected)
    assert health.failures == []


@pytest.fixture
def server(loop):
    health = Health()
    made = ServiceHealth(loop, "IPv4", health, health.failures.append)
    made.health = health
    return made


def refused(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def test_a_removed_service_gives_its_port_back_at_once(server, free_port):
    port = free_port()
    server.sync_services({("a", "b"): port})
    assert not refused(port)
    server.sync_services({})
    assert refused(port)


def test_a_connection_kept_open_gets_no_answer_after_the_service_left(server, free_port):
    port = free_port()
    server.sync_services({("a", "b"): port})
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 503")
        server.sync_services({})
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(4096) == b""


def test_two_services_can_exchange_their_ports_in_one_sync(server, free_port, fetch):
    one, two = free_port(), free_port()
    server.sync_services({("a", "a"): one, ("b", "b"): two})
    server.sync_services({("a", "a"): two, ("b", "b"): one})
    assert json.loads(fetch(two).body)["service"]["name"] == "a"
    assert json.loads(fetch(one).body)["service"]["name"] == "b"
    assert server.health.failures == []


def test_a_taken_port_is_reported_and_tried_again_at_the_next_sync(server, free_port, fetch):
    port = free_port()
    with socket.socket() as blocker:
        blocker.bind(("0.0.0.0", port))
        blocker.listen()
        server.sync_services({("a", "b"): port})
        (failure,) = server.health.failures
        assert (failure.service, failure.port) == (("a", "b"), port)
        assert failure.error == f"cannot listen on 0.0.0.0:{port}: address already in use"
        assert server.local_endpoints() == {}
        server.retry_failed()
        assert len(server.health.failures) == 2
    server.sync_services({("a", "b"): port})
    server.sync_endpoints({("a", "b"): 1})
    assert fetch(port).status == 200
    assert len(server.health.failures) == 2


def test_one_unusable_address_closes_the_service_s_other_listeners(loop, free_port):
    health, port = Health(), free_port()
    addresses = ["127.0.0.1", "203.0.113.1"]
    server = ServiceHealth(loop, "IPv4", health, health.failures.append, addresses)
    server.sync_services({("a", "b"): port})
    assert "203.0.113.1" in health.failures[0].error
    assert refused(port)
    assert server.listening() == []


def test_no_matching_address_opens_nothing_and_is_no_failure(loop, free_port):
    health, port = Health(), free_port()
    server = ServiceHealth(loop, "IPv4", health, health.failures.append, [])
    server.sync_services({("a", "b"): port})
    assert refused(port)
    assert (server.listening(), health.failures) == ([], [])


def test_the_families_of_one_service_share_its_port_number(loop, free_port, fetch):
    health, port = Health(), free_port()
    for family, count in (("IPv4", 1), ("IPv6", 2)):
        server = ServiceHealth(loop, family, health, health.failures.append)
        server.sync_services({("a", "b"): port})
        server.sync_endpoints({("a", "b"): count})
    assert health.failures == []
    assert json.loads(fetch(port).body)["localEndpoints"] == 1
    assert json.loads(fetch(port, host="::1").body)["localEndpoints"] == 2


def test_single_services_can_be_changed_without_naming_the_others(server, free_port, fetch):
    one, two = free_port(), free_port()
    server.set_service(("a", "a"), one)
    server.set_service(("b", "b"), two)
    server.set_endpoints(("b", "b"), 3)
    server.set_endpoints(("not", "served"), 3)
    server.set_service(("b", "b"), two)
    assert fetch(two).headers["X-Load-Balancing-Endpoint-Weight"] == "3"
    server.set_service(("a", "a"), None)
    assert server.local_endpoints() == {("b", "b"): 3}
    server.close()
    assert refused(one)
    assert refused(two)


def test_a_failed_service_that_left_is_not_tried_again(server, free_port):
    port = free_port()
    with socket.socket() as blocker:
        blocker.bind(("0.0.0.0", port))
        blocker.listen()
        server.set_service(("a", "b"), port)
        server.set_service(("a", "b"), None)
        server.retry_failed()
    assert len(server.health.failures) == 1


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "DELETE"])
def test_any_method_and_path_is_answered(server, free_port, fetch, method):
    port = free_port()
    server.set_service(("a", "b"), port)
    server.set_endpoints(("a", "b"), 1)
    answer = fetch(port, "/any/path?x=1", method=method)
    assert answer.status == 200
    assert (answer.body == b"") == (method == "HEAD")
