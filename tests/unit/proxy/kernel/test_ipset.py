"""How ipset is looked for; what it does is tested in the kernel."""

from __future__ import annotations

import errno
import struct

import pytest

from proxy.kernel.ipset import IpsetMissing, NetlinkIpset, SetRefusal
from proxy.kernel.netlink import NLMSG_ERROR, NetlinkError, encode_message
from proxy.netfilter.ipset import SetHeader
from proxy.netfilter.ipset_messages import GET_PROTOCOL
from proxy.netfilter.wire import attr


class Kernel:
    """A socket that answers one request with messages of (type, payload)."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.inbox = [encode_message(kind, 0, 1, payload) for kind, payload in answers]
        self.closed = False

    def next_sequence(self) -> int:
        return 1

    def send(self, data: bytes) -> None:
        assert data

    def receive(self) -> bytes:
        return self.inbox.pop(0)

    def close(self) -> None:
        self.closed = True


def refusal(number: int) -> tuple[int, bytes]:
    return NLMSG_ERROR, struct.pack("=i", -number) + bytes(16)


def test_a_kernel_without_ipset_is_told_with_the_module_to_load():
    kernel = Kernel(refusal(errno.EINVAL))
    with pytest.raises(IpsetMissing, match="modprobe ip_set"):
        NetlinkIpset(lambda: kernel)
    assert kernel.closed


def test_a_kernel_that_speaks_another_protocol_is_told_with_its_versions():
    answer = b"\2\0\0\0" + attr(1, b"\x0b") + attr(10, b"\x0a")
    kernel = Kernel((GET_PROTOCOL, answer), refusal(0))
    with pytest.raises(IpsetMissing, match="versions 10 to 11"):
        NetlinkIpset(lambda: kernel)
    assert kernel.closed


def test_a_missing_right_is_not_taken_for_a_missing_ipset():
    kernel = Kernel(refusal(errno.EPERM))
    with pytest.raises(NetlinkError, match="not permitted"):
        NetlinkIpset(lambda: kernel)
    assert kernel.closed


def test_a_refusal_names_the_set_and_speaks_of_it():
    full = SetRefusal(SetHeader("KUBE-CLUSTER-IP", "hash:ip,port", 32), 4352)
    assert (full.errno, full.strerror) == (errno.ENOSPC, "ipset KUBE-CLUSTER-IP: it is full")
    assert str(full) == f"[Errno {errno.ENOSPC}] ipset KUBE-CLUSTER-IP: it is full"
    denied = SetRefusal(SetHeader("A", "hash:ip", 32), errno.EPERM)
    assert denied.strerror == "ipset A: Operation not permitted"
