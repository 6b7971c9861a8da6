"""How IPVS is looked for; what it does is tested in a kernel that has it."""

from __future__ import annotations

import errno
import struct

import pytest

from proxy.kernel.ipvs import IpvsMissing, NetlinkIpvs
from proxy.kernel.netlink import NLMSG_ERROR, NetlinkError, encode_message
from proxy.netfilter.wire import HEADER, attr

GENL_ID_CTRL = 16
IPVS = 37


class Controller:
    """A socket to generic netlink's controller; *answers* are a number or an error's, in turn."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.inbox: list[bytes] = []
        self.sequence = 0
        self.closed = False

    def next_sequence(self, count: int = 1) -> int:
        self.sequence += count
        return self.sequence

    def send(self, data: bytes) -> None:
        assert HEADER.unpack_from(data)[1] == GENL_ID_CTRL
        assert b"IPVS\0" in data
        answer = self.answers.pop(0)
        if answer > 0:
            found = b"\1\2\0\0" + attr(2, b"IPVS\0") + attr(1, struct.pack("=H", answer))
            self.inbox.append(encode_message(GENL_ID_CTRL, 0, self.sequence, found))
        error = struct.pack("=i", min(answer, 0)) + bytes(data[:16])
        self.inbox.append(encode_message(NLMSG_ERROR, 0, self.sequence, error))

    def receive(self) -> bytes:
        return self.inbox.pop(0)

    def close(self) -> None:
        self.closed = True


def test_a_loaded_ipvs_needs_no_loading():
    loads: list[str] = []
    controller = Controller(IPVS)
    NetlinkIpvs(lambda: controller, lambda: loads.append("ip_vs"))
    assert (loads, controller.closed) == ([], False)


def test_the_module_is_loaded_once_when_it_is_missing():
    loads: list[str] = []
    NetlinkIpvs(lambda: Controller(-errno.ENOENT, IPVS), lambda: loads.append("ip_vs"))
    assert loads == ["ip_vs"]


def test_a_kernel_without_ipvs_is_told_with_the_module_to_load():
    loads: list[str] = []
    controller = Controller(-errno.ENOENT, -errno.ENOENT)
    with pytest.raises(IpvsMissing, match="modprobe -a ip_vs"):
        NetlinkIpvs(lambda: controller, lambda: loads.append("ip_vs"))
    assert (loads, controller.closed) == (["ip_vs"], True)


def test_a_missing_right_is_not_taken_for_a_missing_ipvs():
    controller = Controller(-errno.EPERM)
    with pytest.raises(NetlinkError, match="not permitted"):
        NetlinkIpvs(lambda: controller, lambda: None)
    assert controller.closed
