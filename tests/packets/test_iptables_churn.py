"""Connections in iptables mode while the proxy takes over foreign rules, and while endpoints go."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.packets.cluster import MODES, NODE_IP, Cluster, backend, cluster, service, slice_of, vip
from tests.packets.flows.scenario import Endpoint
from tests.packets.traffic import Call, Caller, Talkers, traffic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

PLAIN, STICKY, BALANCED = vip(1), vip(2), "5.6.7.1"
CLIENTS = ("10.1.0.10", "203.0.113.10", NODE_IP)
CALLS = tuple(
    Call(client, target)
    for target in (Endpoint(PLAIN, 80), Endpoint(STICKY, 80), Endpoint(NODE_IP, 30080))
    for client in CLIENTS
)
ABROAD = Call("203.0.113.11", Endpoint(BALANCED, 80))
# What kube-proxy leaves behind: chains of Services that are gone, and rules of nobody.
LEFT = """*nat
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
:OTHERS - [0:0]
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination 10.180.0.99:8080
-A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SEP-AAAAAAAAAAAAAAAA
-I KUBE-SERVICES -d 172.30.1.99/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A OTHERS -d 192.0.2.99/32 -j ACCEPT
-A PREROUTING -j OTHERS
COMMIT
"""


def own(*numbers: int, ranges: tuple[str, ...] = ()) -> tuple[dict[str, Any], ...]:
    """Services with these backends; *ranges* restricts who may call the load balancer."""
    balanced = service("balanced", vip(3), node_port=30082, type="LoadBalancer")
    balanced["spec"]["loadBalancerSourceRanges"] = list(ranges)
    balanced["status"] = {"loadBalancer": {"ingress": [{"ip": BALANCED}]}}
    return (
        service("plain", PLAIN, node_port=30080),
        slice_of("plain", *map(backend, numbers)),
        service("sticky", STICKY, node_port=30081, affinity_s=600),
        slice_of("sticky", *map(backend, numbers)),
        balanced,
        slice_of("balanced", *map(backend, numbers)),
    )


def backends(*numbers: int) -> frozenset[str]:
    return frozenset(map(backend, numbers))


Busy = tuple[Cluster, Talkers, Caller]


@pytest.fixture(params=MODES[1:])
def busy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Busy]:
    """A node of iptables mode with connections that talk and a caller that calls."""
    with (
        cluster(tmp_path, *own(1, 2, 3), mode=request.param) as made,
        traffic(made.site, (*CALLS, ABROAD), (*CALLS, ABROAD)) as (talkers, caller, _),
    ):
        yield made, talkers, caller


def _nobody_noticed(talkers: Talkers, caller: Caller) -> None:
    for each in (talkers, caller):
        each.go_on()
        assert each.failures == []


def test_rules_of_another_proxy_for_other_endpoints_are_taken_over(busy: Busy) -> None:
    made, talkers, caller = busy
    made.iptables("-t", "nat", "-N", "KUBE-KUBELET-CANARY")
    program = "iptables-legacy" if made.mode.endswith("legacy") else "iptables-nft"
    made.site.node.run([f"{program}-restore", "--noflush"], stdin=LEFT)
    caller.backends = backends(1, 2, 3, 4)
    steps = caller.steps
    made.restart(*own(2, 3, 4, ranges=("203.0.113.0/24",)))
    _nobody_noticed(talkers, caller)
    assert caller.steps > steps + 2
    caller.pause()
    caller.backends, caller.reached = backends(2, 3, 4), set()
    caller.go_on(5)
    assert caller.failures == []
    assert backend(4) in caller.reached
    eventually(lambda: "AAAAAAAAAAAAAAAA" not in made.listing())
    assert "-A OTHERS -d 192.0.2.99/32 -j ACCEPT" in made.listing()
    assert "-A PREROUTING -j OTHERS" in made.listing()
    assert ":KUBE-KUBELET-CANARY" in made.listing()


def test_new_connections_only_reach_endpoints_of_now_or_just_before(busy: Busy) -> None:
    made, talkers, caller = busy
    draw = random.Random(7)
    present = {1, 2, 3}
    for _ in range(10):
        wanted = set(draw.sample(range(1, 9), draw.randint(1, 5)))
        caller.backends = backends(*present, *wanted)
        made.apply(*own(*sorted(wanted), ranges=draw.choice(((), ("203.0.113.0/24",)))))
        caller.go_on(1)  # the round that is under way began before
        present = wanted
    _nobody_noticed(talkers, caller)


def test_a_killed_proxy_makes_up_for_what_it_missed(busy: Busy) -> None:
    made, talkers, caller = busy
    present = {1, 2, 3}
    for wanted in ({2, 5}, {5, 6, 7}):
        caller.backends = backends(*present, *wanted)
        made.restart(*own(*sorted(wanted)))
        caller.go_on(1)
        present = wanted
    _nobody_noticed(talkers, caller)
    caller.reached = set()
    caller.go_on(5)
    assert caller.reached <= backends(5, 6, 7)
