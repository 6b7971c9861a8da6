"""The node's own addresses, as its kernel tells them and their changes."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator

import pytest

from kpctl.lab.netns import Namespace, create_all, delete_all
from proxy.kernel.addresses import AddressMonitor, local_addresses
from proxy.model.addresses import IPFamily, unpack_address
from tests.packets.flows.site import PREFIX
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

_serial = itertools.count(1)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace(f"{PREFIX}{os.getpid()}-addr{next(_serial)}")
    create_all([made])
    yield made
    delete_all([made])


def _addresses(namespace: Namespace, family: IPFamily) -> set[str]:
    with namespace.enter():
        return set(map(unpack_address, local_addresses(family)))


def test_addresses_of_all_interfaces_are_found_by_family(namespace: Namespace) -> None:
    namespace.ip(
        [
            "link add d0 type veth peer name d1",
            "link set d0 up",
            "addr add 192.0.2.1/24 dev d0",
            "addr add 192.0.2.2/24 dev lo",
            "addr add 2001:db8::1/64 dev d0",
        ]
    )
    assert _addresses(namespace, IPFamily.IPV4) == {"127.0.0.1", "192.0.2.1", "192.0.2.2"}
    assert {"::1", "2001:db8::1"} <= _addresses(namespace, IPFamily.IPV6)


def test_the_own_end_of_a_point_to_point_link_is_ours_and_the_other_is_not(
    namespace: Namespace,
) -> None:
    namespace.ip(["addr add 192.0.2.1 peer 192.0.2.9 dev lo"])
    found = _addresses(namespace, IPFamily.IPV4)
    assert "192.0.2.1" in found
    assert "192.0.2.9" not in found


def test_a_dump_of_many_addresses_is_complete(namespace: Namespace) -> None:
    namespace.ip(f"addr add 10.9.{n >> 8}.{n & 255}/32 dev lo" for n in range(2000))
    assert len(_addresses(namespace, IPFamily.IPV4)) == 2001


def test_every_change_wakes_the_monitor_and_closing_ends_it(namespace: Namespace) -> None:
    with namespace.enter():
        monitor = AddressMonitor()
    woken: list[None] = []
    thread = threading.Thread(target=_collect, args=(monitor, woken), daemon=True)
    thread.start()
    for change in ("add 192.0.2.1/32", "add 2001:db8::1/128", "del 192.0.2.1/32"):
        before = len(woken)
        namespace.ip([f"addr {change} dev lo"])
        eventually(lambda before=before: len(woken) > before)  # type: ignore[misc]
    monitor.close()
    thread.join(5)
    assert not thread.is_alive()


def _collect(monitor: AddressMonitor, woken: list[None]) -> None:
    for change in monitor.changes():
        woken.append(change)
