"""What the engine does when the kernel refuses, fails, or holds something else than remembered."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest

from proxy.backends.nftables import layout, requests
from proxy.backends.nftables.requests import Change
from proxy.engine.repairs import RepairPacing
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import pack_address
from proxy.model.events import Resource
from tests.support.engine_rig import (
    TABLE,
    Rig,
    endpoint_slice,
    foreign_edit,
    many_services,
    removed,
    service,
    udp,
    vip_key,
)
from tests.support.fake_nft import FakeChain, FakeSet

# Part of the keys of one address in the maps, but not of the set of ClusterIPs.
POISON = vip_key("10.96.0.66")
HOUR_S = 3600


@pytest.fixture
def rig(monkeypatch):
    made = Rig(monkeypatch)
    made.start(*many_services(3))
    return made


def refused(rig: Rig) -> dict[str, str]:
    return rig.engine.last_result["IPv4"]["refused"]  # type: ignore[return-value]


def poisoned(name: str = "bad", ip: str = "10.96.0.66") -> tuple[object, object]:
    return service(name, ip), endpoint_slice(name, ["10.180.0.66"])


def test_a_refused_service_is_named_and_all_others_are_written(rig) -> None:
    rig.nft.refuse(POISON)
    rig.turn(*poisoned(), *poisoned("good", "10.96.0.77"))
    assert list(refused(rig)) == ["ns/bad"]
    assert rig.serves("10.96.0.77")
    assert not rig.serves("10.96.0.66")
    assert rig.metrics.failed_service_ports.values == {("IPv4",): 1}
    [event] = rig.told.events
    assert (event.regarding.namespace, event.regarding.name) == ("ns", "bad")
    assert "ns/bad" in event.note
    assert "Invalid argument" in event.note


def test_a_refused_change_leaves_the_service_as_it_was(rig) -> None:
    rig.nft.refuse(vip_key("10.96.0.1"))
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert list(refused(rig)) == ["ns/svc-0"]
    assert len(rig.endpoints_of("10.96.0.1")) == 3
    assert "10.200.0.1" not in rig.endpoints_of("10.96.0.1")


def test_a_refused_service_is_tried_again_with_growing_pauses_until_it_succeeds(rig) -> None:
    rig.nft.refuse(POISON)
    rig.turn(*poisoned())
    pauses = []
    for _ in range(12):
        pauses.append(rig.until_due())
        rig.after(rig.until_due())
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300])
    rig.nft.allow(POISON)
    rig.after(rig.until_due())
    assert rig.serves("10.96.0.66")
    assert rig.metrics.failed_service_ports.values == {("IPv4",): 0}
    assert rig.until_due() > 300


def test_a_refused_service_is_not_tried_before_its_pause_is_over(rig) -> None:
    rig.nft.refuse(POISON)
    rig.turn(*poisoned())
    tried = len(rig.nft.transactions)
    rig.after(0.9)
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert len(rig.nft.transactions) == tried + 1  # only the other service


def test_a_new_version_of_a_refused_service_is_tried_at_once(rig) -> None:
    rig.nft.refuse(vip_key("10.96.0.66", 80))
    rig.turn(*poisoned())
    rig.turn(service("bad", "10.96.0.66", ports=[{"port": 81, "protocol": "TCP"}]))
    assert rig.serves("10.96.0.66", 81)
    assert not rig.reconciler.failures


def test_a_refused_service_that_is_deleted_is_forgotten(rig) -> None:
    rig.nft.refuse(POISON)
    rig.turn(*poisoned())
    rig.turn(removed(Resource.SERVICE, "bad"))
    assert not rig.reconciler.failures
    rig.nft.allow(POISON)
    rig.after(HOUR_S / 2)
    assert not rig.serves("10.96.0.66")


def test_several_services_refused_at_once_are_all_named(rig) -> None:
    ips = {f"bad-{n}": f"10.96.66.{n}" for n in range(1, 5)}
    for ip in ips.values():
        rig.nft.refuse(vip_key(ip))
    made = [obj for name, ip in ips.items() for obj in poisoned(name, ip)]
    rig.turn(*made, *poisoned("good", "10.96.0.77"))
    assert sorted(refused(rig)) == [f"ns/{name}" for name in ips]
    assert rig.serves("10.96.0.77")


def test_a_restate_does_not_touch_what_is_right(rig) -> None:
    rig.nft.refuse(vip_key("10.96.0.2"))
    rig.after(1.2 * HOUR_S)
    assert rig.engine.last_result["IPv4"]["full"] is True
    assert rig.serves("10.96.0.2")
    assert not refused(rig)


def test_a_refusal_in_a_restate_costs_only_the_refused_service(rig) -> None:
    item = layout.sets(rig.reconciler.table.settings.family)[layout.SERVICE_IPS]
    for address in ("10.96.0.2", "10.96.0.3"):
        missing = Change(vip_key(address), b"", None)
        rig.nft.apply(list(requests.delete_elements(item, [missing])))
    rig.nft.refuse(vip_key("10.96.0.2"))
    rig.after(1.2 * HOUR_S)
    assert [rig.serves(f"10.96.0.{n}") for n in (1, 2, 3)] == [True, False, True]
    assert list(refused(rig)) == ["ns/svc-1"]
    rig.nft.allow(vip_key("10.96.0.2"))
    rig.after(rig.until_due())
    assert rig.serves("10.96.0.2")


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EBUSY, errno.ENOENT])
def test_a_service_whose_refusal_looks_like_lost_memory_cannot_freeze_the_node(rig, number) -> None:
    rig.nft.refuse(POISON, number)
    rig.turn(*poisoned())
    assert list(refused(rig)) == ["ns/bad"]
    assert rig.until_due() >= 1
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}


def test_what_is_missing_in_the_kernel_makes_one_restate(rig) -> None:
    missing = Change(vip_key("10.96.0.1"), b"", None)
    item = layout.sets(rig.reconciler.table.settings.family)[layout.SERVICE_IPS]
    rig.nft.apply(list(requests.delete_elements(item, [missing])))
    assert not rig.serves("10.96.0.1")
    tried = len(rig.nft.transactions)
    rig.turn(removed(Resource.SERVICE, "svc-0"), *poisoned("new", "10.96.0.77"))
    assert len(rig.nft.transactions) == tried + 2
    assert rig.engine.last_result["IPv4"]["full"] is True
    assert rig.serves("10.96.0.2")
    assert rig.serves("10.96.0.77")
    assert rig.until_due() > 300


def test_a_deleted_table_is_made_again(rig) -> None:
    del rig.nft.tables[TABLE]
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}
    assert rig.serves("10.96.0.3")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOMEM, errno.ENOBUFS])
def test_a_kernel_that_fails_is_asked_again_with_growing_pauses(rig, number) -> None:
    rig.nft.fail(number, times=6)
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    pauses = []
    while not rig.reconciler.in_sync:
        pauses.append(rig.until_due())
        rig.after(rig.until_due())
    # The first failure is answered by a restate at once, in the same turn.
    assert pauses == pytest.approx([1, 2, 4, 8, 16])
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}
    assert rig.metrics.nftables_sync_failures.values == {("IPv4",): 6}


def test_health_goes_bad_while_a_change_waits_too_long_and_recovers(rig) -> None:
    assert rig.health.livez().status == 200
    rig.nft.fail(errno.ENOMEM, times=1000)
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    rig.after(59)
    assert rig.health.livez().status == 200
    rig.after(1)
    assert rig.health.livez().status == 503
    assert rig.health.healthz().status == 503
    rig.nft.recover()
    rig.after(300)
    assert rig.health.livez().status == 200
    assert rig.health.healthz().status == 200


def test_nothing_fails_health_when_nothing_changes(rig) -> None:
    rig.time.now += 100 * HOUR_S
    assert rig.health.healthz().status == 200


def test_a_service_deleted_while_the_kernel_failed_does_not_come_back(rig) -> None:
    rig.nft.refuse(POISON)
    rig.turn(*poisoned())
    rig.nft.fail(errno.ENOMEM, times=2)
    rig.turn(removed(Resource.SERVICE, "svc-0"))
    rig.turn(removed(Resource.SERVICE, "bad"))
    rig.nft.recover()
    rig.nft.allow(POISON)
    rig.after(10)
    rig.after(600)
    assert not rig.serves("10.96.0.66")
    assert not rig.reconciler.failures


def test_a_kernel_that_cannot_be_read_is_not_asked_without_a_pause(rig) -> None:
    rig.nft.unreadable = NetlinkError(errno.ENOBUFS)
    rig.turn(foreign_edit())
    rig.turn()  # the first attempt may follow at once
    assert rig.until_due() > 0
    rig.nft.unreadable = None
    del rig.nft.tables[TABLE]
    rig.after(rig.until_due())
    assert rig.serves("10.96.0.1")


def test_flows_of_a_change_that_only_a_restate_could_write_are_cleaned_up(monkeypatch) -> None:
    rig = Rig(monkeypatch)
    rig.start(
        service("dns", "10.96.0.1", ports=udp()),
        endpoint_slice("dns", ["10.180.0.1", "10.180.0.2"], protocol="UDP"),
    )
    rig.told.requests.clear()
    rig.nft.fail(errno.ENOMEM, times=2)
    rig.turn(endpoint_slice("dns", ["10.180.0.2"], protocol="UDP"))
    rig.after(1)
    assert rig.endpoints_of("10.96.0.1", 53, "UDP") == {"10.180.0.2"}
    gone = {place for request in rig.told.requests for place in request.removed_endpoints or ()}
    assert gone == {bytes((10, 180, 0, 1)) + (8080).to_bytes(2, "big")}


def test_flows_of_a_change_that_was_refused_first_are_cleaned_up(monkeypatch) -> None:
    rig = Rig(monkeypatch)
    rig.start(
        service("dns", "10.96.0.1", ports=udp()),
        endpoint_slice("dns", ["10.180.0.1", "10.180.0.2"], protocol="UDP"),
    )
    rig.told.requests.clear()
    # Only the entry of the first index is written anew when the other endpoint moves up.
    rig.nft.refuse(vip_key("10.96.0.1", 53, "UDP"))
    rig.turn(endpoint_slice("dns", ["10.180.0.2"], protocol="UDP"))
    rig.nft.allow(vip_key("10.96.0.1", 53, "UDP"))
    rig.after(1)
    assert rig.endpoints_of("10.96.0.1", 53, "UDP") == {"10.180.0.2"}
    assert any(not request.empty for request in rig.told.requests)


def test_a_set_of_another_type_under_our_name_is_replaced(rig) -> None:
    rig.nft.tables[TABLE].sets[layout.CLUSTER_IPS] = FakeSet(type=(b"another",))
    rig.turn(foreign_edit("set"))
    assert rig.nft.keys(TABLE, layout.CLUSTER_IPS) == {bytes((10, 96, 0, n)) for n in (1, 2, 3)}
    assert rig.serves("10.96.0.3")


def test_a_foreign_chain_in_the_table_is_deleted_by_the_repair(rig) -> None:
    rig.nft.tables[TABLE].chains["evil"] = FakeChain()
    rig.turn(foreign_edit("chain"))
    assert "evil" not in rig.nft.chains(TABLE)


def test_a_foreign_edit_is_repaired_at_once_and_counted(rig) -> None:
    del rig.nft.tables[TABLE]
    rig.turn(foreign_edit("table"))
    assert rig.serves("10.96.0.1")
    assert rig.metrics.self_repairs.values == {("IPv4", "table"): 1}
    assert rig.until_due() > 300


def test_repairs_that_follow_each_other_are_paced(rig) -> None:
    restated = []
    for _ in range(200):
        before = rig.nft.accepted
        rig.turn(foreign_edit("element"))
        if rig.nft.accepted > before:
            restated.append(rig.time.now)
        rig.time.now += 0.25
    pauses = [b - a for a, b in pairwise(restated)]
    assert pauses == [0.5, 1, 2, 4, 8, 16]
    assert rig.metrics.self_repairs.values == {("IPv4", "element"): 200}


def test_pacing_forgets_a_quarrel_that_is_over() -> None:
    pacing = RepairPacing()
    pacing.needed(100.0)
    assert pacing.due == 100.0
    pacing.done(100.0)
    pacing.needed(100.1)
    assert pacing.due == 100.5
    pacing.done(100.5)
    pacing.needed(120.0)
    assert pacing.due == 120.0


def test_pacing_never_waits_longer_than_half_a_minute() -> None:
    pacing, now = RepairPacing(), 0.0
    for _ in range(20):
        pacing.needed(now)
        now = pacing.due
        pacing.done(now)
    pacing.needed(now)
    assert pacing.due == now + 30.0


def test_everything_is_restated_about_once_an_hour(rig) -> None:
    rig.after(0.85 * HOUR_S)
    written = rig.nft.accepted
    rig.after(0.3 * HOUR_S)
    assert rig.nft.accepted == written + 1
    assert rig.engine.last_result["IPv4"]["full"] is True
    assert 0.9 * HOUR_S <= rig.until_due() <= 1.1 * HOUR_S


def test_chains_that_cannot_be_deleted_are_counted_and_tried_again(rig) -> None:
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1", "10.200.0.2"]))
    rig.nft.fail(errno.EBUSY, after=1)  # the restatement passes, the deletion does not
    rig.after(1.2 * HOUR_S)
    assert "lb-1" in rig.nft.chains(TABLE)
    assert rig.metrics.nftables_cleanup_failures.values["IPv4",] == 1
    rig.after(1.2 * HOUR_S)
    assert "lb-1" not in rig.nft.chains(TABLE)


def test_the_restate_deletes_shared_chains_that_nobody_uses(rig) -> None:
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1", "10.200.0.2"]))
    assert {"lb-1", "lb-2", "lb-3"} <= rig.nft.chains(TABLE)
    rig.after(1.2 * HOUR_S)
    assert {"lb-1", "lb-2", "lb-3"} & rig.nft.chains(TABLE) == {"lb-2", "lb-3"}
    rig.turn(endpoint_slice("svc-1", ["10.200.0.9"]))
    assert rig.chain_of("10.96.0.2").endswith("lb-1")


def test_node_addresses_that_cannot_be_read_do_not_end_the_proxy(rig, monkeypatch) -> None:
    from proxy.engine.loop import AddressesChanged, Kernel
    from proxy.engine.nftables.plane import NftablesPlane

    def interrupted(_family: object) -> frozenset[bytes]:
        raise NetlinkError(errno.EINTR)

    monkeypatch.setattr(rig.engine, "_kernel", Kernel(NftablesPlane(rig.ports), interrupted))
    rig.turn(AddressesChanged())
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}


def test_remembered_clients_of_an_endpoint_that_left_are_forgotten(monkeypatch) -> None:
    rig = Rig(monkeypatch)
    sticky = service("web", "10.96.0.1", sessionAffinity="ClientIP")
    rig.start(sticky, endpoint_slice("web", ["10.180.0.1", "10.180.0.2"]))
    item = layout.sets(rig.reconciler.table.settings.family)[layout.AFFINITY]
    clients = {last: bytes((10, 0, 0, last)) + vip_key("10.96.0.1") for last in (1, 2)}
    learned = [
        Change(key, (pack_address(f"10.180.0.{last}") or b"") + b"\x1f\x90\0\0", None)
        for last, key in clients.items()
    ]
    rig.nft.apply(list(requests.add_elements(item, learned, False)))
    rig.turn(endpoint_slice("web", ["10.180.0.2"]))
    assert rig.nft.keys(TABLE, layout.AFFINITY) == {clients[2]}
