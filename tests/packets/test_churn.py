"""Nobody notices: connections live on, and new ones succeed, whatever changes around them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.backends.nftables.layout import TABLE
from proxy.kernel.nft_monitor import ForeignEdit, NftMonitor
from proxy.model.addresses import IPFamily
from tests.packets.cluster import (
    MODES,
    NODE_IP,
    Cluster,
    backend,
    cluster,
    pod,
    service,
    slice_of,
    vip,
)
from tests.packets.flows.scenario import Endpoint
from tests.packets.traffic import Call, Caller, Echo, Talkers, connect, traffic
from tests.support.monitoring import Collected
from tests.support.waiting import eventually

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

PLAIN, STICKY = vip(1), vip(2)
OWN = (
    service("plain", PLAIN, node_port=30080),
    slice_of("plain", *(backend(n) for n in (1, 2, 3))),
    service("sticky", STICKY, node_port=30081, affinity_s=600),
    slice_of("sticky", *(backend(n) for n in (1, 2, 3))),
)
_TARGETS = (
    Endpoint(PLAIN, 80),
    Endpoint(STICKY, 80),
    Endpoint(NODE_IP, 30080),
    Endpoint(NODE_IP, 30081),
)
PODS = tuple(f"10.1.0.{n}" for n in range(10, 16))
OUTSIDERS = tuple(f"203.0.113.{n}" for n in range(10, 14))
LASTING = tuple(
    Call(source, target) for target in _TARGETS for source in (*PODS, *OUTSIDERS, NODE_IP)
)
REPEATED = tuple(
    Call(source, target) for target in _TARGETS for source in (PODS[0], OUTSIDERS[0], NODE_IP)
)


def _others(draw: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """Another Service and its slice, drawn anew: kinds, policies, affinity, endpoints."""
    number = draw.randint(10, 30)
    name = f"other-{number}"
    spec: dict[str, Any] = {}
    if draw.random() < 0.5:
        spec |= {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/9"]}
        spec["externalTrafficPolicy"] = draw.choice(("Local", "Cluster"))
    if draw.random() < 0.3:
        spec["internalTrafficPolicy"] = "Local"
    made = service(
        name,
        vip(number),
        node_port=31000 + number if draw.random() < 0.5 or spec else 0,
        affinity_s=draw.choice((0, 0, 5, 600)),
        **spec,
    )
    made["status"] = {"loadBalancer": {"ingress": [{"ip": f"5.6.7.{number}"}]}}
    count = draw.choice((0, 1, 2, 3, 5))
    numbers = draw.sample(range(20, 40), count)
    return made, slice_of(name, *(pod(backend(n), here=n % 2 == 0) for n in numbers))


Busy = tuple[Cluster, Talkers, Caller, Echo]


@pytest.fixture(params=MODES)
def busy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Busy]:
    """A node with connections that talk and a caller that calls, in each mode."""
    with (
        cluster(tmp_path, *OWN, mode=request.param) as made,
        traffic(made.site, LASTING, REPEATED) as (talkers, caller, echo),
    ):
        assert len({each.backend for each in talkers.conversations}) == 3
        yield made, talkers, caller, echo


def _nobody_noticed(talkers: Talkers, caller: Caller) -> None:
    for each in (talkers, caller):
        each.go_on()
        assert each.failures == []


def change_other_services(made: Cluster) -> None:
    draw = random.Random(5)
    present: dict[str, tuple[dict[str, Any], ...]] = {}
    for _ in range(12):
        objects = [each for _ in range(4) for each in _others(draw)]
        made.apply(*objects)
        present |= {each["metadata"]["name"]: each for each in objects}  # type: ignore[misc]
        if draw.random() < 0.5:
            gone = draw.sample(sorted(present), 3)
            made.delete(*(present.pop(name) for name in gone))  # type: ignore[arg-type]


def add_own_endpoints(made: Cluster) -> None:
    for last in (4, 5, 6, 7):
        numbers = range(1, last + 1)
        made.apply(*(slice_of(name, *map(backend, numbers)) for name in ("plain", "sticky")))


def _fill(made: Cluster) -> None:
    """So many Services that whoever writes the table in pieces takes a while."""
    items = [
        each
        for n in range(600)
        for each in (
            service(f"many-{n}", f"172.30.{2 + n // 200}.{n % 200}"),
            slice_of(f"many-{n}", backend(1), backend(2)),
        )
    ]
    made.apply({"apiVersion": "v1", "kind": "List", "metadata": {"name": "many"}, "items": items})


def restate(made: Cluster) -> None:
    _fill(made)
    for number in range(2):
        mark = f"192.0.2.{100 + number}"
        made.add_rule(mark)
        eventually(lambda mark=mark: mark not in made.listing())  # type: ignore[misc]


def restart(made: Cluster) -> None:
    _fill(made)
    for _ in range(2):
        made.restart()


@pytest.mark.parametrize(
    "change", [change_other_services, add_own_endpoints, restate, restart], ids=lambda f: f.__name__
)
def test_no_connection_notices(busy: Busy, change: Callable[[Cluster], None]) -> None:
    made, talkers, caller, _ = busy
    before = talkers.steps, caller.steps
    change(made)
    _nobody_noticed(talkers, caller)
    assert talkers.steps > before[0]
    assert caller.steps > before[1] + 2


def test_stating_the_table_anew_leaves_no_instant_without_rules(tmp_path: Path) -> None:
    with cluster(tmp_path, *OWN) as made:
        with made.site.node.enter():
            monitor = NftMonitor(TABLE, frozenset())
        with Collected(monitor) as seen:
            restate(made)
            restart(made)
            eventually(lambda: len(_restatements(seen)) >= 4)
        for edit in _restatements(seen):
            counts = {what: int(n) for what, _, n in (c.rpartition(": ") for c in edit.changes)}
            assert counts.get("element deleted", 0) <= counts.get("element added", 0), edit
            # All rules are written again; those of somebody else are not.
            assert counts["rule added"] >= counts["rule deleted"] - FOREIGN_RULES, edit
            assert counts["rule added"] > 30, edit


FOREIGN_RULES = 1


def _restatements(seen: Collected) -> list[ForeignEdit]:
    """The transactions of the proxy that delete rules."""
    return [
        edit
        for edit in seen
        if edit.family is IPFamily.IPV4
        and not edit.process.startswith("nft[")
        and any(change.startswith("rule deleted") for change in edit.changes)
    ]


def test_established_connections_outlive_their_endpoints_removal(
    busy: Busy,
) -> None:
    made, talkers, caller, _ = busy
    caller.pause()
    made.apply(*(slice_of(name, backend(9)) for name in ("plain", "sticky")))
    talkers.go_on(3)
    assert talkers.failures == []
    caller.go_on()
    assert caller.failures == []


def test_flushed_rules_are_back_within_seconds(
    busy: Busy,
) -> None:
    made, talkers, caller, echo = busy
    # Without any rule the kernel translates nothing, not even for connections that exist: what
    # is under way at that instant is lost on any node. Connections that are silent live on.
    talkers.pause()
    caller.pause()
    eventually(echo.is_quiet)
    call = Call(PODS[0], Endpoint(PLAIN, 80))
    before = made.listing(6)
    started = time.monotonic()
    made.flush()
    _until_served(made, call)
    is_told = made.mode != "iptables-legacy"  # where the proxy looks every two seconds
    assert time.monotonic() - started < (2 if is_told else 5), made.evidence()
    _nobody_noticed(talkers, caller)
    eventually(lambda: len(made.listing(6).splitlines()) == len(before.splitlines()))
    assert is_told == ("nft[" in made.log()), "the log names the program that did it"


def _until_served(made: Cluster, call: Call) -> None:
    """Call until a backend of the Service answers."""
    found: list[str] = []

    def answered() -> bool:
        try:
            connection, place = connect(made.site, call, patience_s=0.2)
        except OSError:
            return False
        connection.close()
        found.append(place)
        return True

    eventually(answered)
    assert found[0] in {backend(n) for n in (1, 2, 3)}
