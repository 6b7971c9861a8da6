"""Several Services claim one address and port: the oldest has it."""

from typing import Any

import pytest

from proxy.model.addresses import IPFamily
from proxy.model.services import ServiceName, read_service
from proxy.plan.planner import Changes, Conflict, Planner
from proxy.plan.topology import Location
from tests.support.cluster_objects import a_service, endpoint_from

VIP = "192.0.2.1"
IPS = {"a": "172.30.0.1", "b": "172.30.0.2", "c": "172.30.0.3"}


class Stage:
    """A planner and Services by one-letter names."""

    def __init__(self) -> None:
        self.plans = Planner(Location("n1"), None)

    def put(self, name: str, day: int = 1, **changes: Any) -> Changes:
        """Create or change a Service made on *day*; it claims the VIP unless told otherwise."""
        obj = a_service(
            name,
            changes.pop("cluster_ip", IPS[name]),
            created=f"2026-01-{day:02}T00:00:00Z",
            **{"externalIPs": [VIP], **changes},
        )
        ports = read_service(obj, IPFamily(obj.spec.ip_families[0])).ports
        endpoint = endpoint_from("10.0.0.1:8080 ready")
        return self.plans.update(ServiceName("ns", name), ports, {("http", "TCP"): (endpoint,)})

    def remove(self, name: str) -> Changes:
        return self.plans.update(ServiceName("ns", name), (), {})

    def holders(self) -> list[str]:
        """Return the names of the Services that have two frontends."""
        return [p.name.name for p in self.plans.all_effective() if len(p.frontends) == 2]

    def waiting(self) -> dict[str, str]:
        """Return which Service waits for which one."""
        return {c.loser.name: c.winner.name for c in self.plans.conflicts()}


@pytest.fixture
def stage() -> Stage:
    return Stage()


def names(changes: Changes) -> list[str]:
    return sorted(name.name for name in changes)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_the_oldest_keeps_an_address_whatever_the_order_of_arrival(
    stage: Stage, order: str
) -> None:
    days = {"a": 1, "b": 2}
    for name in order:
        stage.put(name, days[name])
    assert stage.holders() == ["a"]
    assert stage.waiting() == {"b": "a"}


def test_of_two_made_in_the_same_second_one_is_chosen_the_same_way_always(stage: Stage) -> None:
    stage.put("b", uid="1")
    stage.put("a", uid="2")
    assert stage.holders() == ["b"]


def test_the_loser_keeps_its_other_addresses(stage: Stage) -> None:
    stage.put("a", 1)
    changes = stage.put("b", 2)
    assert names(changes) == ["b"]
    (plan,) = changes.values()
    assert plan is not None
    assert [f.kind.value for f in plan.frontends] == ["ClusterIP"]
    assert plan.cluster


def test_an_older_service_takes_the_address_over_and_both_change(stage: Stage) -> None:
    stage.put("b", 2)
    changes = stage.put("a", 1)
    assert names(changes) == ["a", "b"]
    assert {n.name: len(p.frontends) for n, p in changes.items() if p} == {"a": 2, "b": 1}


def test_a_deleted_winner_hands_over(stage: Stage) -> None:
    stage.put("a", 1)
    stage.put("b", 2)
    changes = stage.remove("a")
    assert names(changes) == ["a", "b"]
    assert stage.holders() == ["b"]
    assert stage.waiting() == {}


def test_a_winner_that_lets_go_hands_over_and_keeps_the_rest(stage: Stage) -> None:
    stage.put("a", 1)
    stage.put("b", 2)
    changes = stage.put("a", 1, externalIPs=[])
    assert {n.name: len(p.frontends) for n, p in changes.items() if p} == {"a": 1, "b": 2}
    assert stage.waiting() == {}


def test_a_loser_that_goes_changes_nothing_for_the_winner(stage: Stage) -> None:
    stage.put("a", 1)
    stage.put("b", 2)
    assert names(stage.remove("b")) == ["b"]
    assert stage.holders() == ["a"]
    assert stage.waiting() == {}


def test_a_loser_that_stops_claiming_has_no_other_plan_in_force(stage: Stage) -> None:
    stage.put("a", 1)
    stage.put("b", 2)
    assert stage.put("b", 2, externalIPs=[]) == {}
    assert stage.waiting() == {}


@pytest.mark.parametrize("order", ["abc", "cba", "bca", "cab"])
def test_of_three_claimants_each_gets_its_turn(stage: Stage, order: str) -> None:
    days = {"a": 1, "b": 2, "c": 3}
    for name in order:
        stage.put(name, days[name])
    assert stage.waiting() == {"b": "a", "c": "a"}
    assert names(stage.remove("a")) == ["a", "b"]
    assert stage.holders() == ["b"]
    assert stage.waiting() == {"c": "b"}
    assert names(stage.remove("b")) == ["b", "c"]
    assert stage.holders() == ["c"]
    assert stage.waiting() == {}


def test_a_claimant_in_the_middle_that_goes_changes_nothing_in_force(stage: Stage) -> None:
    for name, day in (("a", 1), ("b", 2), ("c", 3)):
        stage.put(name, day)
    assert names(stage.remove("b")) == ["b"]
    assert stage.waiting() == {"c": "a"}


def test_a_winner_made_anew_is_the_youngest(stage: Stage) -> None:
    """It was deleted and created between two looks: same name, same claims, another age."""
    stage.put("a", 1)
    stage.put("b", 2)
    changes = stage.put("a", 3)
    assert names(changes) == ["a", "b"]
    assert stage.holders() == ["b"]
    assert stage.waiting() == {"a": "b"}


def test_a_loser_that_turns_out_older_wins(stage: Stage) -> None:
    stage.put("a", 2)
    stage.put("b", 3)
    assert names(stage.put("b", 1)) == ["a", "b"]
    assert stage.holders() == ["b"]


def test_after_a_conflict_is_over_the_address_can_be_claimed_again(stage: Stage) -> None:
    stage.put("a", 1)
    stage.put("b", 2)
    stage.remove("a")
    stage.remove("b")
    assert stage.put("c", 3).keys() == {p.name for p in stage.plans.all_effective()}
    assert stage.holders() == ["c"]


def test_an_address_that_is_another_services_cluster_ip_stays_there(stage: Stage) -> None:
    stage.put("a", 1, externalIPs=[])
    stage.put("b", 2, externalIPs=[IPS["a"]])
    assert stage.waiting() == {"b": "a"}
    assert stage.holders() == []


def test_one_address_with_other_ports_or_protocols_is_shared(stage: Stage) -> None:
    stage.put("a", 1)
    stage.put("b", 2, ports=[{"name": "http", "port": 81}])
    stage.put("c", 3, ports=[{"name": "http", "port": 80, "protocol": "UDP"}])
    assert stage.plans.conflicts() == []
    assert stage.holders() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "192.0.2.1:80/TCP"),
        (
            {"externalIPs": [], "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
            "nodePort 30080/TCP",
        ),
        ({"externalIPs": ["2001:db8::1"], "cluster_ip": "fd00::1"}, "[2001:db8::1]:80/TCP"),
    ],
)
def test_a_conflict_is_told_as_people_write_addresses(
    stage: Stage, changes: dict[str, Any], text: str
) -> None:
    stage.put("a", 1, **changes)
    second = {**changes, "cluster_ip": "fd00::2"} if "cluster_ip" in changes else changes
    stage.put("b", 2, **second)
    (conflict,) = stage.plans.conflicts()
    assert isinstance(conflict, Conflict)
    assert (str(conflict.loser), str(conflict.winner)) == ("ns/b:http", "ns/a:http")
    assert conflict.frontend == text


def test_two_ports_of_one_service_with_one_number_are_settled_by_name(stage: Stage) -> None:
    twice = [{"name": "web", "port": 80}, {"name": "http", "port": 80}]
    stage.put("a", 1, externalIPs=[], ports=twice)
    ((_, winner, _),) = stage.plans.conflicts()
    assert winner.port == "http"
    assert stage.put("a", 1, externalIPs=[], ports=twice) == {}
    stage.put("a", 1, externalIPs=[], ports=twice[:1])
    assert stage.plans.conflicts() == []
    (plan,) = stage.plans.all_effective()
    assert len(plan.frontends) == 1
