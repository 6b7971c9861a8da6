"""iptables mode when the node's addresses change, a cluster becomes large, or Services clash."""

from __future__ import annotations

import pytest

from proxy.backends.iptables import names
from proxy.engine.loop import AddressesChanged
from proxy.model.events import Resource
from tests.support.engine_rig import V4, endpoint_slice, many_services, removed, service
from tests.support.fake_iptables import FakeIptables
from tests.support.iptables_rig import IptablesRig


@pytest.fixture
def rig(monkeypatch) -> IptablesRig:
    """Three Services that are served."""
    made = IptablesRig(monkeypatch, kernel=FakeIptables())
    made.start(*many_services(3))
    made.kernel.inputs.clear()
    return made


def test_other_node_addresses_are_written_without_touching_services(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch, "--nodeport-addresses=192.168.0.0/16")
    rig.addresses[V4] = frozenset({bytes((192, 168, 0, 10)), bytes((10, 0, 0, 1))})
    rig.start(service("web", "10.96.0.1", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    assert _accepting(rig) == {"192.168.0.10/32"}
    rig.addresses[V4] |= {bytes((192, 168, 0, 11))}
    rig.turn(AddressesChanged())
    assert _accepting(rig) == {"192.168.0.10/32", "192.168.0.11/32"}
    assert set(rig.kernel.touched) == {("nat", names.SERVICES)}
    rig.addresses[V4] = frozenset()
    rig.turn(AddressesChanged())
    assert _accepting(rig) == set()


def _accepting(rig: IptablesRig) -> set[str]:
    rules = rig.kernel.rules("nat", names.SERVICES)
    return {rule.split()[1] for rule in rules if rule.endswith(f"-j {names.NODEPORTS}")}


def test_node_addresses_that_could_not_be_written_are_written_later(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch, "--nodeport-addresses=192.168.0.0/16")
    rig.start(service("web", "10.96.0.1"))
    rig.addresses[V4] = frozenset({bytes((192, 168, 0, 10))})
    rig.kernel.fail(times=2)
    rig.turn(AddressesChanged())
    assert _accepting(rig) == set()
    rig.after(rig.until_due())
    assert _accepting(rig) == {"192.168.0.10/32"}


def test_a_large_cluster_leaves_out_comments_of_what_is_written_from_then_on(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch)
    rig.start(*many_services(499, 2), service("web", "10.97.0.1"))  # 998 endpoints
    rig.turn(endpoint_slice("web", ["10.200.0.1", "10.200.0.2"]))  # 1,000 are not large yet
    assert all("--comment" in rule for rule in _endpoint_rules(rig, "10.97.0.1"))
    rig.turn(endpoint_slice("web", ["10.200.0.1", "10.200.0.2", "10.200.0.3"]))
    assert not any("--comment" in rule for rule in _endpoint_rules(rig, "10.97.0.1"))
    assert all("--comment" in rule for rule in _endpoint_rules(rig, "10.96.0.1"))
    rig.turn(endpoint_slice("svc-0", ["10.201.0.1"]), endpoint_slice("svc-1", ["10.201.0.2"]))
    assert all("--comment" in rule for rule in _endpoint_rules(rig, "10.96.0.1"))
    rig.turn(removed(Resource.SERVICE, "web"), removed(Resource.SERVICE, "svc-1"))
    assert not any("web" in rule for rule in rig.kernel.rules("nat", names.SERVICES))
    assert rig.reconciler.in_sync
    assert rig.engine.last_result["IPv4"]["full"] is False


def _endpoint_rules(rig: IptablesRig, ip: str) -> list[str]:
    nat = rig.kernel.tables["nat"]
    jumps = [rule for rule in nat[rig.chain_of(ip)] if f"-j {names.ENDPOINT}" in rule]
    own = [rule for jump in jumps for rule in nat[jump.rpartition(" ")[2]]]
    assert len(own) == 2 * len(jumps) > 0
    return [*jumps, *own]


def test_two_services_that_claim_one_address_do_not_stop_the_proxy(rig) -> None:
    rig.turn(
        service("older", "10.96.0.50", created="2020-01-01T00:00:00Z", externalIPs=["10.96.9.9"])
    )
    rig.turn(endpoint_slice("older", ["10.180.0.50"]))
    rig.turn(service("newer", "10.96.9.9", created="2021-01-01T00:00:00Z"))
    rig.turn(endpoint_slice("newer", ["10.180.0.51"]))
    assert rig.endpoints_of("10.96.9.9") == {"10.180.0.50"}
    rig.turn(removed(Resource.SERVICE, "older"))
    assert rig.endpoints_of("10.96.9.9") == {"10.180.0.51"}
