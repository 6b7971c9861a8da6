"""Clean-ups in the real kernel: every test has a network namespace of its own."""

import ctypes
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from proxy.conntrack.messages import (
    CT_DELETE,
    CT_GET,
    CT_NEW,
    EntryReader,
    delete_request,
    dump_request,
    nfnetlink_header,
)
from proxy.conntrack.settings import setting_writes
from proxy.conntrack.stale import CleanupRequest, Frontend, Reason, Search, place
from proxy.kernel.conntrack import clean_up, load_conntrack, open_netfilter
from proxy.kernel.netlink import NetlinkError
from proxy.kernel.sysctl import SysctlTree, apply_settings
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import NLM_F_CREATE, attributes
from tests.support.conntrack_entries import (
    VECTORS,
    Ends,
    conntrack_config,
    encode_entry,
    reversed_ends,
)

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN"),
]

VIP = "172.30.1.1"
CLIENT = "10.0.0.2"


def check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "cannot change the network namespace")


@pytest.fixture(autouse=True)
def namespace():
    """Move the test's thread into a new network namespace, which vanishes with it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        check(LIBC.unshare(CLONE_NEWNET))
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        load_conntrack()
        yield
    finally:
        check(LIBC.setns(home, CLONE_NEWNET))
        os.close(home)


def add(*entries: bytes) -> None:
    with open_netfilter() as netlink:
        assert netlink.request_many(CT_NEW, NLM_F_CREATE, entries) == [None] * len(entries)


def udp(client_port: int, destination: str, port: int, endpoint: str, endpoint_port: int) -> bytes:
    client = ("fd00::2" if ":" in destination else CLIENT, client_port)
    return encode_entry("UDP", (*client, destination, port), (endpoint, endpoint_port, *client))


def listed(family: IPFamily = IPFamily.IPV4, search: Search | None = None) -> list[bytes]:
    """Return the payloads of the listed UDP entries, or with no search of all entries."""
    payload = nfnetlink_header(family) if search is None else dump_request(family, search)
    with open_netfilter() as netlink:
        return [bytes(message.payload) for message in netlink.dump(CT_GET, payload)]


def remaining(family: IPFamily = IPFamily.IPV4) -> set[tuple[bytes, bytes] | None]:
    """Return (destination, reply source) of every UDP entry left."""
    reader = EntryReader(family)
    return {reader.ends(memoryview(entry)) for entry in listed(family, Search())}


def test_the_kernel_filters_by_destination_port_endpoint_and_protocol():
    add(
        udp(1, VIP, 53, "10.1.0.1", 5353),
        udp(2, VIP, 54, "10.1.0.1", 5353),
        udp(3, "172.30.1.2", 53, "10.1.0.2", 5353),
        encode_entry("TCP", (CLIENT, 4, VIP, 53), ("10.1.0.1", 5353, CLIENT, 4)),
    )
    vip = socket.inet_aton(VIP)
    for search, count in (
        (Search(), 3),
        (Search(destination=vip), 2),
        (Search(port=b"\0\x35"), 2),
        (Search(destination=vip, port=b"\0\x35"), 1),
        (Search(reply_source=place("10.1.0.1", 5353)), 2),
        (Search(reply_source=place("10.1.0.1", 53)), 0),
    ):
        assert len(listed(search=search)) == count, search
    assert len(listed()) == 4


def test_stale_entries_are_deleted_and_all_others_stay():
    add(
        udp(1, VIP, 53, "10.1.0.1", 53),
        udp(2, VIP, 53, "10.1.0.9", 53),
        udp(3, VIP, 53, VIP, 53),
        udp(4, VIP, 54, "10.1.0.9", 53),
        udp(5, "192.168.0.1", 30053, "10.1.0.9", 53),
        udp(6, "203.0.113.7", 30053, "203.0.113.7", 30053),
        udp(7, "172.30.1.9", 53, "10.1.0.9", 53),
    )
    result = clean_up(
        CleanupRequest(
            IPFamily.IPV4,
            {
                Frontend(VIP, 53): frozenset({place("10.1.0.1", 53)}),
                Frontend(None, 30053): frozenset(),
            },
            removed_frontends=frozenset({Frontend("172.30.1.9", 53)}),
            node_addresses=frozenset({"192.168.0.1"}),
        )
    )
    assert result.error == ""
    assert result.deleted == {
        Reason.NOT_SERVING: 1,
        Reason.NOT_TRANSLATED: 1,
        Reason.NO_ENDPOINTS: 1,
        Reason.FRONTEND_REMOVED: 1,
    }
    assert remaining() == {
        (place(VIP, 53), place("10.1.0.1", 53)),
        (place(VIP, 54), place("10.1.0.9", 53)),
        (place("203.0.113.7", 30053), place("203.0.113.7", 30053)),
    }


def test_ipv6_entries_are_cleaned_apart_from_ipv4():
    vip = "fd00:172:30::a"
    add(
        udp(1, vip, 53, "fd00:10::9", 53),
        udp(2, vip, 53, "fd00:10::1", 53),
        udp(3, VIP, 53, "10.1.0.9", 53),
    )
    result = clean_up(
        CleanupRequest(
            IPFamily.IPV6,
            {Frontend(vip, 53): frozenset({place("fd00:10::1", 53)})},
            service_networks=(ip_network("fd00:172:30::/112"),),
        )
    )
    assert (result.deleted, result.error) == ({Reason.NOT_SERVING: 1}, "")
    assert len(remaining(IPFamily.IPV6)) == 1
    assert len(remaining(IPFamily.IPV4)) == 1


def test_entries_in_a_zone_are_deleted_too():
    original = (CLIENT, 1, VIP, 53)
    add(encode_entry("UDP", original, ("10.1.0.9", 53, CLIENT, 1), zone=7))
    result = clean_up(CleanupRequest(IPFamily.IPV4, {Frontend(VIP, 53): frozenset()}))
    assert (result.deleted_total, result.error) == (1, "")
    assert listed() == []


def test_more_stale_entries_than_fit_one_datagram_are_all_deleted():
    for first in range(0, 2000, 100):
        add(*(udp(1024 + first + n, VIP, 53, "10.1.0.9", 53) for n in range(100)))
    result = clean_up(
        CleanupRequest(
            IPFamily.IPV4,
            {Frontend(VIP, 53): frozenset()},
            removed_endpoints=frozenset({place("10.1.0.9", 53)}),
        )
    )
    assert (result.deleted_total, result.walks, result.error) == (2000, 1, "")
    assert listed() == []


def test_a_newer_flow_of_the_same_client_to_another_endpoint_is_not_hit():
    """It often takes the old entry's memory, and with it the old entry's identity."""
    add(udp(1, VIP, 53, "10.1.0.9", 53))
    (old,) = listed()
    deletion = delete_request(IPFamily.IPV4, memoryview(old))
    assert deletion is not None
    with open_netfilter() as netlink:
        netlink.request(CT_DELETE, 0, deletion)
        add(udp(1, VIP, 53, "10.1.0.1", 53))
        newer = listed()
        with pytest.raises(NetlinkError) as caught:
            netlink.request(CT_DELETE, 0, deletion)
    assert caught.value.errno == errno.ENOENT
    assert len(newer) == len(listed()) == 1


def test_a_flow_that_the_endpoint_itself_opened_is_not_hit():
    """Its original tuple is the stale flow's reply tuple."""
    add(udp(1, VIP, 53, "10.1.0.9", 53))
    (old,) = listed()
    deletion = delete_request(IPFamily.IPV4, memoryview(old))
    assert deletion is not None
    with open_netfilter() as netlink:
        netlink.request(CT_DELETE, 0, deletion)
        opened = ("10.1.0.9", 53, CLIENT, 1)
        add(encode_entry("UDP", opened, reversed_ends(opened)))
        with pytest.raises(NetlinkError):
            netlink.request(CT_DELETE, 0, deletion)
    assert len(listed()) == 1


def deletion_of(flow: Sequence) -> bytes:
    """Return what deletes *flow* (protocol, original, reply), made up if it is not listed."""
    protocol, original, reply = flow
    made_up = encode_entry(protocol, original, reply or reversed_ends(original), identity=1)
    wanted = attributes(memoryview(made_up)[4:])
    found = [
        entry
        for entry in listed()
        if all(attributes(memoryview(entry)[4:])[kind] == wanted[kind] for kind in (1, 2))
    ]
    request = delete_request(IPFamily.IPV4, memoryview(found[0] if found else made_up))
    assert request is not None
    return request


def entry_of(protocol: str, original: Ends, reply: Ends | None) -> bytes:
    return encode_entry(protocol, original, reply or reversed_ends(original))


@pytest.mark.parametrize("case", VECTORS["deleteExact"], ids=lambda case: case["name"])
def test_deleting_listed_entries_removes_exact_matches_only(case):
    add(*(entry_of(*flow) for flow in case["entries"]))
    with open_netfilter() as netlink:
        results = netlink.request_many(CT_DELETE, 0, [deletion_of(f) for f in case["delete"]])
    assert sum(error is None for error in results) == case["deleted"]
    assert len(listed()) == case["remaining"]


@pytest.mark.parametrize("case", VECTORS["filterMatch"], ids=lambda case: case["name"])
def test_a_deletion_made_from_an_entry_selects_that_entry_only(case):
    protocol, original, reply = case["entry"]
    blank = original[1] == 0  # no such entry can be tracked
    if not blank:
        add(entry_of(protocol, original, reply))
    with open_netfilter() as netlink:
        results = netlink.request_many(CT_DELETE, 0, [deletion_of(f) for f in case["filter"]])
    assert any(error is None for error in results) == case["match"]
    assert len(listed()) == (0 if blank or case["match"] else 1)


class Client:
    """One UDP client that keeps its port, with its Service's rules and endpoints on loopback."""

    def __init__(self) -> None:
        for address in (CLIENT, "10.1.0.1", "10.1.0.9"):
            subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
        subprocess.run(["ip", "route", "add", "172.30.0.0/16", "dev", "lo"], check=True)
        self.endpoints = {address: self._bound(address) for address in ("10.1.0.1", "10.1.0.9")}
        self._socket = self._bound(CLIENT)

    @staticmethod
    def _bound(address: str) -> socket.socket:
        udp_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp_socket.bind((address, 5353))
        udp_socket.settimeout(5)
        return udp_socket

    def send(self, text: bytes) -> None:
        self._socket.sendto(text, (VIP, 53))

    def received_by(self, address: str) -> bytes:
        """Return the first datagram the endpoint has not read yet."""
        return self.endpoints[address].recv(100)

    def close(self) -> None:
        for each in (self._socket, *self.endpoints.values()):
            each.close()


@pytest.fixture
def client(namespace):
    client = Client()
    yield client
    client.close()


def write_rules(*rules: str) -> None:
    """Replace the translation rules; the ct statement keeps tracking on without any."""
    table = f"""
        table ip service
        delete table ip service
        table ip service {{
            chain track {{ type filter hook output priority 0; ct state new counter; }}
            chain nat {{ type nat hook output priority -100; {"; ".join(rules)}; }}
        }}"""
    subprocess.run(["nft", "-f", "-"], input=table, text=True, check=True)


def rule_to(endpoint: str) -> str:
    return f"ip daddr {VIP} udp dport 53 dnat to {endpoint}:5353"


@pytest.mark.packets
def test_a_client_moves_on_when_its_endpoint_left(client):
    write_rules(rule_to("10.1.0.9"))
    client.send(b"first")
    assert client.received_by("10.1.0.9") == b"first"
    write_rules(rule_to("10.1.0.1"))
    client.send(b"stuck")
    assert client.received_by("10.1.0.9") == b"stuck"
    result = clean_up(
        CleanupRequest(
            IPFamily.IPV4,
            {Frontend(VIP, 53): frozenset({place("10.1.0.1", 5353)})},
            removed_endpoints=frozenset({place("10.1.0.9", 5353)}),
        )
    )
    assert (result.deleted, result.error) == ({Reason.NOT_SERVING: 1}, "")
    client.send(b"moved")
    assert client.received_by("10.1.0.1") == b"moved"


@pytest.mark.packets
def test_a_client_that_was_too_early_reaches_the_service_in_the_end(client):
    write_rules()
    client.send(b"too early")
    write_rules(rule_to("10.1.0.1"))
    client.send(b"lost all the same")
    assert remaining() == {(place(VIP, 53), place(VIP, 53))}
    result = clean_up(
        CleanupRequest(IPFamily.IPV4, {Frontend(VIP, 53): frozenset({place("10.1.0.1", 5353)})})
    )
    assert (result.deleted, result.error) == ({Reason.NOT_TRANSLATED: 1}, "")
    client.send(b"found")
    assert client.received_by("10.1.0.1") == b"found"


@pytest.mark.packets
def test_a_client_of_a_deleted_service_is_cut_off(client):
    write_rules(rule_to("10.1.0.9"))
    client.send(b"first")
    write_rules()
    removed = CleanupRequest(IPFamily.IPV4, removed_frontends=frozenset({Frontend(VIP, 53)}))
    assert clean_up(removed).deleted == {Reason.FRONTEND_REMOVED: 1}
    client.send(b"cut off")
    assert client.received_by("10.1.0.9") == b"first"
    assert remaining() == {(place(VIP, 53), place(VIP, 53))}
    # Flows that begin after the removal are nobody's, and stay.
    assert clean_up(removed).deleted == {}


def test_without_privilege_the_result_says_what_is_missing():
    """A user namespace without rights in this network namespace stands in for a lesser user."""
    script = (
        "from proxy.conntrack.stale import *; from proxy.kernel.conntrack import clean_up;"
        "from proxy.model.addresses import IPFamily;"
        "request = CleanupRequest(IPFamily.IPV4, {Frontend('1.2.3.4', 1): frozenset()});"
        "print(clean_up(request).error)"
    )
    if shutil.which("setpriv") is None:
        pytest.fail("setpriv (util-linux) is missing")
    run = subprocess.run(
        [
            "setpriv",
            "--reuid=65534",
            "--clear-groups",
            "--bounding-set=-all",
            sys.executable,
            "-c",
            script,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert "needs CAP_NET_ADMIN" in run.stdout, run.stderr


def test_the_tables_size_is_refused_here_and_explained_while_time_outs_are_set():
    """nf_conntrack_max is read-only in any but the initial network namespace."""
    writes = setting_writes(conntrack_config(max_per_core=1, min=2**30, udp_timeout_s=77), 1)
    size, _, time_out = apply_settings(writes, SysctlTree())
    assert not size.written
    assert f"nf_conntrack_max stays at {size.before}, wanted {2**30}" in size.problem
    assert "conntrack.maxPerCore: 0" in size.problem
    assert time_out.written
    assert SysctlTree().read_int("net/netfilter/nf_conntrack_udp_timeout") == 77
