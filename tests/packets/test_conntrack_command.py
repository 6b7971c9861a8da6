"""``kpctl conntrack`` on a kernel's own table: real flows, real deletions, in a namespace."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from kpctl.lab.netns import Namespace
from proxy.conntrack.messages import CT_GET, CT_NEW, EntryReader, dump_request
from proxy.conntrack.stale import Search, place
from proxy.kernel.conntrack import load_conntrack, open_netfilter
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import NFGENMSG, NLM_F_CREATE
from tests.support import conntrack_dump as dump
from tests.support.conntrack_entries import Ends, encode_entry

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

KPCTL = (sys.executable, "-c", "from kpctl.commands.conntrack import app; app()")
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
ROOT = Path(__file__).parents[2]
GONE, SERVING = "10.244.0.77", "10.244.0.2"
CLIENT = "10.244.0.9"
_serial = count(1)


@dataclass
class Node:
    """A namespace that is the node n1, with the objects of the recorded one."""

    namespace: Namespace
    manifests: Path

    def __post_init__(self) -> None:
        self.namespace.create()
        # IPv6's own packets on the link would be counted.
        self.namespace.set_sysctls({"net.ipv6.conf.default.disable_ipv6": "1"})
        self.namespace.ip(
            [
                "link add pods type veth peer name far",
                "link set pods up",
                "link set far up",
                f"addr add {dump.NODE_ADDRESS}/24 dev pods",
                "neigh add 192.168.0.1 lladdr 02:00:00:00:00:01 dev pods",
                "route add default via 192.168.0.1",
            ]
        )
        with self.namespace.enter():
            load_conntrack()

    def add(self, protocol: str, original: Ends, reply: Ends) -> None:
        with self.namespace.enter(), open_netfilter() as netlink:
            entry = encode_entry(protocol, original, reply)
            assert netlink.request_many(CT_NEW, NLM_F_CREATE, [entry]) == [None]

    def udp(self, port: int, called: str, endpoint: str) -> None:
        self.add("UDP", (CLIENT, port, called, 53), (endpoint, 5353, CLIENT, port))

    def kpctl(self, *arguments: str, stdin: int | None = None, before: tuple[str, ...] = ()) -> Any:
        environment = {"KPCTL_MANIFESTS": str(self.manifests), "HOME": "/nonexistent"}
        with self.namespace.enter():
            done = subprocess.run(
                [*before, *KPCTL, *arguments],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=stdin or subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def targets(self) -> set[bytes]:
        """Return the reply sources of all UDP entries."""
        reader = EntryReader(IPFamily.IPV4)
        with self.namespace.enter(), open_netfilter() as netlink:
            messages = netlink.dump(CT_GET, dump_request(IPFamily.IPV4, Search()))
            found = [reader.ends(memoryview(bytes(one.payload))) for one in messages]
        return {ends[1] for ends in found if ends is not None}

    def entries(self) -> int:
        with self.namespace.enter(), open_netfilter() as netlink:
            return sum(1 for _ in netlink.dump(CT_GET, NFGENMSG.pack(0, 0, 0)))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    namespace = Namespace(f"kpctl-t{os.getpid()}-ct{next(_serial)}")
    try:
        yield Node(namespace, dump.write_objects(tmp_path / "objects"))
    finally:
        namespace.delete()


@pytest.fixture
def filled(node: Node) -> Node:
    """Two good flows, four stale ones, and some that are nobody's."""
    node.udp(4001, dump.DNS, SERVING)
    node.udp(4002, dump.DNS, GONE)
    node.add("UDP", (CLIENT, 4003, dump.DNS, 53), (dump.DNS, 53, CLIENT, 4003))
    node.udp(4006, "10.96.7.7", GONE)
    node.add("UDP", (CLIENT, 4007, "8.8.8.8", 53), ("8.8.8.8", 53, CLIENT, 4007))
    node.add("UDP", ("fd00::2", 1, "fd00::a", 53), ("fd00::b", 53, "fd00::2", 1))
    node.add("TCP", (CLIENT, 5000, dump.WEB, 80), ("10.244.0.4", 8080, CLIENT, 5000))
    node.add("TCP", (CLIENT, 5001, dump.WEB, 80), ("10.244.0.44", 8080, CLIENT, 5001))
    return node


def read(done: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_an_audit_lists_what_is_stale_and_changes_nothing(filled: Node) -> None:
    done = filled.kpctl("audit", "--node", "n1", "-o", "json")
    assert done.returncode == 1
    found = {
        (item["entry"]["original"]["sourcePort"], item["reason"]) for item in read(done)["items"]
    }
    assert found == {
        (4002, "NotServing"),
        (4003, "NotTranslated"),
        (4006, "NoSuchService"),
        (5001, "NotServing"),
    }
    assert filled.entries() == 8


def test_deleting_takes_exactly_the_stale_udp_entries(filled: Node) -> None:
    done = filled.kpctl("audit", "--node", "n1", "--delete", "--yes")
    assert done.returncode == 0, done.stderr
    assert "deleted 3 entries" in done.stderr
    assert filled.targets() == {place(SERVING, 5353), place("8.8.8.8", 53)}
    assert filled.entries() == 5
    again = filled.kpctl("audit", "--node", "n1", "--protocol", "udp")
    assert (again.returncode, again.stdout) == (0, "")


def test_tcp_goes_only_when_it_is_named(filled: Node) -> None:
    done = filled.kpctl("audit", "--node", "n1", "--delete", "--yes", "--protocol", "all")
    assert "deleted 4 entries" in done.stderr
    assert filled.entries() == 4


def test_only_what_is_listed_is_deleted(filled: Node) -> None:
    done = filled.kpctl("audit", "--node", "n1", "--delete", "--yes", "--limit", "1")
    assert done.returncode == 1  # there are more
    assert filled.entries() == 7


@pytest.mark.parametrize(("answer", "left"), [("n\n", 8), ("y\n", 5), ("\n", 8)])
def test_nothing_is_deleted_without_agreement(filled: Node, answer: str, left: int) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        done = filled.kpctl("audit", "--node", "n1", "--delete", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Delete these 3 entries" in done.stderr
    assert filled.entries() == left


# -- flows that the kernel itself translated -------------------------------------------------------


NAT = f"""
table ip nat_of_test {{
    chain output {{
        type nat hook output priority -100;
        ip daddr {dump.DNS} udp dport 53 dnat to {GONE}:5353
    }}
}}
"""


@contextlib.contextmanager
def sending(node: Node) -> Iterator[int]:
    """Send datagrams to the DNS Service for as long as the block runs; yield the client's port."""
    with node.namespace.socket(kind=socket.SOCK_DGRAM) as client:
        client.connect((dump.DNS, 53))
        client.send(b"x" * 100)
        stop = threading.Event()

        def send() -> None:
            while not stop.wait(0.01):
                with contextlib.suppress(OSError):
                    client.send(b"x" * 100)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield client.getsockname()[1]
        finally:
            stop.set()
            sender.join()


@pytest.fixture
def translating(node: Node) -> Node:
    node.namespace.run(["nft", "-f", "-"], stdin=NAT)
    node.namespace.set_sysctls({"net.netfilter.nf_conntrack_acct": "1"})
    return node


def test_a_real_flow_to_a_gone_endpoint_is_measured(translating: Node) -> None:
    with sending(translating) as port:
        done = translating.kpctl("audit", "--node", "n1", "--interval", "300ms", "-o", "json")
    (item,) = read(done)["items"]
    assert item["entry"]["original"]["sourcePort"] == port
    assert item["entry"]["reply"]["source"] == GONE
    assert item["service"] == "shop/dns:p"
    assert item["rateMeasured"]
    assert item["bytesPerSecond"] > 128  # one datagram with its headers


def test_a_real_flow_is_explained_with_the_rule_that_made_it(translating: Node) -> None:
    with sending(translating) as port:
        ends = ("--dst", dump.DNS, "--sport", str(port), "--dport", "53", "--protocol", "udp")
        told = translating.kpctl(
            "explain", "--src", dump.NODE_ADDRESS, *ends, "--node", "n1", "-o", "json"
        )
    value = read(told)
    assert told.returncode == 1
    assert (value["verdict"], value["reason"]) == ("stale", "NotServing")
    assert value["rewritten"][0] == f"destination {dump.DNS}:53 became {GONE}:5353"
    assert value["rules"]["endpointReachable"]
    assert any("dnat to" in step["text"] for step in value["rules"]["steps"])


def test_what_clears_an_entry_clears_that_one(filled: Node) -> None:
    line = dump.GONE_ENDPOINT
    value = read(filled.kpctl("explain", line, "--node", "n1", "-o", "json"))
    filled.namespace.run(value["clear"].split())
    assert filled.entries() == 7
    again = filled.kpctl("explain", line, "--node", "n1")
    assert "does not have this entry" in again.stderr


# -- the table as a whole --------------------------------------------------------------------------


def test_status_tells_the_kernels_own_numbers(filled: Node) -> None:
    done = filled.kpctl("status", "--node", "n1", "--interval", "100ms", "-o", "json")
    value = read(done)
    assert done.returncode == 1
    assert (value["table"]["count"], value["content"]["entries"]) == (8, 8)
    maximum = int(filled.namespace.sysctl("net.netfilter.nf_conntrack_max"))
    assert value["table"]["max"] == maximum
    assert value["counters"]["drop"] == 0
    assert value["growth"]["entriesPerSecond"] == 0
    assert value["content"]["services"][0]["service"] in ("shop/dns:p", "shop/web:p")


def test_without_rights_the_size_is_told_and_the_rest_is_not_known(filled: Node) -> None:
    done = filled.kpctl("status", "--node", "n1", "-o", "json", before=POWERLESS)
    value = read(done)
    assert done.returncode == 3
    assert value["table"]["count"] == 8
    assert value["content"] == {"walked": False}
    assert any("run as root" in gap for gap in value["gaps"])
    audit = filled.kpctl("audit", "--node", "n1", before=POWERLESS)
    assert (audit.returncode, audit.stdout) == (3, "")
