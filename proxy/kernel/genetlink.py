"""Generic netlink: kernel interfaces that have names, and numbers only while they are loaded."""

from __future__ import annotations

import errno
import struct

from proxy.kernel.netlink import NetlinkError, NetlinkSocket
from proxy.kernel.query import query
from proxy.netfilter.ipvs_messages import GENERIC_HEADER
from proxy.netfilter.wire import attributes, string

NETLINK_GENERIC = 16

_GENL_ID_CTRL = 16
_CTRL_CMD_GETFAMILY = 3
_CTRL_VERSION = 2
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2


def family_id(netlink: NetlinkSocket, name: str) -> int | None:
    """
    Return the message type of the interface *name*, or None when the kernel lacks it.

    The kernel loads its module where the module says that it serves the name. Raises NetlinkError.
    """
    request = GENERIC_HEADER.pack(_CTRL_CMD_GETFAMILY, _CTRL_VERSION, 0) + string(
        _CTRL_ATTR_FAMILY_NAME, name
    )
    try:
        answers = query(netlink, _GENL_ID_CTRL, request)
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    for answer in answers:
        number = attributes(answer.payload[GENERIC_HEADER.size :]).get(_CTRL_ATTR_FAMILY_ID)
        if number is not None:
            return int(struct.unpack("=H", number)[0])
    return None
