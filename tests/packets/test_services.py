"""What clients experience of Services, with real packets and the real process."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.packets.cluster import (
    NODE_IP,
    NODE_IP6,
    OTHER_NODE_IP,
    OUTSIDER,
    POD,
    POD_OF_OTHER_NODE,
    Cluster,
    backend,
    cluster,
    node,
    pod,
    service,
    slice_of,
    vip,
)
from tests.support.waiting import eventually

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

B1, B2, B3 = (backend(number) for number in (1, 2, 3))
VIP = vip(1)
ALL = {"10.180.0.1", "10.180.0.2", "10.180.0.3"}
# For 2 degrees of freedom, chi-square exceeds -2 ln p with probability p; here p is 1e-6.
_CHI_SQUARE_LIMIT = 27.6


# -- distribution ----------------------------------------------------------------------------


def _chi_square(landings: Sequence[str]) -> float:
    counts = Counter(landings)
    expected = len(landings) / 3
    return sum((counts[each] - expected) ** 2 / expected for each in sorted(ALL))


def test_connections_are_spread_evenly(tmp_path: Path) -> None:
    objects = service("web", VIP, node_port=30080), slice_of("web", B1, B2, B3)
    with cluster(tmp_path, *objects) as made:
        for source, ip, port in ((POD, VIP, 80), (OUTSIDER, NODE_IP, 30080), (NODE_IP, VIP, 80)):
            landings = made.landings([source] * 300, ip, port)
            assert set(landings) == ALL
            assert _chi_square(landings) < _CHI_SQUARE_LIMIT, Counter(landings)


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_other_protocols_are_served_under_the_same_address_and_port(
    tmp_path: Path, protocol: str
) -> None:
    objects = (
        service("web", VIP, node_port=30080),
        slice_of("web", B1),
        service("other", VIP, node_port=30080, protocol=protocol),
        slice_of("other", B2, B3, protocol=protocol),
    )
    with cluster(tmp_path, *objects) as made:
        assert set(made.landings([POD] * 5, VIP)) == {B1}
        assert set(made.landings([POD] * 25, VIP, protocol=protocol)) == {B2, B3}
        assert set(made.landings([OUTSIDER] * 25, NODE_IP, 30080, protocol)) == {B2, B3}
        made.apply(slice_of("other", protocol=protocol))
        (refused,) = made.send(POD, VIP, protocol=protocol)
        assert refused.fate == "refused"
        assert made.landing(POD, VIP) == B1


def test_both_families_of_a_service_are_served(tmp_path: Path) -> None:
    six = vip(1, 6)
    objects = (
        service("web", VIP, six, node_port=30080),
        slice_of("web", B1, B2),
        slice_of("web", backend(1, 6), backend(2, 6), family=6),
    )
    with cluster(tmp_path, *objects) as made:
        wanted = {backend(1, 6), backend(2, 6)}
        assert set(made.landings([POD] * 25, VIP)) == {B1, B2}
        # The harness waits for IPv4 only, and each family has a transaction of its own.
        eventually(lambda: set(made.landings(["fd00:1::5"] * 25, six)) == wanted)
        assert set(made.landings(["2001:db8:9::9"] * 25, NODE_IP6, 30080)) == wanted
        made.apply(slice_of("web", backend(3, 6), family=6))
        eventually(lambda: set(made.landings(["fd00:1::5"] * 5, six)) == {backend(3, 6)})
        assert set(made.landings([POD] * 25, VIP)) == {B1, B2}


def test_a_pod_that_calls_its_own_service_gets_itself_masqueraded(tmp_path: Path) -> None:
    objects = service("web", VIP, node_port=30080), slice_of("web", pod(B1, here=True))
    with cluster(tmp_path, *objects) as made:
        for ip, port in ((VIP, 80), (NODE_IP, 30080)):
            (outcome,) = made.send(B1, ip, port)
            assert outcome.fate == "landed"
            assert outcome.at is not None
            assert outcome.at.ip == B1
            assert outcome.source != B1
        (other,) = made.send(POD, VIP)
        assert other.source == POD
        # An endpoint that is no longer one may call the Service like any other pod.
        made.apply(slice_of("web", B2))
        (outcome,) = made.send(B1, VIP)
        assert (outcome.fate, outcome.source) == ("landed", B1)


# -- masquerading ----------------------------------------------------------------------------

MODES = {
    "ClusterCIDR": (
        {"detectLocalMode": "ClusterCIDR", "clusterCIDR": "10.0.0.0/8"},
        {POD, POD_OF_OTHER_NODE},
    ),
    "NodeCIDR": ({"detectLocalMode": "NodeCIDR"}, {POD}),
    "BridgeInterface": (
        {"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "pods0"}},
        {POD, POD_OF_OTHER_NODE},
    ),
    "InterfaceNamePrefix": (
        {"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "pod"}},
        {POD, POD_OF_OTHER_NODE},
    ),
}


@pytest.mark.parametrize("everything", [False, True], ids=["outsiders", "everything"])
@pytest.mark.parametrize("mode", MODES)
def test_who_keeps_its_address(tmp_path: Path, mode: str, everything: bool) -> None:
    detect, insiders = MODES[mode]
    objects = (
        node(pod_cidrs=["10.1.0.0/16"]),
        service("web", VIP),
        slice_of("web", B1),
    )
    kept = set() if everything else insiders
    with cluster(tmp_path, *objects, detect=detect, masquerade_all=everything) as made:
        sources = [POD, POD_OF_OTHER_NODE, OUTSIDER]
        outcomes = made.send_from(sources, VIP)
        assert [outcome.fate for outcome in outcomes] == ["landed"] * 3
        seen = {s for s, outcome in zip(sources, outcomes, strict=True) if outcome.source == s}
        assert seen == kept


def test_another_pod_network_of_the_node_counts_at_once(tmp_path: Path) -> None:
    objects = node(pod_cidrs=["10.1.0.0/16"]), service("web", VIP), slice_of("web", B1)
    with cluster(tmp_path, *objects, detect={"detectLocalMode": "NodeCIDR"}) as made:
        made.apply(node(pod_cidrs=["10.2.0.0/16"]))
        eventually(lambda: made.send(POD_OF_OTHER_NODE, VIP)[0].source == POD_OF_OTHER_NODE)
        assert made.send(POD, VIP)[0].source != POD


# -- node ports ------------------------------------------------------------------------------


def _node_port_answers(made: Cluster, ip: str) -> bool:
    (outcome,) = made.send(OUTSIDER, ip, 30080)
    return outcome.at is not None and outcome.at.ip == B1


@pytest.mark.parametrize(
    ("addresses", "answering"),
    [
        ((), {NODE_IP}),  # what this mode does unless told otherwise
        (("primary",), {NODE_IP}),
        (("198.51.100.0/24",), {OTHER_NODE_IP}),
        (("192.0.2.0/24", "198.51.100.0/24"), {NODE_IP, OTHER_NODE_IP}),
        (("0.0.0.0/0",), {NODE_IP, OTHER_NODE_IP}),
    ],
    ids=["default", "primary", "one network", "two networks", "all"],
)
def test_node_ports_answer_on_the_addresses_that_are_configured(
    tmp_path: Path, addresses: Sequence[str], answering: set[str]
) -> None:
    objects = service("web", VIP, node_port=30080), slice_of("web", B1)
    with cluster(tmp_path, *objects, node_port_addresses=addresses) as made:
        found = {ip for ip in (NODE_IP, OTHER_NODE_IP) if _node_port_answers(made, ip)}
        assert found == answering


def test_node_ports_follow_the_nodes_addresses(tmp_path: Path) -> None:
    objects = service("web", VIP, node_port=30080), slice_of("web", B1)
    with cluster(tmp_path, *objects, node_port_addresses=["198.51.100.0/24"]) as made:
        assert not _node_port_answers(made, "198.51.100.7")
        made.site.node.ip(["addr add 198.51.100.7/32 dev eth0", "addr add 192.0.2.7/32 dev eth0"])
        eventually(lambda: _node_port_answers(made, "198.51.100.7"))
        assert not _node_port_answers(made, "192.0.2.7")
        assert _node_port_answers(made, OTHER_NODE_IP)
        made.site.node.ip(["addr del 198.51.100.7/32 dev eth0"])
        eventually(lambda: not _node_port_answers(made, "198.51.100.7"))
        assert _node_port_answers(made, OTHER_NODE_IP)


def test_the_primary_address_follows_the_node_object(tmp_path: Path) -> None:
    objects = service("web", VIP, node_port=30080), slice_of("web", B1)
    with cluster(tmp_path, *objects, node_port_addresses=["primary"]) as made:
        assert not _node_port_answers(made, OTHER_NODE_IP)
        made.apply(node(ips=[OTHER_NODE_IP]))
        eventually(lambda: _node_port_answers(made, OTHER_NODE_IP))
        assert not _node_port_answers(made, NODE_IP)


# -- the cluster changes ---------------------------------------------------------------------


def _service_cidr(name: str, cidr: str) -> dict[str, object]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": [cidr]},
    }


def test_unallocated_addresses_of_a_new_service_range_are_dropped_at_once(tmp_path: Path) -> None:
    objects = service("web", "172.31.0.1"), slice_of("web", B1)
    with cluster(tmp_path, *objects) as made:
        assert made.is_silent(POD, "172.30.200.200")
        (outcome,) = made.send(POD, "172.31.0.9")
        assert (outcome.fate, outcome.at and outcome.at.ip) == ("landed", "172.31.0.9")
        made.apply(_service_cidr("more", "172.31.0.0/16"))
        assert made.is_silent(POD, "172.31.0.9")
        assert made.landing(POD, "172.31.0.1") == B1
        (wrong_port,) = made.send(POD, "172.31.0.1", 81)
        assert wrong_port.fate == "refused"
        made.delete(_service_cidr("more", "172.31.0.0/16"))
        (outcome,) = made.send(POD, "172.31.0.9")
        assert (outcome.fate, outcome.at and outcome.at.ip) == ("landed", "172.31.0.9")


def test_draining_endpoints_serve_only_while_nobody_is_ready(tmp_path: Path) -> None:
    objects = service("web", VIP), slice_of("web", B1, pod(B2, state="draining"))
    with cluster(tmp_path, *objects) as made:
        assert set(made.landings([POD] * 20, VIP)) == {B1}
        made.apply(slice_of("web", pod(B1, state="dead"), pod(B2, state="draining")))
        assert set(made.landings([POD] * 20, VIP)) == {B2}
        made.apply(slice_of("web", pod(B1, state="dead"), pod(B2, state="dead")))
        assert made.send(POD, VIP)[0].fate == "refused"
        made.apply(slice_of("web", B1, pod(B2, state="dead")))
        assert set(made.landings([POD] * 20, VIP)) == {B1}


def test_traffic_follows_the_nodes_zone(tmp_path: Path) -> None:
    pods = pod(B1, zone="a"), pod(B2, zone="b")
    with cluster(tmp_path, node(zone="a"), service("web", VIP), slice_of("web", *pods)) as made:
        assert set(made.landings([POD] * 20, VIP)) == {B1}
        made.apply(node(zone="b"))
        assert set(made.landings([POD] * 20, VIP)) == {B2}
        made.apply(node(zone="c"))  # nobody is meant for it: everybody serves it
        assert set(made.landings([POD] * 25, VIP)) == {B1, B2}


def _health(made: Cluster, address: str = NODE_IP) -> tuple[int, int]:
    """Status and number of local endpoints that the health check port tells."""
    with made.site.node.enter():
        connection = http.client.HTTPConnection(address, 32100, timeout=5)
        connection.connect()
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["localEndpoints"]
    finally:
        connection.close()


def test_the_health_check_port_tells_load_balancers_where_endpoints_are(tmp_path: Path) -> None:
    balanced = service(
        "web",
        VIP,
        node_port=30080,
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=32100,
    )
    with cluster(tmp_path, balanced, slice_of("web", B1)) as made:
        assert _health(made) == (503, 0)
        assert made.is_silent(OUTSIDER, NODE_IP, 30080)
        made.apply(slice_of("web", B1, pod(B2, here=True), pod(B3, here=True)))
        eventually(lambda: _health(made) == (200, 2))
        outcomes = made.send(OUTSIDER, NODE_IP, 30080, count=20)
        assert {outcome.at and outcome.at.ip for outcome in outcomes} == {B2, B3}
        assert {outcome.source for outcome in outcomes} == {OUTSIDER}
        made.apply(slice_of("web", B1, pod(B2, here=True, state="draining")))
        eventually(lambda: _health(made) == (503, 0))
        # The balancer needs a moment to notice; until then the draining endpoint serves.
        assert set(made.landings([OUTSIDER] * 5, NODE_IP, 30080)) == {B2}
        made.delete(balanced)
        with pytest.raises(ConnectionRefusedError):
            _health(made)


def test_the_health_check_port_answers_on_the_listed_addresses_loopback_included(
    tmp_path: Path,
) -> None:
    balanced = service(
        "web",
        VIP,
        node_port=30080,
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=32100,
    )
    objects = balanced, slice_of("web", pod(B1, here=True))
    with cluster(tmp_path, *objects, node_port_addresses=["127.0.0.0/8"]) as made:
        assert _health(made, "127.0.0.1") == (200, 1)
        with pytest.raises(ConnectionRefusedError):
            _health(made, NODE_IP)
