"""Which endpoints of a service port this node may use."""

from typing import Any

import pytest

from proxy.model.addresses import IPFamily
from proxy.model.services import ServicePort, read_service
from proxy.plan.topology import (
    Choice,
    HintsUse,
    Location,
    choose_endpoints,
    node_hints_use,
    zone_hints_use,
)
from tests.support.cluster_objects import a_service, cases, endpoint_from

HERE = Location("n1", "z1")


def a_port(**changes: Any) -> ServicePort:
    (port,) = read_service(a_service("s", **changes), IPFamily.IPV4).ports
    return port


def choose(port: ServicePort, *endpoints: str, location: Location = HERE) -> Choice:
    return choose_endpoints(port, tuple(map(endpoint_from, endpoints)), location)


def texts(endpoints: Any) -> list[str]:
    return [str(endpoint) for endpoint in endpoints]


@pytest.mark.parametrize("case", cases("topology"))
def test_endpoints_are_chosen(case: dict[str, Any]) -> None:
    wanted, expect = case["service"], case["expect"]
    node_port = wanted.get("nodePort", 0)
    port = a_port(
        type="NodePort" if node_port else "ClusterIP",
        ports=[{"name": "http", "port": 80, "nodePort": node_port}],
        internalTrafficPolicy=wanted["internalTrafficPolicy"],
        externalTrafficPolicy=wanted["externalTrafficPolicy"],
    )
    assert port.externally_accessible is wanted["externallyReachable"]
    choice = choose(port, *case["endpoints"], location=Location(*case["node"].values()))
    assert texts(choice.cluster) == (expect["clusterEndpoints"] or [])
    assert texts(choice.local) == (expect["localEndpoints"] or [])
    assert sorted(texts(choice.reachable)) == sorted(expect["allEndpoints"] or [])
    assert choice.has_endpoints is expect["hasAnyEndpoints"]


@pytest.mark.parametrize(
    ("endpoints", "topology", "chosen"),
    [
        (["10.0.0.1:80 ready zones=z1 nodes=n1", "10.0.0.2:80 ready zones=z1 nodes=n2"], "node", 1),
        (["10.0.0.1:80 ready zones=z1 nodes=n9", "10.0.0.2:80 ready zones=z1 nodes=n2"], "zone", 2),
        (["10.0.0.1:80 ready zones=z1", "10.0.0.2:80 ready zones=z2"], "zone", 1),
        (["10.0.0.1:80 ready zones=z1", "10.0.0.2:80 ready"], "", 2),
        (["10.0.0.1:80 ready zones=z8", "10.0.0.2:80 ready zones=z9"], "", 2),
        (["10.0.0.1:80 zones=z1", "10.0.0.2:80 ready zones=z2"], "", 1),
    ],
)
def test_which_hints_were_followed_is_told(
    endpoints: list[str], topology: str, chosen: int
) -> None:
    choice = choose(a_port(), *endpoints)
    assert (choice.topology, len(choice.cluster)) == (topology, chosen)


def test_hints_of_endpoints_that_are_not_ready_do_not_count() -> None:
    choice = choose(a_port(), "10.0.0.1:80 ready zones=z1", "10.0.0.2:80 serving terminating")
    assert (choice.topology, texts(choice.cluster)) == ("zone", ["10.0.0.1:80"])


def test_a_node_without_zone_follows_no_zone_hint() -> None:
    """Not even one that names the empty zone."""
    choice = choose(a_port(), "10.0.0.1:80 ready zones=,z1", location=Location("n1", ""))
    assert (choice.topology, texts(choice.cluster)) == ("", ["10.0.0.1:80"])


def test_draining_endpoints_are_used_when_none_is_ready_whatever_their_hints() -> None:
    choice = choose(
        a_port(),
        "10.0.0.1:80 serving terminating zones=z9",
        "10.0.0.2:80 terminating zones=z1",
        "10.0.0.3:80 serving zones=z1",
    )
    assert (choice.topology, texts(choice.cluster)) == ("", ["10.0.0.1:80"])


def test_the_local_and_the_cluster_choice_fall_back_each_on_its_own() -> None:
    port = a_port(
        type="NodePort",
        externalTrafficPolicy="Local",
        ports=[{"name": "http", "port": 80, "nodePort": 30080}],
    )
    choice = choose(port, "10.0.0.1:80 local serving terminating", "10.0.0.2:80 ready")
    assert texts(choice.cluster) == ["10.0.0.2:80"]
    assert texts(choice.local) == ["10.0.0.1:80"]
    assert texts(choice.reachable) == ["10.0.0.2:80", "10.0.0.1:80"]


@pytest.mark.parametrize(
    ("endpoints", "zone", "by_node", "by_zone"),
    [
        (["10.0.0.1:80 zones=z1 nodes=n1"], "z1", HintsUse.FOLLOWED, HintsUse.FOLLOWED),
        (["10.0.0.1:80 zones=z2 nodes=n2"], "z1", HintsUse.NOT_HERE, HintsUse.NOT_HERE),
        (["10.0.0.1:80 zones=z1", "10.0.0.2:80"], "z1", HintsUse.INCOMPLETE, HintsUse.INCOMPLETE),
        (["10.0.0.1:80 zones=z1"], "", HintsUse.INCOMPLETE, HintsUse.NO_ZONE),
        ([], "z1", HintsUse.NOT_HERE, HintsUse.NOT_HERE),
    ],
)
def test_why_hints_are_not_followed_is_told(
    endpoints: list[str], zone: str, by_node: HintsUse, by_zone: HintsUse
) -> None:
    ready, location = tuple(map(endpoint_from, endpoints)), Location("n1", zone)
    assert node_hints_use(ready, location) is by_node
    assert zone_hints_use(ready, location) is by_zone
