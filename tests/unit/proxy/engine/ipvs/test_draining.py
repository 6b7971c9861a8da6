"""Graceful termination: real servers wait for their connections, but not for ever."""

from __future__ import annotations

import pytest

from proxy.backends.ipvs.settings import IpvsSettings
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipvs import RealKey, ServerKey
from tests.support.ipvs_rig import Node, by_name
from tests.support.plans import address, endpoint, plan, service_port, simple

V4 = IPFamily.IPV4
SETTINGS = IpvsSettings(V4)
KEY = ServerKey(address("cluster", 1), 80, 6)
LOOK_S, LIMIT_S = 10.0, 100.0
NEVER = float("inf")


def real(number: int) -> RealKey:
    return RealKey(address("pod", number), 8080)


ONE, TWO, THREE = (real(n) for n in (1, 2, 3))


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Node:
    """Service 1 with endpoints 1 to 3, of which 3 has a connection."""
    made = Node(SETTINGS, limit_s=getattr(request, "param", LIMIT_S))
    made.state(simple(1, 1, 2, 3))
    made.kernel.ipvs.connect(KEY, THREE, active=1)
    return made


def weights(node: Node) -> dict[RealKey, int]:
    return node.kernel.ipvs.weights(KEY)


def look(node: Node, after_s: float = LOOK_S) -> None:
    node.time.now += after_s
    assert node.reconciler.upkeep() == ""


def withdraw(node: Node, *pods: int) -> None:
    """Leave only these endpoints."""
    node.change(by_name(simple(1, *pods)))


def test_a_server_with_connections_gets_no_new_ones_and_lives_until_they_end(node) -> None:
    withdraw(node, 1, 2)
    assert weights(node) == {ONE: 1, TWO: 1, THREE: 0}
    look(node)
    assert weights(node)[THREE] == 0
    node.kernel.ipvs.connect(KEY, THREE, active=0, inactive=1)
    look(node)
    assert weights(node)[THREE] == 0
    node.kernel.ipvs.connect(KEY, THREE, active=0)
    look(node)
    assert THREE not in weights(node)
    assert node.kernel.ipvs.cut == 0


def test_a_server_without_connections_is_deleted_at_once(node) -> None:
    withdraw(node, 1, 3)
    assert weights(node) == {ONE: 1, THREE: 1}


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_other_protocols_do_not_wait(protocol) -> None:
    node = Node(SETTINGS)
    port = service_port(1, protocol=protocol)
    node.state(plan(port, endpoint(1), endpoint(2)))
    [key] = node.kernel.ipvs.content
    node.kernel.ipvs.connect(key, TWO, active=5)
    node.change(by_name(plan(port, endpoint(1))))
    assert node.kernel.ipvs.weights(key) == {ONE: 1}


def test_the_limit_cuts(node) -> None:
    withdraw(node, 1, 2)
    for _ in range(9):
        look(node)
        assert weights(node)[THREE] == 0
    look(node)
    assert THREE not in weights(node)
    assert node.kernel.ipvs.cut == 1


@pytest.mark.parametrize("node", [0.0], indirect=True)
def test_without_a_limit_it_takes_as_long_as_it_takes(node) -> None:
    withdraw(node, 1, 2)
    look(node, 1e7)
    assert weights(node)[THREE] == 0


def test_the_limit_holds_across_restatements(node) -> None:
    """Everything is stated anew every hour, which is as long as the limit is by default."""
    withdraw(node, 1, 2)
    for _ in range(9):
        node.time.now += 10
        node.state(simple(1, 1, 2))
        assert weights(node)[THREE] == 0
    look(node)
    assert THREE not in weights(node)


def test_a_predecessors_draining_servers_get_the_limit_too(node) -> None:
    withdraw(node, 1, 2)
    node.restart(SETTINGS)
    node.state(simple(1, 1, 2))
    assert weights(node) == {ONE: 1, TWO: 1, THREE: 0}
    look(node, LIMIT_S)
    assert THREE not in weights(node)


@pytest.mark.parametrize("restated", [False, True])
def test_an_endpoint_that_comes_back_keeps_its_connections(node, restated) -> None:
    withdraw(node, 1, 2)
    if restated:
        node.restart(SETTINGS)
        node.state(simple(1, 1, 2, 3))
    else:
        withdraw(node, 1, 2, 3)
    assert weights(node) == {ONE: 1, TWO: 1, THREE: 1}
    look(node, 10 * LIMIT_S)
    assert weights(node)[THREE] == 1
    assert node.kernel.ipvs.cut == 0


def test_an_endpoint_that_flaps_is_never_deleted(node) -> None:
    for _ in range(5):
        withdraw(node, 1, 2)
        withdraw(node, 1, 2, 3)
    node.state(simple(1, 1, 2))
    withdraw(node, 1, 2, 3)
    assert weights(node)[THREE] == 1
    assert node.kernel.ipvs.cut == 0


def test_nothing_is_looked_at_while_nothing_drains(node) -> None:
    draining = node.reconciler._draining
    assert draining.due == NEVER
    withdraw(node, 1, 2)
    assert draining.due == node.time.now + LOOK_S
    withdraw(node, 1, 2, 3)
    assert draining.due == NEVER
    withdraw(node, 1, 2)
    node.kernel.ipvs.connect(KEY, THREE, active=0)
    look(node)
    assert draining.due == NEVER


def test_a_service_that_is_deleted_meanwhile_is_forgotten(node) -> None:
    withdraw(node, 1, 2)
    node.change({simple(1).name: None})
    assert node.reconciler._draining.due == NEVER
    node.change(by_name(simple(1, 3)))
    assert weights(node) == {THREE: 1}


@pytest.mark.parametrize("what", ["real server", "virtual server"])
def test_what_somebody_else_deleted_is_forgotten(node, what) -> None:
    withdraw(node, 1, 2)
    if what == "real server":
        del node.kernel.ipvs.content[KEY][1][THREE]
    else:
        del node.kernel.ipvs.content[KEY]
    look(node)
    assert node.reconciler._draining.due == NEVER


@pytest.mark.parametrize("what", ["real server", "virtual server"])
def test_a_restatement_makes_anew_what_drained_and_was_deleted(node, what) -> None:
    withdraw(node, 1, 2)
    if what == "real server":
        del node.kernel.ipvs.content[KEY][1][THREE]
    else:
        del node.kernel.ipvs.content[KEY]
    node.state(simple(1, 1, 2, 3))
    assert weights(node) == {ONE: 1, TWO: 1, THREE: 1}


def test_only_servers_of_virtual_servers_that_change_are_counted(node) -> None:
    node.change(by_name(*(simple(n, 1, 2) for n in range(2, 40))))
    node.kernel.ipvs.asked.clear()
    withdraw(node, 1, 2)
    assert node.kernel.ipvs.asked == [KEY]


def test_a_refused_deletion_is_followed_by_a_restatement(node) -> None:
    withdraw(node, 1, 2)
    node.kernel.ipvs.connect(KEY, THREE, active=0)
    node.kernel.refuse = lambda verb, _: 1 if verb == "real-" else 0
    node.time.now += LOOK_S
    node.reconciler.upkeep()
    assert not node.reconciler.in_sync
    node.kernel.refuse = lambda _verb, _: 0
    node.state(simple(1, 1, 2))
    assert THREE not in weights(node)
