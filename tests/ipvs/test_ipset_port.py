"""ipsets in the kernel, as ipset(8) sees them."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence

import pytest

from kpctl.lab.netns import Namespace
from proxy.kernel.ipset import ENTRIES_PER_REQUEST, NetlinkIpset, SetRefusal
from proxy.kernel.netlink import NetlinkError
from proxy.netfilter.ipset import SetEntry, SetHeader
from tests.support.ipvs_rig import packed

pytestmark = [pytest.mark.kernel]

TYPES = ("hash:ip", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net")
HEADERS = [
    *(SetHeader(f"four{number}", kind, 32) for number, kind in enumerate(TYPES)),
    *(SetHeader(f"six{number}", kind, 128) for number, kind in enumerate(TYPES)),
    SetHeader("ports", "bitmap:port", 0),
]
FAMILIES = {32: ["family", "inet"], 128: ["family", "inet6"]}
HASH_OPTIONS = ["hashsize", "1024", "maxelem", "65536"]
INITVAL = re.compile(r"0x[0-9a-f]{8}")


V4, V6 = packed("10.0.0.1"), packed("fd00::1")
ENTRIES = [
    ("hash:ip", 32, "10.0.0.1", SetEntry(V4)),
    ("hash:ip", 128, "fd00::1", SetEntry(V6)),
    ("hash:ip,port", 32, "10.0.0.1,tcp:80", SetEntry(V4, 6, 80)),
    ("hash:ip,port", 32, "10.0.0.1,sctp:65535", SetEntry(V4, 132, 65535)),
    ("hash:ip,port", 128, "fd00::1,udp:53", SetEntry(V6, 17, 53)),
    ("hash:ip,port,ip", 32, "10.0.0.1,udp:53,10.0.0.1", SetEntry(V4, 17, 53, V4)),
    ("hash:ip,port,ip", 128, "fd00::1,sctp:53,fd00::1", SetEntry(V6, 132, 53, V6)),
    (
        "hash:ip,port,net",
        32,
        "10.0.0.1,tcp:80,192.0.2.0/24",
        SetEntry(V4, 6, 80, packed("192.0.2.0"), 24),
    ),
    (
        "hash:ip,port,net",
        32,
        "10.0.0.1,tcp:80,192.0.2.7",
        SetEntry(V4, 6, 80, packed("192.0.2.7"), 32),
    ),
    (
        "hash:ip,port,net",
        128,
        "fd00::1,udp:80,2001:db8::/32",
        SetEntry(V6, 17, 80, packed("2001:db8::"), 32),
    ),
    ("bitmap:port", 0, "30080", SetEntry(port=30080)),
]


@pytest.fixture
def ipset(namespace: Namespace) -> Iterator[NetlinkIpset]:
    port = NetlinkIpset()
    yield port
    port.close()


def saved(namespace: Namespace) -> list[str]:
    text = namespace.run(["ipset", "save"]).stdout
    return sorted(INITVAL.sub("0x…", text).splitlines())


def create_with_ipset(namespace: Namespace, header: SetHeader) -> None:
    options = [*FAMILIES[header.bits], *HASH_OPTIONS] if header.bits else ["range", "0-65535"]
    namespace.run(["ipset", "create", header.name, header.type, *options])


def accepted(results: Sequence[NetlinkError | None]) -> list[bool]:
    return [result is None for result in results]


def services(count: int) -> list[SetEntry]:
    return [
        SetEntry(b"\x0a" + number.to_bytes(3, "big"), (6, 17, 132)[number % 3], 1 + number % 1000)
        for number in range(count)
    ]


def test_sets_are_what_ipset_makes(ipset: NetlinkIpset, namespace: Namespace) -> None:
    for header in HEADERS:
        create_with_ipset(namespace, header)
    details = ["ipset", "list", "-terse"]
    theirs = saved(namespace), INITVAL.sub("", namespace.run(details).stdout)
    namespace.run(["ipset", "destroy"])
    for header in HEADERS:
        ipset.create(header)
    ours = saved(namespace), INITVAL.sub("", namespace.run(details).stdout)
    assert len(ours[0]) == len(HEADERS)
    assert ours == theirs


def test_existing_sets_of_the_same_type_stay(ipset: NetlinkIpset, namespace: Namespace) -> None:
    for header in HEADERS:
        create_with_ipset(namespace, header)
    namespace.run(["ipset", "add", "four0", "10.0.0.1"])
    before = saved(namespace)
    for header in HEADERS:
        ipset.create(header)
        ipset.create(header, max_elements=100)
    assert saved(namespace) == before
    assert ipset.headers() == {header.name: header for header in HEADERS}


@pytest.mark.parametrize(
    "other", [SetHeader("A", "hash:ip", 128), SetHeader("A", "hash:ip,port", 32)]
)
def test_a_name_taken_by_another_type_is_told(ipset: NetlinkIpset, other: SetHeader) -> None:
    ipset.create(SetHeader("A", "hash:ip", 32))
    with pytest.raises(SetRefusal, match=r"ipset A: is there already as hash:ip ") as refusal:
        ipset.create(other)
    assert refusal.value.errno == errno.EEXIST


def test_a_type_that_the_kernel_lacks_is_told_with_its_module(ipset: NetlinkIpset) -> None:
    with pytest.raises(SetRefusal, match=r"ipset A: .*module ip_set_hash_nosuch"):
        ipset.create(SetHeader("A", "hash:nosuch", 32))


@pytest.mark.parametrize(("kind", "bits", "text", "entry"), ENTRIES)
def test_entries_are_the_same_for_ipset_and_for_us(
    ipset: NetlinkIpset, namespace: Namespace, kind: str, bits: int, text: str, entry: SetEntry
) -> None:
    header = SetHeader("A", kind, bits)
    ipset.create(header)
    assert ipset.add(header, [entry]) == [None]
    assert saved(namespace)[0] == f"add A {text}"
    assert ipset.delete(header, [entry]) == [None]
    assert len(saved(namespace)) == 1
    namespace.run(["ipset", "add", "A", text])
    assert ipset.entries("A") == {entry}


def test_entries_with_comments_and_timeouts_are_read(
    ipset: NetlinkIpset, namespace: Namespace
) -> None:
    namespace.run(["ipset", "create", "A", "hash:ip,port", "timeout", "600", "counters", "comment"])
    namespace.run(["ipset", "add", "A", "10.0.0.1,tcp:80", "comment", "why"])
    namespace.run(["ipset", "add", "A", "10.0.0.1,udp:53"])
    assert ipset.entries("A") == {SetEntry(V4, 6, 80), SetEntry(V4, 17, 53)}


def test_repeated_changes_are_no_errors(ipset: NetlinkIpset) -> None:
    header = SetHeader("A", "hash:ip", 32)
    ipset.create(header)
    for _ in range(2):
        assert ipset.add(header, [SetEntry(V4), SetEntry(V4)]) == [None, None]
    for _ in range(2):
        assert ipset.delete(header, [SetEntry(V4), SetEntry(V4)]) == [None, None]
    assert (ipset.add(header, []), ipset.delete(header, [])) == ([], [])


def test_tens_of_thousands_are_added_listed_and_deleted(ipset: NetlinkIpset) -> None:
    header = SetHeader("A", "hash:ip,port", 32)
    ipset.create(header)
    wanted = services(40_000)
    assert not any(ipset.add(header, iter(wanted)))
    assert ipset.entries("A") == set(wanted)
    assert not any(ipset.delete(header, wanted[:20_000]))
    assert ipset.entries("A") == set(wanted[20_000:])
    ipset.flush("A")
    assert ipset.entries("A") == set()


def test_a_full_set_takes_what_it_can_and_says_so(ipset: NetlinkIpset) -> None:
    header = SetHeader("A", "hash:ip", 32)
    room = ENTRIES_PER_REQUEST + 10
    ipset.create(header, max_elements=room)
    entries = [SetEntry(b"\x0a\0" + number.to_bytes(2, "big")) for number in range(1, room + 50)]
    results = ipset.add(header, entries)
    assert accepted(results) == [number < room for number in range(len(entries))]
    assert isinstance(results[-1], SetRefusal)
    assert (results[-1].errno, results[-1].strerror) == (errno.ENOSPC, "ipset A: it is full")


def test_one_refused_entry_does_not_stop_the_others(ipset: NetlinkIpset) -> None:
    header = SetHeader("A", "hash:ip,port,net", 32)
    ipset.create(header)
    good = [SetEntry(V4, 6, port, packed("192.0.2.0"), 24) for port in range(1, 1000)]
    bad = SetEntry(V4, 6, 80, packed("0.0.0.0"), 0)
    results = ipset.add(header, [*good[:600], bad, *good[600:]])
    assert accepted(results) == [True] * 600 + [False] + [True] * 399
    assert "prefix" in str(results[600])
    assert ipset.entries("A") == set(good)


def test_a_missing_set_is_told_by_its_name(ipset: NetlinkIpset) -> None:
    (refusal,) = ipset.add(SetHeader("A", "hash:ip", 32), [SetEntry(V4)])
    assert isinstance(refusal, SetRefusal)
    assert refusal.errno == errno.ENOENT
    for ask in (ipset.entries, ipset.flush):
        with pytest.raises(SetRefusal, match="ipset A: there is no such set") as raised:
            ask("A")
        assert raised.value.errno == errno.ENOENT


def test_a_set_in_use_is_not_destroyed(ipset: NetlinkIpset, namespace: Namespace) -> None:
    ipset.create(SetHeader("A", "hash:ip", 32))
    namespace.run(["ipset", "create", "outer", "list:set"])
    namespace.run(["ipset", "add", "outer", "A"])
    with pytest.raises(SetRefusal, match="ipset A: it is in use") as refusal:
        ipset.destroy("A")
    assert refusal.value.errno == errno.EBUSY
    assert ipset.headers()["outer"] == SetHeader("outer", "list:set", 0)
    with pytest.raises(ValueError, match="list:set"):
        ipset.entries("outer")
    ipset.destroy("outer")
    for _ in range(2):  # one that is gone is no error
        ipset.destroy("A")
    assert ipset.headers() == {}
