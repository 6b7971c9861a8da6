"""What would have been done to IPVS, ipsets and devices, in the words of their programs."""

from __future__ import annotations

import pytest

from proxy.kernel.dry_ipvs import AcceptingIpset, AcceptingIpvs, AcceptingLinks
from proxy.model.addresses import IPFamily, pack_address
from proxy.netfilter.ipset import SetEntry, SetHeader
from proxy.netfilter.ipvs import (
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    FLAG_SCHED_MH_FALLBACK,
    FLAG_SCHED_MH_PORT,
    Action,
    Operation,
    RealKey,
    ServerKey,
    VirtualServer,
)

VIP, POD = pack_address("10.96.0.1"), pack_address("10.180.0.1")
VIP6, POD6 = pack_address("fd00::1"), pack_address("fd00:1::2")
PLAIN = VirtualServer(ServerKey(VIP, 80, 6), "rr")
STICKY = VirtualServer(ServerKey(VIP6, 53, 17), "sh", FLAG_PERSISTENT, 10800)
MH = FLAG_SCHED_MH_FALLBACK | FLAG_SCHED_MH_PORT
HASHED = VirtualServer(ServerKey(VIP, 9, 132), "mh", MH)


@pytest.mark.parametrize(
    ("operation", "line"),
    [
        (Operation(Action.NEW_SERVER, PLAIN), "-A -t 10.96.0.1:80 -s rr"),
        (Operation(Action.NEW_SERVER, STICKY), "-A -u [fd00::1]:53 -s sh -p 10800"),
        (
            Operation(Action.SET_SERVER, HASHED),
            "-E --sctp-service 10.96.0.1:9 -s mh -b mh-fallback,mh-port",
        ),
        (
            Operation(Action.NEW_SERVER, VirtualServer(STICKY.key, "rr", FLAG_ONE_PACKET)),
            "-A -u [fd00::1]:53 -s rr -o",
        ),
        (Operation(Action.DELETE_SERVER, STICKY), "-D -u [fd00::1]:53"),
        (
            Operation(Action.NEW_REAL, STICKY, RealKey(POD6, 5353)),
            "-a -u [fd00::1]:53 -r [fd00:1::2]:5353 -m -w 1",
        ),
        (
            Operation(Action.SET_REAL, PLAIN, RealKey(POD, 8080), 0),
            "-e -t 10.96.0.1:80 -r 10.180.0.1:8080 -m -w 0",
        ),
        (
            Operation(Action.DELETE_REAL, PLAIN, RealKey(POD, 8080)),
            "-d -t 10.96.0.1:80 -r 10.180.0.1:8080",
        ),
    ],
)
def test_changes_of_servers_are_ipvsadms(operation, line) -> None:
    port = AcceptingIpvs()
    assert port.apply([operation]) == [None]
    assert port.lines == [line]


@pytest.mark.parametrize(
    ("kind", "bits", "entry", "created", "member"),
    [
        ("hash:ip", 32, SetEntry(VIP), "family inet maxelem 8", "10.96.0.1"),
        ("hash:ip,port", 128, SetEntry(VIP6, 17, 53), "family inet6 maxelem 8", "fd00::1,udp:53"),
        (
            "hash:ip,port,ip",
            32,
            SetEntry(VIP, 6, 80, POD),
            "family inet maxelem 8",
            "10.96.0.1,tcp:80,10.180.0.1",
        ),
        (
            "hash:ip,port,net",
            32,
            SetEntry(VIP, 132, 80, pack_address("10.0.0.0"), 8),
            "family inet maxelem 8",
            "10.96.0.1,sctp:80,10.0.0.0/8",
        ),
        ("bitmap:port", 0, SetEntry(port=30080), "range 0-65535", "30080"),
    ],
)
def test_sets_and_entries_are_worded_as_ipset_saves_them(
    kind, bits, entry, created, member
) -> None:
    port, header = AcceptingIpset(), SetHeader("KUBE-X", kind, bits)
    port.create(header, 8)
    assert port.add(header, [entry]) == [None]
    assert port.delete(header, [entry]) == [None]
    assert port.headers() == {"KUBE-X": header}
    assert port.lines == [
        f"create KUBE-X {kind} {created}",
        f"add KUBE-X {member}",
        f"del KUBE-X {member}",
    ]


def test_devices_and_addresses_are_those_of_ip() -> None:
    port = AcceptingLinks()
    port.add_dummy("kube-ipvs0")
    assert port.add_addresses("kube-ipvs0", [VIP, VIP6]) == [None, None]
    assert port.delete_addresses("kube-ipvs0", [VIP]) == [None]
    assert port.lines == [
        "link add kube-ipvs0 type dummy",
        "addr add 10.96.0.1/32 dev kube-ipvs0",
        "addr add fd00::1/128 dev kube-ipvs0",
        "addr delete 10.96.0.1/32 dev kube-ipvs0",
    ]
    assert port.addresses_of("kube-ipvs0", IPFamily.IPV4) == frozenset()
