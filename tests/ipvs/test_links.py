"""kube-ipvs0 and its addresses in the kernel, as ip(8) sees them."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator

import pytest

from kpctl.lab.netns import Namespace
from proxy.backends.ipvs.names import DEVICE
from proxy.kernel.links import NetlinkLinks
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily
from tests.support.ipvs_rig import packed

pytestmark = [pytest.mark.kernel]

PREFIXES = {IPFamily.IPV4: "10.30.0.0", IPFamily.IPV6: "fd00:30::"}
both_families = pytest.mark.parametrize("family", list(IPFamily))


@pytest.fixture
def links(namespace: Namespace) -> Iterator[NetlinkLinks]:
    port = NetlinkLinks()
    yield port
    port.close()


def vips(family: IPFamily, count: int) -> list[bytes]:
    prefix = packed(PREFIXES[family])[:-2]
    return [prefix + number.to_bytes(2, "big") for number in range(1, count + 1)]


def shown(namespace: Namespace) -> list[dict[str, object]]:
    return json.loads(namespace.run(["ip", "-json", "addr", "show", "dev", DEVICE]).stdout)


def test_the_device_is_a_dummy_that_stays_down(links: NetlinkLinks, namespace: Namespace) -> None:
    assert not links.link_exists(DEVICE)
    links.add_dummy(DEVICE)
    links.add_dummy(DEVICE)
    assert links.link_exists(DEVICE)
    kinds = json.loads(namespace.run(["ip", "-json", "link", "show", "type", "dummy"]).stdout)
    assert [(link["ifname"], link["flags"]) for link in kinds] == [(DEVICE, ["BROADCAST", "NOARP"])]
    links.delete_link(DEVICE)
    links.delete_link(DEVICE)
    assert not links.link_exists(DEVICE)


def test_a_device_of_another_type_stays(links: NetlinkLinks, namespace: Namespace) -> None:
    namespace.ip([f"link add {DEVICE} type veth peer name peer"])
    links.add_dummy(DEVICE)
    assert namespace.run(["ip", "link", "show", "type", "veth", "dev", DEVICE]).stdout


def test_a_name_that_no_device_may_have_is_refused(links: NetlinkLinks) -> None:
    with pytest.raises(NetlinkError):
        links.add_dummy("a-name-longer-than-15")


def test_addresses_are_those_of_hosts_and_in_use_at_once(
    links: NetlinkLinks, namespace: Namespace
) -> None:
    links.add_dummy(DEVICE)
    assert not any(links.add_addresses(DEVICE, [packed("10.30.0.1"), packed("fd00:30::1")]))
    (device,) = shown(namespace)
    four, six = device["addr_info"]
    assert (four["local"], four["prefixlen"], four["scope"]) == ("10.30.0.1", 32, "global")
    assert (six["local"], six["prefixlen"], six["scope"]) == ("fd00:30::1", 128, "global")
    assert four["label"] == DEVICE
    assert "tentative" not in six


@both_families
def test_repeated_changes_are_no_errors(links: NetlinkLinks, family: IPFamily) -> None:
    links.add_dummy(DEVICE)
    wanted = vips(family, 3)
    for _ in range(2):
        assert links.add_addresses(DEVICE, wanted) == [None] * 3
    assert links.addresses_of(DEVICE, family) == set(wanted)
    for _ in range(2):
        assert links.delete_addresses(DEVICE, wanted[1:]) == [None] * 2
    assert links.addresses_of(DEVICE, family) == {wanted[0]}
    assert links.add_addresses(DEVICE, []) == []


@both_families
def test_thousands_are_added_listed_and_deleted(links: NetlinkLinks, family: IPFamily) -> None:
    links.add_dummy(DEVICE)
    wanted = vips(family, 3000)
    assert not any(links.add_addresses(DEVICE, iter(wanted)))
    assert links.addresses_of(DEVICE, family) == set(wanted)
    assert not set(wanted) & links.addresses_elsewhere(DEVICE, family)
    assert not any(links.delete_addresses(DEVICE, wanted[1:]))
    assert links.addresses_of(DEVICE, family) == {wanted[0]}


@both_families
def test_addresses_of_other_devices_are_told_apart(
    links: NetlinkLinks, namespace: Namespace, family: IPFamily
) -> None:
    ours, shared, theirs = vips(family, 3)
    links.add_dummy(DEVICE)
    namespace.ip(["link add d0 type veth peer name d1", "link set lo up"])
    links.add_addresses(DEVICE, [ours, shared])
    links.add_addresses("d0", [shared, theirs])
    loopback = {packed("127.0.0.1" if family is IPFamily.IPV4 else "::1")}
    assert links.addresses_of(DEVICE, family) == {ours, shared}
    assert links.addresses_elsewhere(DEVICE, family) == {shared, theirs} | loopback
    assert links.addresses_elsewhere("nosuch", family) == {ours, shared, theirs} | loopback
    assert links.addresses_of("nosuch", family) == frozenset()


def test_one_refused_address_does_not_stop_the_others(links: NetlinkLinks) -> None:
    links.add_dummy(DEVICE)
    good = vips(IPFamily.IPV6, 2)
    results = links.add_addresses(DEVICE, [good[0], packed("ff02::1"), good[1]])
    assert [result is None for result in results] == [True, False, True]
    assert links.addresses_of(DEVICE, IPFamily.IPV6) == set(good)


def test_a_missing_device_is_told_by_its_name(links: NetlinkLinks) -> None:
    for change in (links.add_addresses, links.delete_addresses):
        with pytest.raises(NetlinkError, match=DEVICE) as refusal:
            change(DEVICE, vips(IPFamily.IPV4, 1))
        assert refusal.value.errno == errno.ENODEV
