"""What a change costs does not depend on how many Services there are."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import pytest

from proxy.backends.ipvs.settings import IpvsSettings
from proxy.model.addresses import IPFamily
from proxy.plan.service_plan import ServicePortPlan
from tests.support.ipvs_rig import Node, by_name
from tests.support.plans import address, endpoint, network, plan, service_port, simple

V4 = IPFamily.IPV4
NODE = bytes((192, 0, 2, 1))
SETTINGS = IpvsSettings(V4, node_addresses=frozenset({NODE}), node_port_servers=frozenset({NODE}))
FEW, MANY = 100, 5000
Kind = Callable[[int, int], ServicePortPlan]


def cluster_ip(number: int, pod: int) -> ServicePortPlan:
    return simple(number, 0, 1, pod)


def restricted(number: int, pod: int) -> ServicePortPlan:
    """A load balancer with source ranges, which has a rule of its own."""
    made = service_port(
        number,
        node_port=20000 + number,
        load_balancer_vips=(address("balancer", number),),
        source_ranges=(network("203.0.113.0/24"),),
    )
    return plan(made, endpoint(0), endpoint(1, local=True), endpoint(pod))


def calls_of_a_change(count: int, kind: Kind) -> int:
    """How many functions are called for an endpoint that comes, Python's own included."""
    node = Node(SETTINGS)
    node.state(*(kind(n, 2) for n in range(count)))
    changes = by_name(kind(count // 2, 3))
    calls = 0

    def count_calls(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count_calls)
    try:
        node.reconciler.change(changes)
        node.reconciler.next_due()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("kind", [cluster_ip, restricted])
def test_a_change_takes_the_same_steps_at_any_size(kind) -> None:
    assert calls_of_a_change(1000, kind) <= 1.1 * calls_of_a_change(FEW, kind)


def seconds_of_a_change(node: Node) -> float:
    times = []
    for turn in range(200):
        changes = by_name(cluster_ip(turn % FEW, 3 + turn // FEW))
        node.kernel.journal.clear()
        started = time.perf_counter()
        node.reconciler.change(changes)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def test_a_change_takes_the_same_time_at_any_size() -> None:
    found = {}
    for count in (FEW, MANY):
        node = Node(SETTINGS)
        node.state(*(cluster_ip(n, 2) for n in range(count)))
        found[count] = seconds_of_a_change(node)
    # A pass over five thousand of anything takes much longer than this.
    assert found[MANY] < 2 * found[FEW] + 100e-6, found
