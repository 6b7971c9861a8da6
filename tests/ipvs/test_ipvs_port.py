"""Virtual and real servers in the kernel, as ipvsadm(8) sees them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence

import pytest

from kpctl.lab.netns import Namespace
from proxy.kernel.ipvs import NetlinkIpvs
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipvs import (
    FLAG_PERSISTENT,
    FLAG_SCHED_MH_PORT,
    Action,
    Operation,
    RealKey,
    RealServer,
    ServerKey,
    VirtualServer,
)
from tests.support.ipvs_rig import packed

pytestmark = [pytest.mark.kernel]

TCP, UDP, SCTP = 6, 17, 132
SCHEDULERS = ["rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq", "mh", "lblc", "lblcr", "fo", "ovf"]
both_families = pytest.mark.parametrize("family", list(IPFamily))


@pytest.fixture
def ipvs(namespace: Namespace) -> Iterator[NetlinkIpvs]:
    port = NetlinkIpvs()
    yield port
    port.close()


def address(family: IPFamily, network: int, number: int) -> bytes:
    prefix = packed("10.0.0.0" if family is IPFamily.IPV4 else "fd00::")
    return prefix[:1] + bytes((network,)) + prefix[2:-2] + number.to_bytes(2, "big")


def server(
    family: IPFamily, number: int, protocol: int = TCP, scheduler: str = "rr", **settings: int
) -> VirtualServer:
    return VirtualServer(
        ServerKey(address(family, 30, number), 443, protocol), scheduler, **settings
    )


def real(family: IPFamily, number: int) -> RealKey:
    return RealKey(address(family, 180, number), 8443)


def names(results: Sequence[NetlinkError | None]) -> list[str]:
    return ["" if result is None else errno.errorcode[result.errno] for result in results]


def listed(namespace: Namespace) -> str:
    return namespace.run(["ipvsadm", "-Sn"]).stdout


def test_ipvsadm_shows_what_was_made(ipvs: NetlinkIpvs, namespace: Namespace) -> None:
    four, six = IPFamily.IPV4, IPFamily.IPV6
    made = [
        server(four, 1),
        server(four, 2, UDP, "wlc", flags=FLAG_PERSISTENT, timeout_s=10800),
        server(four, 3, SCTP, "mh", flags=FLAG_SCHED_MH_PORT),
        server(six, 4, UDP, "sh", flags=FLAG_PERSISTENT, timeout_s=100),
    ]
    operations = [Operation(Action.NEW_SERVER, one) for one in made]
    operations.append(Operation(Action.NEW_REAL, made[0], real(four, 1), 1))
    operations.append(Operation(Action.NEW_REAL, made[3], real(six, 2), 0))
    assert not any(ipvs.apply(operations))
    assert sorted(listed(namespace).splitlines()) == [
        "-A --sctp-service 10.30.0.3:443 -s mh -b mh-port",
        "-A -t 10.30.0.1:443 -s rr",
        "-A -u 10.30.0.2:443 -s wlc -p 10800",
        "-A -u [fd1e::4]:443 -s sh -p 100",
        "-a -t 10.30.0.1:443 -r 10.180.0.1:8443 -m -w 1",
        "-a -u [fd1e::4]:443 -r [fdb4::2]:8443 -m -w 0",
    ]


def test_what_ipvsadm_made_is_listed(ipvs: NetlinkIpvs, namespace: Namespace) -> None:
    for line in (
        "-A -t 192.0.2.1:80 -s wlc -p 60",
        "-a -t 192.0.2.1:80 -r 10.9.9.9:80 -g -w 7",
        "-a -t 192.0.2.1:80 -r 10.9.9.8:80 -i",
        "-A -f 5 -s rr",
        "-A -f 6 -6 -s rr",
        "-A -t [2001:db8::1]:80 -s rr",
    ):
        namespace.run(["ipvsadm", *line.split()])
    four = VirtualServer(ServerKey(packed("192.0.2.1"), 80, TCP), "wlc", FLAG_PERSISTENT, 60)
    six = VirtualServer(ServerKey(packed("2001:db8::1"), 80, TCP), "rr")
    assert ipvs.servers(IPFamily.IPV4) == {four.key: four}
    assert ipvs.servers(IPFamily.IPV6) == {six.key: six}
    assert sorted(ipvs.real_servers(four), key=lambda found: found.key) == [
        RealServer(RealKey(packed("10.9.9.8"), 80), 1, forward=2),
        RealServer(RealKey(packed("10.9.9.9"), 80), 7, forward=3),
    ]
    assert ipvs.real_servers(six) == []


@both_families
def test_settings_and_weights_are_replaced(ipvs: NetlinkIpvs, family: IPFamily) -> None:
    before = server(family, 1, flags=FLAG_PERSISTENT, timeout_s=100)
    after = server(family, 1, TCP, "sh")
    assert not any(
        ipvs.apply(
            [
                Operation(Action.NEW_SERVER, before),
                Operation(Action.NEW_REAL, before, real(family, 1), 1),
                Operation(Action.SET_SERVER, after),
                Operation(Action.SET_REAL, after, real(family, 1), 0),
            ]
        )
    )
    assert ipvs.servers(family) == {after.key: after}
    assert ipvs.real_servers(after) == [RealServer(real(family, 1), 0)]


@both_families
def test_a_refusal_is_the_kernels_and_stops_nothing(ipvs: NetlinkIpvs, family: IPFamily) -> None:
    there, missing = server(family, 1), server(family, 2)
    results = ipvs.apply(
        [
            Operation(Action.NEW_SERVER, there),
            Operation(Action.NEW_SERVER, there),
            Operation(Action.NEW_SERVER, server(family, 3, TCP, "no-such")),
            Operation(Action.NEW_REAL, there, real(family, 1)),
            Operation(Action.NEW_REAL, there, real(family, 1)),
            Operation(Action.SET_REAL, there, real(family, 2)),
            Operation(Action.DELETE_REAL, there, real(family, 2)),
            Operation(Action.NEW_REAL, missing, real(family, 1)),
            Operation(Action.SET_SERVER, missing),
            Operation(Action.DELETE_SERVER, missing),
            Operation(Action.NEW_REAL, there, real(family, 3)),
        ]
    )
    assert names(results) == [
        *("", "EEXIST", "ENOENT", "", "EEXIST"),
        *("ENOENT", "ENOENT", "ESRCH", "ESRCH", "ESRCH", ""),
    ]
    assert {found.key for found in ipvs.real_servers(there)} == {real(family, 1), real(family, 3)}
    assert ipvs.real_servers(missing) == []


@both_families
def test_thousands_are_made_listed_and_deleted(ipvs: NetlinkIpvs, family: IPFamily) -> None:
    servers = [server(family, number, (TCP, UDP, SCTP)[number % 3]) for number in range(3000)]
    operations = []
    for number, made in enumerate(servers):
        operations.append(Operation(Action.NEW_SERVER, made))
        operations += [
            Operation(Action.NEW_REAL, made, real(family, 3 * number + one)) for one in range(3)
        ]
    assert not any(ipvs.apply(operations))
    assert ipvs.servers(family) == {made.key: made for made in servers}
    (other,) = set(IPFamily) - {family}
    assert ipvs.servers(other) == {}
    assert {found.key for found in ipvs.real_servers(servers[2999])} == {
        real(family, 8997 + one) for one in range(3)
    }
    assert not any(ipvs.apply([Operation(Action.DELETE_SERVER, made) for made in servers]))
    assert ipvs.servers(family) == {}


def test_all_real_servers_of_one_virtual_server_are_listed(ipvs: NetlinkIpvs) -> None:
    made = server(IPFamily.IPV4, 1)
    keys = [real(IPFamily.IPV4, number) for number in range(1000)]
    operations = [Operation(Action.NEW_REAL, made, key) for key in keys]
    assert not any(ipvs.apply([Operation(Action.NEW_SERVER, made), *operations]))
    assert {found.key for found in ipvs.real_servers(made)} == set(keys)


def test_open_connections_are_counted(ipvs: NetlinkIpvs, namespace: Namespace) -> None:
    namespace.ip(["link set lo up", "addr add 10.30.0.1/32 dev lo"])
    namespace.ip(["addr add 10.180.0.1/32 dev lo"])
    made = server(IPFamily.IPV4, 1)
    key = real(IPFamily.IPV4, 1)
    operations = [Operation(Action.NEW_SERVER, made), Operation(Action.NEW_REAL, made, key)]
    with socket.create_server(("10.180.0.1", 8443)) as listener:
        assert not any(ipvs.apply(operations))
        with socket.create_connection(("10.30.0.1", 443), timeout=10):
            listener.accept()[0].close()
            (found,) = ipvs.real_servers(made)
    assert (found.active + found.inactive, found.key) == (1, key)


def test_timeouts_of_0_are_kept(ipvs: NetlinkIpvs) -> None:
    assert ipvs.timeouts() == (900, 120, 300)
    ipvs.set_timeouts(0, 60, 0)
    assert ipvs.timeouts() == (900, 60, 300)
    ipvs.set_timeouts(1200, 0, 30)
    assert ipvs.timeouts() == (1200, 60, 30)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_of_the_kernel_is_found(
    ipvs: NetlinkIpvs, namespace: Namespace, name: str
) -> None:
    assert ipvs.has_scheduler(name)
    assert listed(namespace) == ""


@pytest.mark.parametrize("name", ["no-such", "far-too-long-for-a-scheduler"])
def test_a_missing_scheduler_is_told_and_nothing_is_left(
    ipvs: NetlinkIpvs, namespace: Namespace, name: str
) -> None:
    assert not ipvs.has_scheduler(name)
    assert listed(namespace) == ""


def test_a_scheduler_in_use_needs_no_trial_and_a_forgotten_trial_does_no_harm(
    ipvs: NetlinkIpvs, namespace: Namespace
) -> None:
    namespace.run(["ipvsadm", "-A", "-t", "198.51.100.0:20000", "-s", "rr"])
    assert ipvs.has_scheduler("rr")
    assert listed(namespace) == "-A -t 198.51.100.0:20000 -s rr\n"
    assert ipvs.has_scheduler("sh")
    assert listed(namespace) == ""
