"""Plans are kept up to date Service by Service, and only what changed is returned."""

from typing import Any

from proxy.model.addresses import IPFamily, pack_address
from proxy.model.endpoints import Endpoint
from proxy.model.services import ServiceName, ServicePortName, read_service
from proxy.plan.planner import Changes, Planner
from proxy.plan.topology import Location
from tests.support.cluster_objects import a_service, endpoint_from

A = ServiceName("ns", "a")
HTTP, DNS = ServicePortName("ns", "a", "http", "TCP"), ServicePortName("ns", "a", "dns", "UDP")
PORTS = [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]


def planner() -> Planner:
    return Planner(Location("n1", "z1"), None)


def update(plans: Planner, endpoints: dict[str, list[str]], **changes: Any) -> Changes:
    """Plan Service ns/a with endpoints by port name."""
    ports = read_service(a_service("a", **{"ports": PORTS, **changes}), IPFamily.IPV4).ports
    found: dict[tuple[str, str], tuple[Endpoint, ...]] = {
        (p.name.port, p.name.protocol): tuple(map(endpoint_from, endpoints[p.name.port]))
        for p in ports
        if p.name.port in endpoints
    }
    return plans.update(A, ports, found)


BOTH = {"http": ["10.0.0.1:8080 ready"], "dns": ["10.0.0.1:5353 ready"]}


def test_new_service_ports_are_returned() -> None:
    plans = planner()
    changes = update(plans, BOTH)
    assert changes.keys() == {HTTP, DNS}
    assert changes[HTTP] == plans.effective(HTTP)
    assert len(plans) == 2
    assert set(plans.plans_of(A)) == set(plans.all_effective()) == set(changes.values())


def test_the_same_state_again_changes_nothing() -> None:
    plans = planner()
    update(plans, BOTH)
    assert update(plans, BOTH) == {}


def test_endpoints_that_are_not_used_change_nothing() -> None:
    plans = planner()
    update(plans, BOTH)
    assert update(plans, {**BOTH, "http": ["10.0.0.1:8080 ready", "10.0.0.2:8080"]}) == {}


def test_only_the_port_whose_endpoints_changed_is_returned() -> None:
    plans = planner()
    update(plans, BOTH)
    assert update(plans, {**BOTH, "dns": ["10.0.0.9:5353 ready"]}).keys() == {DNS}


def test_a_port_that_is_gone_is_none() -> None:
    plans = planner()
    update(plans, BOTH)
    assert update(plans, BOTH, ports=PORTS[:1]) == {DNS: None}
    assert len(plans) == 1


def test_a_service_that_is_gone_takes_its_ports_along() -> None:
    plans = planner()
    update(plans, BOTH)
    assert plans.update(A, (), {}) == {HTTP: None, DNS: None}
    assert (len(plans), plans.plans_of(A), list(plans.all_effective())) == (0, (), [])
    assert plans.update(A, (), {}) == {}


def test_a_service_that_comes_back_is_planned_again() -> None:
    plans = planner()
    before = update(plans, BOTH)
    plans.update(A, (), {})
    assert update(plans, BOTH) == before


def test_a_port_without_endpoints_has_a_plan() -> None:
    plans = planner()
    changes = update(plans, {})
    plan = changes[HTTP]
    assert plan is not None
    assert plan.cluster == ()


def test_a_renamed_port_keeps_its_address() -> None:
    """The new name claims what the old one held, in one update."""
    plans = planner()
    update(plans, BOTH)
    renamed = ServicePortName("ns", "a", "web", "TCP")
    changes = update(plans, BOTH, ports=[{"name": "web", "port": 80}, PORTS[1]])
    assert changes.keys() == {HTTP, renamed}
    assert changes[HTTP] is None
    assert len(plans.effective(renamed).frontends) == 1
    assert plans.conflicts() == []


def test_two_ports_that_swap_numbers_keep_both() -> None:
    plans = planner()
    swapped = [{"name": "x", "port": 80}, {"name": "y", "port": 81}]
    update(plans, {}, ports=swapped)
    changes = update(plans, {}, ports=[{"name": "x", "port": 81}, {"name": "y", "port": 80}])
    assert {name.port: plan and plan.frontends[0].port for name, plan in changes.items()} == {
        "x": 81,
        "y": 80,
    }
    assert plans.conflicts() == []


def test_another_location_takes_effect_with_the_next_update() -> None:
    plans = planner()
    hinted = ["10.0.0.1:8080 ready zones=z1", "10.0.0.2:8080 ready zones=z2"]
    update(plans, {**BOTH, "http": hinted})
    plans.location = Location("n1", "z2")
    changes = update(plans, {**BOTH, "http": hinted})
    assert changes.keys() == {HTTP}
    found = changes[HTTP]
    assert found is not None
    assert found.cluster == (endpoint_from("10.0.0.2:8080").target,)


def test_another_node_address_takes_effect_with_the_next_update() -> None:
    plans = planner()
    vip = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}
    changes = {"loadBalancerSourceRanges": ["10.0.0.0/8"], "status": vip}
    update(plans, BOTH, **changes)
    plans.node_address = pack_address("10.0.0.7")
    assert update(plans, BOTH, **changes).keys() == {HTTP, DNS}
