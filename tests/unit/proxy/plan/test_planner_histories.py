"""Whatever happened on the way, the plans in force follow from the last state alone."""

import random
from typing import Any

import pytest

from proxy.model.addresses import IPFamily
from proxy.model.services import ServiceName, ServicePort, read_service
from proxy.plan.planner import Changes, Planner
from proxy.plan.topology import Location
from tests.support.cluster_objects import a_service, endpoint_from

State = dict[ServiceName, tuple[tuple[ServicePort, ...], dict[Any, Any]]]
LETTERS = "abcde"


def random_service(draw: random.Random, letter: str) -> tuple[tuple[ServicePort, ...], Any]:
    """Return ports and endpoints of a Service that probably claims what others claim."""
    if draw.random() < 0.2:
        return (), {}
    numbers = draw.sample([80, 81], draw.choice([1, 1, 2]))
    ports = [
        {
            "name": draw.choice(["x", "y"]) + str(index),
            "port": number,
            "protocol": draw.choice(["TCP", "TCP", "UDP"]),
            "nodePort": draw.choice([0, 0, 30080, 30081]),
        }
        for index, number in enumerate(numbers)
    ]
    obj = a_service(
        letter,
        draw.choice(["172.30.0.1", f"172.30.1.{ord(letter)}"]),
        type="NodePort",
        ports=ports,
        uid=draw.choice([letter, "same"]),
        created=f"2026-01-0{draw.randrange(1, 4)}T00:00:00Z",
        externalIPs=draw.sample(["192.0.2.1", "192.0.2.2", "172.30.0.1"], draw.randrange(3)),
        externalTrafficPolicy=draw.choice(["Local", "Cluster"]),
    )
    found = read_service(obj, IPFamily.IPV4).ports
    words = ["ready", "local ready", "local serving terminating", ""]
    endpoints = tuple(
        endpoint_from(f"10.0.0.{i}:80 {draw.choice(words)}") for i in range(draw.randrange(3))
    )
    return found, {(port.name.port, port.name.protocol): endpoints for port in found}


def in_force(planner: Planner) -> Changes:
    return {plan.name: plan for plan in planner.all_effective()}


def planner() -> Planner:
    return Planner(Location("n1", "z1"), None)


def fresh(state: State, order: list[ServiceName]) -> Planner:
    anew = planner()
    for name in order:
        anew.update(name, *state[name])
    return anew


@pytest.mark.parametrize("seed", range(60))
def test_any_history_ends_as_a_fresh_planner_with_the_last_state(seed: int) -> None:
    draw, plans = random.Random(seed), planner()
    state: State = {}
    for _ in range(60):
        letter = draw.choice(LETTERS)
        name = ServiceName("ns", letter)
        state[name] = random_service(draw, letter)
        before = in_force(plans)
        changes = plans.update(name, *state[name])
        after = in_force(plans)
        differing = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
        assert changes == {n: after.get(n) for n in differing}
        order = sorted(state)
        draw.shuffle(order)
        anew = fresh(state, order)
        assert after == in_force(anew)
        assert sorted(plans.conflicts()) == sorted(anew.conflicts())
        assert len(plans) == len(anew) == len(after)


@pytest.mark.parametrize("seed", range(20))
def test_no_frontend_is_ever_in_force_twice_nor_lost(seed: int) -> None:
    draw, plans = random.Random(seed), planner()
    state: State = {}
    for _ in range(60):
        letter = draw.choice(LETTERS)
        state[ServiceName("ns", letter)] = random_service(draw, letter)
        plans.update(ServiceName("ns", letter), *state[ServiceName("ns", letter)])
        held = [
            (frontend.address, plan.protocol, frontend.port)
            for plan in plans.all_effective()
            for frontend in plan.frontends
        ]
        wanted = {
            (address, port.protocol_number, number)
            for ports, _ in state.values()
            for port in ports
            for address, number in [
                (port.traits.cluster_ip, port.port),
                *((ip, port.port) for ip in port.traits.external_ips),
                *([(b"", port.node_port)] if port.node_port else []),
            ]
        }
        assert set(held) == wanted
        assert len(held) == len(wanted)


def test_when_everything_is_removed_nothing_stays() -> None:
    draw, plans = random.Random(1), planner()
    for _ in range(100):
        letter = draw.choice(LETTERS)
        plans.update(ServiceName("ns", letter), *random_service(draw, letter))
    for letter in LETTERS:
        plans.update(ServiceName("ns", letter), (), {})
    assert in_force(plans) == {}
    assert plans.conflicts() == []
    assert all(plans.plans_of(ServiceName("ns", letter)) == () for letter in LETTERS)
