"""
The bytes of ipset's netlink interface: its requests, its answers, and words for its refusals.

Numbers are those of ``linux/netfilter/ipset/ip_set.h``, all in network order.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable

from proxy.netfilter.ipset import SetHeader
from proxy.netfilter.wire import (
    NFGENMSG,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    attr,
    attributes,
    nested,
    string,
)

_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET
GET_PROTOCOL = _SUBSYSTEM | 1
CREATE = _SUBSYSTEM | 2
DESTROY = _SUBSYSTEM | 3
FLUSH = _SUBSYSTEM | 4
LIST = _SUBSYSTEM | 7
ADD = _SUBSYSTEM | 9
DELETE = _SUBSYSTEM | 10
GET_HEADER = _SUBSYSTEM | 12
GET_TYPE = _SUBSYSTEM | 13

NEWEST_PROTOCOL = 7
"""The newest version of the interface that is known here; kernels before 4.20 speak version 6."""

HASH_SIZE = 1024
MAX_ELEMENTS = 65536
"""The room of a hash set unless told otherwise, as of ipset(8)."""

_PROTOCOL, _NAME, _TYPE, _REVISION, _FAMILY, _FLAGS, _DATA, _ENTRIES, _LINE, _OLDEST = range(1, 11)
_PORT, _PORT_TO, _HASH_SIZE, _MAX_ELEMENTS = 4, 5, 18, 19
_LIST_HEADER = 1 << 2
_NETWORK_ORDER = 0x4000

_FAMILY_NUMBERS = {0: 0, 32: NFPROTO_IPV4, 128: NFPROTO_IPV6}
_BITS = {number: bits for bits, number in _FAMILY_NUMBERS.items()}

# The newest revision of each type that is known here, as ipset(8) has its own list: a newer one
# of the kernel's could not be listed by an ipset(8) of the same age.
_REVISIONS = {
    "hash:ip": 6,
    "hash:ip,port": 7,
    "hash:ip,port,ip": 6,
    "hash:ip,port,net": 8,
    "bitmap:port": 3,
}

_BUSY, _FIND_TYPE = 4100, 4098
_REFERENCED = 4108
_TYPE_SPECIFIC = 4352
_HEADER = NFGENMSG.pack(NFPROTO_IPV4, 0, 0)  # ipset(8)'s; the family's number is an attribute
_REASONS = {
    4097: "the kernel does not understand the request",
    _FIND_TYPE: "the kernel does not know this type of set",
    4099: "the kernel has no room for another set",
    _BUSY: "it is in use, by a rule or by another set",
    4101: "there is another set of that name",
    4102: "the sets' types differ",
    4103: "the entry is there already, or is missing",
    4104: "the kernel does not take this prefix length",
    4105: "the kernel does not take this netmask",
    4106: "the kernel does not take this address family",
    4107: "the set knows no time-outs",
    _REFERENCED: "it is in use, by a rule or by another set",
    4109: "an IPv4 address is wanted",
    4110: "an IPv6 address is wanted",
}
_HASH_REASONS = {
    _TYPE_SPECIFIC: "it is full",
    4353: "the entry cannot be stored in it",
    4354: "the kernel does not take this protocol",
    4355: "the entry has no protocol",
}
_BITMAP_REASONS = {_TYPE_SPECIFIC: "the entry is outside its range"}


def reason(code: int, set_type: str = "") -> tuple[int, str]:
    """
    Return (errno, sentence) for the kernel's refusal *code*; "" for one of errno(3)'s own.

    ipset has codes of its own, from 4097; those from 4352 mean something else for each kind of
    set. Being in use becomes EBUSY, being full ENOSPC, and every other EINVAL.
    """
    if code < 4096:
        return code, "there is no such set" if code == errno.ENOENT else ""
    if code in (_BUSY, _REFERENCED):
        return errno.EBUSY, _REASONS[code]
    bitmap = set_type.startswith("bitmap:")
    specific = _BITMAP_REASONS if bitmap else _HASH_REASONS
    text = (specific if code >= _TYPE_SPECIFIC else _REASONS).get(code, f"ipset error {code}")
    if code == _TYPE_SPECIFIC and not bitmap:
        return errno.ENOSPC, text
    if code == _FIND_TYPE and set_type:
        text += f"; it lacks the module {module_of(set_type)}"
    return errno.EINVAL, text


def module_of(set_type: str) -> str:
    """Return the kernel module that implements a type."""
    method, _, data = set_type.partition(":")
    return f"ip_set_{method}_{data.replace(',', '')}"


def protocol_request() -> bytes:
    """Return the payload of GET_PROTOCOL."""
    return _HEADER + _u8(_PROTOCOL, NEWEST_PROTOCOL)


def read_protocol(payload: memoryview) -> int:
    """
    Return the newest version that both sides speak.

    Raises ValueError when there is none.
    """
    found = attributes(payload[NFGENMSG.size :])
    newest = found[_PROTOCOL][0]
    oldest = found[_OLDEST][0] if _OLDEST in found else newest
    if oldest > NEWEST_PROTOCOL or newest < 6:
        raise ValueError(f"the kernel speaks versions {oldest} to {newest} of ipset's protocol")
    return min(newest, NEWEST_PROTOCOL)


def type_request(protocol: int, header: SetHeader) -> bytes:
    """Return the payload of GET_TYPE, which asks for the revisions of a set's type."""
    return (
        _HEADER
        + _u8(_PROTOCOL, protocol)
        + string(_TYPE, header.type)
        + _u8(_FAMILY, _FAMILY_NUMBERS[header.bits])
    )


def read_revision(payload: memoryview, set_type: str) -> int:
    """Return the newest revision of a type that both sides know."""
    newest = attributes(payload[NFGENMSG.size :])[_REVISION][0]
    return min(newest, _REVISIONS.get(set_type, newest))


def create_request(protocol: int, header: SetHeader, revision: int, max_elements: int) -> bytes:
    """Return the payload of CREATE; a bitmap takes all ports and ignores *max_elements*."""
    if header.type.startswith("bitmap:"):
        data = _u16(_PORT, 0) + _u16(_PORT_TO, 0xFFFF)
    else:
        data = _u32(_HASH_SIZE, HASH_SIZE) + _u32(_MAX_ELEMENTS, max_elements)
    return (
        name_request(protocol, header.name)
        + string(_TYPE, header.type)
        + _u8(_REVISION, revision)
        + _u8(_FAMILY, _FAMILY_NUMBERS[header.bits])
        + nested(_DATA, data)
    )


def name_request(protocol: int, name: str) -> bytes:
    """Return the payload of DESTROY, FLUSH, GET_HEADER and LIST of one set."""
    return _HEADER + _u8(_PROTOCOL, protocol) + string(_NAME, name)


def headers_request(protocol: int) -> bytes:
    """Return the payload of a LIST of all sets without their entries."""
    return _HEADER + _u8(_PROTOCOL, protocol) + _u32(_FLAGS, _LIST_HEADER)


def read_header(payload: memoryview) -> SetHeader | None:
    """Return the set that an answer is about; None for the continuation of a listing."""
    found = attributes(payload[NFGENMSG.size :])
    if _TYPE not in found:
        return None
    return SetHeader(_text(found[_NAME]), _text(found[_TYPE]), _BITS.get(found[_FAMILY][0], 0))


def entries_request(protocol: int, name: str, encoded: Iterable[bytes]) -> bytes:
    """
    Return the payload of one ADD or DELETE of several encoded entries.

    The kernel works through them in order and stops at the first that it refuses. At most some
    60,000 bytes.
    """
    return (
        name_request(protocol, name)
        + nested(_ENTRIES, *encoded)
        + attr(_LINE, b"\0\0\0\1")  # any number: it asks for the refused entry's to be told
    )


def entry_request(protocol: int, name: str, encoded: bytes) -> bytes:
    """Return the payload of an ADD or DELETE of one encoded entry."""
    return name_request(protocol, name) + encoded


def listed_entries(payload: memoryview) -> memoryview:
    """Return the bytes of the entries in one message of a LIST, for ``EntryLayout.decode``."""
    return attributes(payload[NFGENMSG.size :]).get(_ENTRIES, memoryview(b""))


def _text(value: memoryview) -> str:
    return bytes(value).rstrip(b"\0").decode(errors="backslashreplace")


def _u8(kind: int, value: int) -> bytes:
    return attr(kind, bytes((value,)))


def _u16(kind: int, value: int) -> bytes:
    return attr(kind | _NETWORK_ORDER, struct.pack(">H", value))


def _u32(kind: int, value: int) -> bytes:
    return attr(kind | _NETWORK_ORDER, struct.pack(">I", value))
