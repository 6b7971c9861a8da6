"""Tests of kpctl.lab.netns against the kernel."""

import ctypes
import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from kpctl.lab import netns
from kpctl.lab.netns import Namespace, create_all, delete_all, link, with_prefix
from proxy.kernel.command import PIPE, CommandError, Denied

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN and CAP_SYS_ADMIN"),
]


@pytest.fixture
def pair():
    """Two namespaces of this process's own."""
    both = [Namespace(f"kpctl-test{os.getpid()}-{role}") for role in "ab"]
    create_all(both)
    yield both
    delete_all(both)


def own_namespace():
    return Path("/proc/thread-self/ns/net").readlink()


def test_linked_namespaces_reach_each_other_at_once(pair):
    left, right = pair
    link(left, "eth0", right, "eth0")
    left.ip(["addr add 10.0.0.1/24 dev eth0", "addr add fd00::1/64 dev eth0"])
    right.ip(["addr add 10.0.0.2/24 dev eth0", "addr add fd00::2/64 dev eth0"])
    for family, here, there in (
        (socket.AF_INET, "10.0.0.1", "10.0.0.2"),
        (socket.AF_INET6, "fd00::1", "fd00::2"),
    ):
        with right.socket(family) as server, left.socket(family) as client:
            server.bind((there, 80))
            server.listen()
            client.settimeout(5)
            client.connect((there, 80))
            with server.accept()[0] as accepted:
                assert accepted.getpeername()[0] == here


def test_nothing_appears_in_the_callers_namespace(pair):
    before = socket.if_nameindex()
    link(pair[0], "kpctltest", pair[1], "kpctltest")
    assert socket.if_nameindex() == before


def test_only_the_entering_thread_moves_and_it_comes_back(pair):
    home = own_namespace()
    seen = []
    with pair[0].enter():
        inside = own_namespace()
        thread = threading.Thread(target=lambda: seen.append(own_namespace()))
    thread.start()
    thread.join()
    assert inside != home
    assert own_namespace() == home
    assert seen == [home]


def test_the_thread_comes_back_after_an_error(pair):
    home = own_namespace()
    with pytest.raises(ZeroDivisionError), pair[0].enter():
        _ = 1 / 0
    assert own_namespace() == home


def test_programs_run_inside(pair):
    pair[0].ip(["addr add 10.1.2.3/32 dev lo"])
    assert "10.1.2.3" in pair[0].run(["ip", "-br", "addr"]).stdout
    assert "10.1.2.3" not in pair[1].run(["ip", "-br", "addr"]).stdout
    with pair[0].spawn(["ip", "-br", "addr"], stdout=PIPE) as process:
        assert b"10.1.2.3" in process.communicate(timeout=10)[0]


def test_sysctls_are_those_of_the_namespace(pair):
    pair[0].set_sysctls({"net.ipv4.ip_forward": "1"})
    pair[1].set_sysctls({"net.ipv4.ip_forward": "0"})
    assert [ns.sysctl("net.ipv4.ip_forward") for ns in pair] == ["1", "0"]


def test_an_error_in_a_batch_names_the_command_that_failed(pair):
    with pytest.raises(CommandError, match=r"link set nothere up: .*Cannot find device") as raised:
        pair[0].ip(["link set lo up", "link set nothere up", "link set lo down"])
    assert "Command failed" not in str(raised.value)


def test_creating_a_taken_name_fails_and_keeps_what_is_there(pair):
    with pytest.raises(CommandError, match=f"netns add {pair[0].name}"):
        pair[0].create()
    assert pair[0].exists()


def test_deleting_ends_the_processes_inside(pair):
    shell = pair[0].spawn(["sh", "-c", "sleep 60 & sleep 60"])
    other = pair[1].spawn(["sleep", "60"])
    assert pair[0].pids()
    pair[0].delete()
    assert shell.wait(10) == -9
    assert not pair[0].exists()
    assert pair[0].pids() == ()
    assert other.poll() is None
    pair[1].delete()
    assert other.wait(10) == -9


def test_deleting_from_inside_spares_the_caller(pair):
    with pair[0].enter():
        pair[0].delete()
    assert not pair[0].exists()


def test_deleting_what_is_absent_is_no_error():
    Namespace("kpctl-test-absent").delete()


def test_entering_what_is_absent_is_an_error():
    with pytest.raises(FileNotFoundError), Namespace("kpctl-test-absent").enter():
        pytest.fail("entered")


def test_namespaces_are_found_by_prefix(pair):
    prefix = pair[0].name[:-1]
    assert with_prefix(prefix) == tuple(pair)
    assert with_prefix(f"{prefix}c") == ()


def test_where_no_namespace_was_ever_made_none_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(netns, "NETNS_DIR", tmp_path / "absent")
    assert with_prefix("kpctl-") == ()


def test_entering_without_the_right_to_is_denied_with_the_next_step(pair, monkeypatch):
    class Libc:
        @staticmethod
        def setns(_descriptor, _kind):
            ctypes.set_errno(errno.EPERM)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc)
    with pytest.raises(Denied, match="CAP_SYS_ADMIN"), pair[0].enter():
        pytest.fail("entered")
