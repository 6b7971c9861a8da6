"""IPVS messages, byte by byte, and listings as kernels of several ages write them."""

import socket
import struct

import pytest

from proxy.model.addresses import IPFamily
from proxy.netfilter.ipvs import (
    FLAG_HASHED,
    FLAG_PERSISTENT,
    FLAG_SCHED_MH_PORT,
    Action,
    Operation,
    RealKey,
    RealServer,
    ServerKey,
    VirtualServer,
)
from proxy.netfilter.ipvs_messages import (
    ServerReader,
    encode_operation,
    read_real_server,
    read_timeouts,
    real_servers_request,
    timeouts_request,
)
from proxy.netfilter.wire import NLA_F_NESTED, attr, attributes, nested

NUMBERS = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}
VIP = {
    IPFamily.IPV4: socket.inet_pton(socket.AF_INET, "172.30.0.1"),
    IPFamily.IPV6: socket.inet_pton(socket.AF_INET6, "fd00:30::1"),
}
POD = {
    IPFamily.IPV4: socket.inet_pton(socket.AF_INET, "10.180.0.7"),
    IPFamily.IPV6: socket.inet_pton(socket.AF_INET6, "fd00:180::7"),
}
both_families = pytest.mark.parametrize("family", list(IPFamily))


def u16(value: int) -> bytes:
    return struct.pack("=H", value)


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def identity(family: IPFamily) -> bytes:
    return (
        attr(1, u16(NUMBERS[family]))
        + attr(2, u16(6))
        + attr(3, VIP[family])
        + attr(4, struct.pack(">H", 443))
    )


def server(family: IPFamily, scheduler: str = "rr", flags: int = 0, timeout_s: int = 0):
    return VirtualServer(ServerKey(VIP[family], 443, 6), scheduler, flags, timeout_s)


def listed_server(family: IPFamily, *, identity_: bytes = b"", extra: bytes = b"") -> memoryview:
    """Return what the kernel lists for a persistent server; *extra* follows the scheduler."""
    address = VIP[family] + b"\0" * (16 - len(VIP[family]))
    return memoryview(
        struct.pack("=BBH", 1, 1, 0)
        + attr(
            1,
            attr(1, u16(NUMBERS[family]))
            + (identity_ or attr(2, u16(6)) + attr(3, address) + attr(4, struct.pack(">H", 443)))
            + attr(6, b"wlc\0")
            + extra
            + attr(7, struct.pack("=II", FLAG_PERSISTENT | FLAG_HASHED, 0xFFFFFFFF))
            + attr(8, u32(10800))
            + attr(9, b"\xff\xff\xff\xff")
            + nested(10, attr(1, u32(17))),
        )
    )


@both_families
def test_a_new_virtual_server_has_all_settings_and_the_netmask_of_one_host(family):
    wanted = server(family, "mh", FLAG_PERSISTENT | FLAG_SCHED_MH_PORT, 10800)
    netmask = b"\xff\xff\xff\xff" if family is IPFamily.IPV4 else u32(128)
    for action in (Action.NEW_SERVER, Action.SET_SERVER):
        assert encode_operation(Operation(action, wanted)) == struct.pack(
            "=BBH", action, 1, 0
        ) + attr(
            1 | NLA_F_NESTED,
            identity(family)
            + attr(6, b"mh\0")
            + attr(7, struct.pack("=II", 0x11, 0xFFFFFFFF))
            + attr(8, u32(10800))
            + attr(9, netmask),
        )


@both_families
def test_deleting_or_listing_names_nothing_but_the_virtual_server(family):
    body = attr(1 | NLA_F_NESTED, identity(family))
    operation = Operation(Action.DELETE_SERVER, server(family))
    assert encode_operation(operation) == b"\x03\x01\0\0" + body
    assert real_servers_request(operation.server.key) == b"\x08\x01\0\0" + body


@both_families
@pytest.mark.parametrize("action", [Action.NEW_REAL, Action.SET_REAL, Action.DELETE_REAL])
def test_a_real_server_is_always_reached_by_masquerading(family, action):
    operation = Operation(action, server(family, "sh", 1, 9), RealKey(POD[family], 8443), 3)
    assert encode_operation(operation) == struct.pack("=BBH", action, 1, 0) + attr(
        1 | NLA_F_NESTED, identity(family)
    ) + attr(
        2 | NLA_F_NESTED,
        attr(1, POD[family])
        + attr(2, struct.pack(">H", 8443))
        + attr(3, u32(0))
        + attr(4, u32(3))
        + attr(5, u32(0))
        + attr(6, u32(0))
        + attr(11, u16(NUMBERS[family])),
    )


@both_families
@pytest.mark.parametrize("extra", [b"", attr(11, b"sip\0")], ids=["usual", "persistence-engine"])
def test_a_listed_virtual_server_is_read_without_the_kernels_own_flag(family, extra):
    expected = server(family, "wlc", FLAG_PERSISTENT, 10800)
    assert ServerReader(family).read(listed_server(family, extra=extra)) == expected


@both_families
def test_virtual_servers_of_the_other_family_are_passed_over(family):
    (other,) = set(IPFamily) - {family}
    assert ServerReader(family).read(listed_server(other)) is None


@both_families
def test_virtual_servers_known_by_a_firewall_mark_are_passed_over(family):
    assert ServerReader(family).read(listed_server(family, identity_=attr(5, u32(7)))) is None


def test_a_message_without_a_virtual_server_is_passed_over():
    assert ServerReader(IPFamily.IPV4).read(memoryview(b"\1\1\0\0")) is None


def listed_real(family: IPFamily, *, tunnel: bytes = b"", end: bytes | None = None) -> memoryview:
    address = POD[family] + b"\0" * (16 - len(POD[family]))
    counters = b"".join(attr(kind, u32(value)) for kind, value in ((7, 4), (8, 5), (9, 6)))
    return memoryview(
        struct.pack("=BBH", 5, 1, 0)
        + attr(
            2,
            attr(1, address)
            + attr(2, struct.pack(">H", 8443))
            + attr(3, u32(0x103))
            + attr(4, u32(0x10000))
            + tunnel
            + attr(5, u32(0))
            + attr(6, u32(0))
            + counters
            + (attr(11, u16(NUMBERS[family])) if end is None else end)
            + nested(10, attr(1, u32(17))),
        )
    )


TUNNEL = attr(13, b"\0") + attr(14, b"\0\0") + attr(15, b"\0\0")


@both_families
@pytest.mark.parametrize(
    ("tunnel", "end"),
    [(TUNNEL, None), (b"", None), (TUNNEL + attr(16, u32(1)), None), (b"", b"")],
    ids=["usual", "before-5.3", "later", "before-3.18"],
)
def test_a_listed_real_server_is_read_with_its_counters(family, tunnel, end):
    found = read_real_server(listed_real(family, tunnel=tunnel, end=end), family)
    assert found == RealServer(RealKey(POD[family], 8443), 0x10000, 3, 4, 5, 6)


def test_a_real_server_of_the_other_family_is_passed_over():
    assert read_real_server(listed_real(IPFamily.IPV6), IPFamily.IPV4) is None
    assert read_real_server(memoryview(b"\5\1\0\0"), IPFamily.IPV4) is None


def test_timeouts_are_told_in_the_order_tcp_fin_udp():
    request = timeouts_request(900, 0, 300)
    assert request[:4] == b"\x0c\x01\0\0"
    found = {kind: bytes(value) for kind, value in attributes(request[4:]).items()}
    assert found == {4: u32(900), 5: u32(0), 6: u32(300)}
    assert read_timeouts(memoryview(request)) == (900, 0, 300)


def test_a_kernel_without_a_protocol_has_no_timeout_for_it():
    assert read_timeouts(memoryview(b"\x0c\x01\0\0" + attr(6, u32(300)))) == (0, 0, 300)
