"""IPVS mode when the kernel refuses something, or somebody else changes what is ours."""

from __future__ import annotations

import errno
import re
from typing import Any

import pytest

from proxy.backends.ipvs import names
from proxy.backends.ipvs.names import DEVICE
from proxy.engine.ipvs.reconciler import VERIFY_PORTS
from proxy.engine.loop import AddressesChanged
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.model.events import Resource
from proxy.netfilter.ipvs import RealServer, VirtualServer
from tests.support.engine_rig import V4, V6, endpoint_slice, many_services, removed, service
from tests.support.fake_ipvs import FakeNode
from tests.support.ipvs_rig import IpvsRig, key, packed

BAD_IP, GOOD_IP, FIRST_IP = "10.96.0.66", "10.96.0.77", "10.96.0.1"
VERIFY_S = 30.0
BACKENDS = pytest.mark.parametrize("rig", [False, True], indirect=True, ids=["nft", "legacy"])


@pytest.fixture
def rig(monkeypatch, request) -> IpvsRig:
    """Three Services that are served; the backend is legacy, as where IPVS runs in tests."""
    made = IpvsRig(monkeypatch, kernel=FakeNode(legacy=getattr(request, "param", True)))
    made.start(*many_services(3))
    made.kernel.done()
    return made


def refused(rig: IpvsRig) -> dict[str, str]:
    return rig.engine.last_result["IPv4"]["refused"]  # type: ignore[return-value]


def last_error(rig: IpvsRig) -> object:
    return rig.engine.last_result["IPv4"]["error"]


def repairs(rig: IpvsRig) -> float:
    return sum(rig.metrics.self_repairs.values.values())


def bad(name: str = "bad", ip: str = BAD_IP, **spec: object) -> tuple[object, object]:
    return service(name, ip, **spec), endpoint_slice(name, ["10.180.0.66"])


def refuse(rig: IpvsRig, verb: str, code: int = errno.EPERM) -> None:
    """Refuse what concerns the bad Service's address."""
    vip = packed(BAD_IP)

    def asked(what: str, subject: Any) -> int:
        return code if what == verb and vip in _flat(subject) else 0

    rig.kernel.refuse = asked


def _flat(subject: Any) -> list[Any]:
    if isinstance(subject, tuple):
        return [leaf for part in subject for leaf in _flat(part)]
    return [subject]


def allow(rig: IpvsRig) -> None:
    rig.kernel.refuse = lambda _verb, _subject: 0


# -- refusals --------------------------------------------------------------------------------


@BACKENDS
@pytest.mark.parametrize("verb", ["server+", "real+", "bind", "entry+"])
@pytest.mark.parametrize("at_start", [False, True], ids=["change", "start"])
def test_a_refusal_puts_aside_its_service_only(monkeypatch, rig, verb, at_start) -> None:
    if at_start:
        rig = IpvsRig(monkeypatch)
        refuse(rig, verb)
        rig.start(*many_services(3), *bad(), *bad("good", GOOD_IP))
    else:
        refuse(rig, verb)
        rig.turn(*bad(), *bad("good", GOOD_IP))
    assert (last_error(rig), list(refused(rig))) == ("", ["ns/bad"])
    assert rig.metrics.failed_service_ports.values == {("IPv4",): 1}
    assert [event.regarding.name for event in rig.told.events] == ["bad"]
    for ip in (FIRST_IP, GOOD_IP):
        assert rig.reals(ip)
        assert packed(ip) in rig.kernel.links.devices[DEVICE]
    allow(rig)
    rig.after(1.0)
    assert rig.reals(BAD_IP) == {"10.180.0.66": 1}
    assert packed(BAD_IP) in rig.kernel.links.devices[DEVICE]
    assert rig.metrics.failed_service_ports.values == {("IPv4",): 0}
    assert rig.until_due() > 1


def test_a_full_set_is_told_with_its_name(rig) -> None:
    rig.kernel.ipset.room = len(rig.kernel.ipset.entries("KUBE-CLUSTER-IP"))
    rig.turn(*bad())
    # Both are as long; which one is filled first does not matter.
    assert re.search("ipset KUBE-(CLUSTER-IP|IPVS-IPS): it is full", refused(rig)["ns/bad"])
    rig.kernel.ipset.room += 1
    rig.after(1.0)
    assert refused(rig) == {}


def test_a_service_that_stays_refused_is_tried_less_and_less_often(rig) -> None:
    refuse(rig, "server+")
    rig.turn(*bad())
    pauses = []
    for _ in range(4):
        pauses.append(round(rig.until_due()))
        rig.after(pauses[-1])
    assert pauses == [1, 2, 4, 8]


def test_a_service_that_stays_refused_is_nobodys_edit(rig) -> None:
    """What is missing for a known reason is not what others deleted."""
    refuse(rig, "server+")
    rig.turn(*bad())
    for _ in range(30):
        rig.after(10.0)
    assert (repairs(rig), list(refused(rig))) == (0, ["ns/bad"])
    del rig.kernel.ipvs.content[key(FIRST_IP)]
    rig.after(VERIFY_S)
    rig.after(VERIFY_S)
    assert rig.serves(FIRST_IP)


def test_a_refused_service_may_go(rig) -> None:
    refuse(rig, "real+")
    rig.turn(*bad())
    rig.turn(removed(Resource.SERVICE, "bad"))
    assert refused(rig) == {}
    assert not rig.serves(BAD_IP)
    assert packed(BAD_IP) not in rig.kernel.links.devices[DEVICE]
    assert rig.metrics.failed_service_ports.values == {("IPv4",): 0}


def test_a_change_of_addresses_does_not_forget_what_was_refused(rig) -> None:
    refuse(rig, "real+")
    rig.turn(*bad())
    rig.set_addresses("192.168.0.10", "192.168.0.11")
    rig.turn(AddressesChanged())
    assert rig.metrics.failed_service_ports.values == {("IPv4",): 1}
    allow(rig)
    rig.after(4.0)
    assert rig.reals(BAD_IP) == {"10.180.0.66": 1}


def test_a_retry_counts_nothing_twice(rig) -> None:
    """Services whose Local policy finds nobody are counted once, however often all is restated."""
    local = {"type": "NodePort", "externalTrafficPolicy": "Local"}
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
    rig.turn(*bad("lone", GOOD_IP, ports=ports, **local))
    gauge = rig.metrics.no_local_endpoints.values
    assert gauge["external", "IPv4"] == 1
    refuse(rig, "real+")
    rig.turn(*bad())
    rig.after(1.0)
    rig.after(2.0)
    allow(rig)
    rig.after(4.0)
    assert refused(rig) == {}
    assert gauge["external", "IPv4"] == 1


def test_trouble_restates_at_once_and_then_with_pauses(rig) -> None:
    pauses = []
    for number in range(4):
        rig.kernel.links.devices.clear()
        rig.turn(*bad(f"more-{number}", f"10.96.9.{number}"))
        pauses.append(rig.until_due() if last_error(rig) else 0.0)
        rig.after(pauses[-1])
        assert last_error(rig) == ""
        assert packed(f"10.96.9.{number}") in rig.kernel.links.devices[DEVICE]
    assert pauses == [0.0, 0.5, 1.0, 2.0]


def test_iptables_that_fail_lose_no_change(rig) -> None:
    rig.kernel.rules[V4].fail()
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
    rig.turn(*bad(type="NodePort", ports=ports))
    assert rig.metrics.iptables_restore_failures.values == {("IPv4",): 1}
    assert last_error(rig) == ""
    assert rig.reals("192.168.0.10", 30080) == {"10.180.0.66": 1}
    node_ports = rig.kernel.rules[V4].rules("nat", names.NODE_PORT)
    assert len(node_ports) == 1


@pytest.mark.parametrize("at", ["rules", "servers"])
def test_new_addresses_are_not_lost_when_writing_them_fails(rig, at) -> None:
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
    rig.turn(*bad(type="NodePort", ports=ports))
    rig.set_addresses("192.168.0.11")
    if at == "servers":
        made = VirtualServer(key("192.168.0.11", 30080), "wlc")
        rig.kernel.ipvs.put(made)
    else:
        rig.kernel.links.devices.clear()
        external = service("bad", BAD_IP, type="NodePort", ports=ports, externalIPs=["9.9.9.9"])
        rig.turn(external)
    rig.turn(AddressesChanged())
    for _ in range(3):
        rig.after(2.0)
    assert last_error(rig) == ""
    assert rig.reals("192.168.0.11", 30080) == {"10.180.0.66": 1}
    assert not rig.serves("192.168.0.10", 30080)


# -- what others do --------------------------------------------------------------------------


def delete_virtual_server(rig: IpvsRig) -> None:
    del rig.kernel.ipvs.content[key(FIRST_IP)]


def delete_all_virtual_servers(rig: IpvsRig) -> None:
    rig.kernel.ipvs.content.clear()


def change_scheduler(rig: IpvsRig) -> None:
    held = rig.kernel.ipvs.content[key(FIRST_IP)]
    rig.kernel.ipvs.content[key(FIRST_IP)] = VirtualServer(key(FIRST_IP), "wlc"), held[1]


def delete_address(rig: IpvsRig) -> None:
    rig.kernel.links.devices[DEVICE].discard(packed(FIRST_IP))


def delete_device(rig: IpvsRig) -> None:
    del rig.kernel.links.devices[DEVICE]


def flush_a_set(rig: IpvsRig) -> None:
    rig.kernel.ipset.flush("KUBE-CLUSTER-IP")


def destroy_a_set(rig: IpvsRig) -> None:
    rig.kernel.ipset.destroy("KUBE-NODE-PORT-TCP")  # no rule uses it


def delete_real_server(rig: IpvsRig) -> None:
    rig.kernel.ipvs.content[key(FIRST_IP)][1].popitem()


def change_weight(rig: IpvsRig) -> None:
    reals = rig.kernel.ipvs.content[key(FIRST_IP)][1]
    real = next(iter(reals))
    reals[real] = RealServer(real, 0)


@BACKENDS
@pytest.mark.parametrize(
    "edit",
    [
        delete_virtual_server,
        delete_all_virtual_servers,
        flush_a_set,
        delete_real_server,
        change_weight,
        change_scheduler,
        delete_address,
        delete_device,
    ],
    ids=lambda edit: edit.__name__,
)
def test_what_others_did_is_undone_within_half_a_minute_and_counted(rig, edit) -> None:
    before = rig.kernel.content(V4)
    edit(rig)
    assert rig.kernel.content(V4) != before
    assert rig.until_due() <= VERIFY_S
    rig.after(VERIFY_S)
    rig.after(0.0)
    assert rig.kernel.content(V4) == before
    assert rig.metrics.self_repairs.values == {("IPv4", "verification"): 1}


def test_a_destroyed_set_is_made_anew(rig) -> None:
    before = rig.kernel.content(V4)
    destroy_a_set(rig)
    rig.after(VERIFY_S)
    rig.after(0.0)
    assert rig.kernel.content(V4) == before


def test_real_servers_of_many_services_are_looked_at_in_turn(monkeypatch) -> None:
    rig = IpvsRig(monkeypatch)
    rig.start(*many_services(3 * VERIFY_PORTS))
    for number in range(4):
        rig.kernel.ipvs.asked.clear()
        rig.after(VERIFY_S)
        assert len(rig.kernel.ipvs.asked) == VERIFY_PORTS, number
    ip = f"10.96.{VERIFY_PORTS // 250}.{VERIFY_PORTS % 250 + 10}"
    rig.kernel.ipvs.content[key(ip)][1].popitem()
    rig.after(VERIFY_S)
    rig.after(0.0)
    assert len(rig.reals(ip)) == 3


@BACKENDS
def test_looking_costs_nothing_else_and_goes_on(rig) -> None:
    for _ in range(5):
        assert rig.until_due() <= VERIFY_S
        rig.after(VERIFY_S)
    assert rig.kernel.done() == []
    assert repairs(rig) == 0


def test_what_others_added_beside_ours_is_left_alone(rig) -> None:
    rig.kernel.ipvs.put(VirtualServer(key("203.0.113.7"), "wlc"))
    rig.kernel.links.devices["eth0"] = {packed("203.0.113.7")}
    rig.after(VERIFY_S)
    assert rig.kernel.done() == []


def test_every_family_looks_after_itself(monkeypatch) -> None:
    rig = IpvsRig(monkeypatch, families=(V4, V6))
    rig.start(service("both", [FIRST_IP, "fd00::1"]), endpoint_slice("both", ["fd00:10:180::1"]))
    before = rig.kernel.content(V6)
    rig.kernel.ipvs.content.pop(key("fd00::1"))
    rig.after(VERIFY_S)
    rig.after(0.0)
    assert rig.kernel.content(V6) == before
    assert rig.metrics.self_repairs.values == {("IPv6", "verification"): 1}


def edited() -> ForeignEdit:
    return ForeignEdit(V4, ("rules changed",), ("nat",), "rule", "")


def test_an_edit_of_rules_that_are_others_restates_nothing(rig) -> None:
    rig.kernel.rules[V4].tables["nat"]["OTHERS"] = ["-j ACCEPT"]
    rig.turn(edited())
    rig.after(1.0)
    assert rig.kernel.done() == []
    assert repairs(rig) == 0


@BACKENDS
@pytest.mark.parametrize("chain", [names.SERVICES, names.IPVS_FILTER, "PREROUTING"])
def test_flushed_chains_are_filled_again(rig, chain) -> None:
    before = rig.kernel.content(V4)
    for table in rig.kernel.rules[V4].tables.values():
        if chain in table:
            table[chain].clear()
    rig.turn(edited())
    rig.after(0.0)
    assert rig.kernel.content(V4) == before


def test_a_virtual_server_deleted_together_with_a_harmless_edit_is_made_anew(rig) -> None:
    delete_virtual_server(rig)
    rig.turn(edited())
    rig.after(0.0)
    assert rig.serves(FIRST_IP)


def test_a_restart_repairs_entries_and_real_servers_too(monkeypatch, rig) -> None:
    before = rig.kernel.content(V4)
    rig.kernel.ipset.flush("KUBE-CLUSTER-IP")
    rig.kernel.ipvs.content[key(FIRST_IP)][1].clear()
    again = IpvsRig(monkeypatch, kernel=rig.kernel)
    again.start(*many_services(3))
    assert rig.kernel.content(V4) == before


# -- draining, seen from the engine ----------------------------------------------------------


def test_the_engine_wakes_up_for_servers_that_drain(rig) -> None:
    real = next(iter(rig.kernel.ipvs.content[key(FIRST_IP)][1]))
    rig.kernel.ipvs.connect(key(FIRST_IP), real, active=1)
    others = [ip for ip in rig.reals(FIRST_IP) if packed(ip) != real.address]
    rig.turn(endpoint_slice("svc-0", others))
    assert sorted(rig.reals(FIRST_IP).values()) == [0, 1, 1]
    assert rig.until_due() <= 10
    rig.kernel.ipvs.connect(key(FIRST_IP), real, active=0)
    rig.after(10.0)
    assert rig.reals(FIRST_IP) == dict.fromkeys(others, 1)


def test_node_ports_follow_the_nodes_addresses(rig) -> None:
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
    rig.turn(*bad(type="NodePort", ports=ports))
    rig.kernel.done()
    rig.set_addresses("192.168.0.10", "192.168.0.11", "127.0.0.1")
    rig.turn(AddressesChanged())
    assert rig.kernel.done() == ["server+", "real+"]
    assert rig.reals("192.168.0.11", 30080) == {"10.180.0.66": 1}
    rig.set_addresses("192.168.0.11")
    rig.turn(AddressesChanged())
    assert rig.kernel.done() == ["server-"]
    assert not rig.serves("192.168.0.10", 30080)
    assert not rig.serves("127.0.0.1", 30080)
