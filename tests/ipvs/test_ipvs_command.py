"""``kpctl ipvs`` on a running kernel, against what ipvsadm says of the same one."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from diagnostics.ipvs_view.live import live_table
from diagnostics.readers.ipvs import Counters, VirtualServerEntry
from diagnostics.readers.ipvs_connections import read_ipvs_connections
from diagnostics.readers.ipvs_list import read_ipvsadm_list
from kpctl.commands.ipvs import ipvs
from kpctl.lab.netns import Namespace
from proxy.kernel.ipvs import NetlinkIpvs
from proxy.netfilter.ipvs import (
    FLAG_PERSISTENT,
    Action,
    Operation,
    RealKey,
    ServerKey,
    VirtualServer,
)
from tests.support.ipvs_rig import packed
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kernel]

TCP, UDP = 6, 17
WEB = VirtualServer(ServerKey(packed("10.30.0.1"), 80, TCP), "rr")
DNS = VirtualServer(ServerKey(packed("fd00::30"), 53, UDP), "sh", FLAG_PERSISTENT, 600)
POD = RealKey(packed("10.30.0.2"), 8080)
POD6 = RealKey(packed("fd00::31"), 5353)


@pytest.fixture
def servers(namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with two virtual servers, addresses for them, and a listener behind one."""
    namespace.run(["ip", "link", "set", "lo", "up"])
    for address in ("10.30.0.1/32", "10.30.0.2/32"):
        namespace.run(["ip", "addr", "add", address, "dev", "lo"])
    port = NetlinkIpvs()
    operations = [
        Operation(Action.NEW_SERVER, WEB),
        Operation(Action.NEW_REAL, WEB, POD, 3),
        Operation(Action.NEW_SERVER, DNS),
        Operation(Action.NEW_REAL, DNS, POD6, 0),
    ]
    with closing(port):
        assert not any(port.apply(operations))
        yield namespace


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(ipvs)
    result = CliRunner().invoke(app, [*arguments, "-o", "json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def connect() -> None:
    """Open one connection to the virtual server, send four bytes and get them back."""
    with socket.create_server(("10.30.0.2", 8080)) as listener:
        listener.settimeout(10)
        with socket.create_connection(("10.30.0.1", 80), timeout=10) as client:
            accepted, _ = listener.accept()
            with accepted:
                client.sendall(b"ping")
                accepted.sendall(accepted.recv(4))
                assert client.recv(4) == b"ping"


def web() -> VirtualServerEntry:
    """Return the virtual server with its totals."""
    (entry,) = live_table("stats", lambda server, _mark: server.key == WEB.key).servers
    return entry


def test_all_that_ipvsadm_lists_is_shown(servers: Namespace) -> None:
    listed = read_ipvsadm_list(servers.run(["ipvsadm", "-Ln"]).stdout)
    found = live_table()
    by_key = {entry.server.key: entry for entry in found.servers}
    assert len(by_key) == len(listed.servers) == 2
    for entry in listed.servers:
        assert by_key[entry.server.key].server == entry.server
        assert by_key[entry.server.key].reals == entry.reals


def test_a_virtual_server_by_firewall_mark_is_shown_with_its_real_servers(
    servers: Namespace,
) -> None:
    servers.run(["ipvsadm", "-A", "-f", "7", "-s", "wrr"])
    servers.run(["ipvsadm", "-a", "-f", "7", "-r", "10.30.0.2:0", "-m", "-w", "4"])
    (marked,) = [one for one in run()["virtualServers"] if one["firewallMark"]]
    assert (marked["firewallMark"], marked["scheduler"], marked["address"]) == (7, "wrr", None)
    assert [(one["address"], one["weight"]) for one in marked["realServers"]] == [("10.30.0.2", 4)]


def test_counters_are_those_that_ipvsadm_shows(servers: Namespace) -> None:
    connect()
    # The kernel adds its processors' counters up every two seconds.
    eventually(lambda: web().counters != Counters(0, 0, 0, 0, 0))
    listed = read_ipvsadm_list(servers.run(["ipvsadm", "-Ln", "--stats", "--exact"]).stdout)
    entry = web()
    (expected,) = [one for one in listed.servers if one.server.key == WEB.key]
    assert entry.counters == expected.counters
    assert entry.counters is not None
    assert entry.counters.connections == 1
    assert entry.reals[0].counters == expected.reals[0].counters
    assert run("--rate")["statistics"] == "rate"


def test_connections_are_those_that_ipvsadm_shows(servers: Namespace) -> None:
    connect()
    listed = read_ipvs_connections(servers.run(["ipvsadm", "-Lnc"]).stdout)
    (one,) = run("-c", "10.30.0.1:80")["connections"]
    (expected,) = listed.connections
    assert not listed.problems
    assert (one["real"]["address"], one["real"]["port"]) == ("10.30.0.2", 8080)
    assert one["state"] == expected.state
    assert (one["protocol"], one["client"]["port"]) == ("TCP", expected.client.port)
