"""Interfaces of generic netlink by name; asking needs no privilege."""

import pytest

from proxy.kernel.genetlink import NETLINK_GENERIC, family_id
from proxy.kernel.netlink import NetlinkError, NetlinkSocket


def test_the_controller_has_its_fixed_number_and_an_unknown_name_none():
    with NetlinkSocket(NETLINK_GENERIC) as netlink:
        assert family_id(netlink, "nlctrl") == 16
        assert family_id(netlink, "no-such-family") is None
        assert family_id(netlink, "nlctrl") == 16


def test_other_refusals_are_not_taken_for_a_missing_interface():
    with NetlinkSocket(NETLINK_GENERIC) as netlink, pytest.raises(NetlinkError):
        family_id(netlink, "a-name-that-is-longer-than-the-kernel-takes")
