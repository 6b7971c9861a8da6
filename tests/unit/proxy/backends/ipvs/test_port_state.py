"""What one service port needs: virtual servers, entries of ipsets, addresses."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from proxy.backends.ipvs import names
from proxy.backends.ipvs.port_state import PortState, port_state
from proxy.backends.ipvs.settings import IpvsSettings
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipset import SetEntry
from proxy.netfilter.ipvs import FLAG_PERSISTENT, FLAG_SCHED_MH_PORT, ServerKey
from proxy.plan.service_plan import plan_service_port
from tests.support.plans import HERE, address, endpoint, plan, service_port

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}
NODES = {
    V4: frozenset({bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))}),
    V6: frozenset({address("external", 0xFFFF, V6)}),
}
EXTERNAL, BALANCER = address("external", 1), address("balancer", 2)
EVERYWHERE = pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])
PROTOCOLS = pytest.mark.parametrize("protocol", NUMBERS)


def settings(family: IPFamily = V4, **changed: object) -> IpvsSettings:
    made = IpvsSettings(family, node_addresses=NODES[family], node_port_servers=NODES[family])
    return replace(made, **changed)  # type: ignore[arg-type]


def state_of(*pods, protocol="TCP", given=None, node_port=0, **traits) -> PortState:
    given = given or settings()
    made = service_port(1, given.family, protocol=protocol, node_port=node_port, **traits)
    return port_state(plan(made, *pods), given)


def targets(state: PortState) -> dict[ServerKey, set[bytes]]:
    return {key: {real.address for real in reals} for key, (_, reals) in state.servers.items()}


def entries(state: PortState) -> dict[str, set[SetEntry]]:
    found: dict[str, set[SetEntry]] = {}
    for kind, entry in state.entries:
        found.setdefault(kind.base.removeprefix("KUBE-"), set()).add(entry)
    return found


@EVERYWHERE
@PROTOCOLS
def test_a_cluster_ip_is_a_virtual_server_at_an_address_of_the_device(family, protocol) -> None:
    pods = [endpoint(n, family, port=9000 + n) for n in (1, 2)]
    state = state_of(*pods, given=settings(family), protocol=protocol)
    vip, number = address("cluster", 1, family), NUMBERS[protocol]
    [(key, (server, reals))] = state.servers.items()
    assert (key, server.key) == (ServerKey(vip, 80, number), key)
    assert (server.scheduler, server.flags, server.timeout_s) == ("rr", 0, 0)
    assert [(r.address, r.port) for r in reals] == [
        (address("pod", n, family), 9000 + n) for n in (1, 2)
    ]
    assert entries(state) == {
        "CLUSTER-IP": {SetEntry(vip, number, 80)},
        "IPVS-IPS": {SetEntry(vip)},
    }


@pytest.mark.parametrize(
    ("local", "sets"),
    [
        (False, {"EXTERNAL-IP"}),
        (True, {"EXTERNAL-IP-LOCAL"}),
    ],
)
def test_an_external_ip_is_in_the_set_of_its_policy(local, sets) -> None:
    state = state_of(endpoint(1), external_ips=(EXTERNAL,), external_policy_local=local)
    found = entries(state)
    named = {name for name, each in found.items() if SetEntry(EXTERNAL, 6, 80) in each}
    assert named == sets
    assert SetEntry(EXTERNAL) in found["IPVS-IPS"]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("restricted", [False, True])
def test_a_load_balancer_is_in_the_sets_of_its_policy_and_ranges(local, restricted) -> None:
    ranges = (ip_network("203.0.113.0/24"), ip_network("198.51.100.7/32")) if restricted else ()
    state = state_of(
        endpoint(1),
        load_balancer_vips=(BALANCER,),
        external_policy_local=local,
        source_ranges=ranges,
    )
    found = entries(state)
    wanted = {"LOAD-BALANCER"}
    wanted |= {"LOAD-BALANCER-LOCAL"} if local else set()
    wanted |= {"LOAD-BALANCER-FW"} if restricted else set()
    assert {n for n, each in found.items() if SetEntry(BALANCER, 6, 80) in each} == wanted
    assert found.get("LOAD-BALANCER-SOURCE-CIDR", set()) == {
        SetEntry(BALANCER, 6, 80, net.network_address.packed, net.prefixlen) for net in ranges
    }
    assert state.unanswered == ((ServerKey(BALANCER, 80, 6),) if restricted else ())


def test_a_node_within_the_ranges_may_call_the_load_balancer_from_its_address() -> None:
    made = service_port(
        1, load_balancer_vips=(BALANCER,), source_ranges=(ip_network("192.0.2.0/24"),)
    )
    own = plan_service_port(made, (endpoint(1),), HERE, bytes((192, 0, 2, 1)))
    state = port_state(own, settings())
    assert state.unanswered == ()
    itself = SetEntry(BALANCER, 6, 80, BALANCER)
    assert entries(state)["LOAD-BALANCER-SOURCE-IP"] == {itself}


@PROTOCOLS
@pytest.mark.parametrize("local", [False, True])
def test_a_node_port_is_a_virtual_server_at_each_address(protocol, local) -> None:
    state = state_of(endpoint(1), protocol=protocol, node_port=30080, external_policy_local=local)
    number = NUMBERS[protocol]
    servers = {key for key in state.servers if key.port == 30080}
    assert servers == {ServerKey(node, 30080, number) for node in NODES[V4]}
    suffix = f"{protocol}-HASH" if protocol == "SCTP" else protocol
    wanted = {SetEntry(port=30080)}
    if protocol == "SCTP":
        wanted = {SetEntry(node, number, 30080) for node in NODES[V4]}
    found = entries(state)
    assert found[f"NODE-PORT-{suffix}"] == wanted
    assert found.get(f"NODE-PORT-LOCAL-{suffix}") == (wanted if local else None)
    assert found["IPVS-IPS"] == {SetEntry(address("cluster", 1))}


def test_without_an_address_there_are_no_node_ports_and_no_health_check() -> None:
    given = settings(node_port_servers=frozenset())
    traits = {"health_check_node_port": 31000, "external_policy_local": True}
    state = state_of(endpoint(1), node_port=30080, given=given, **traits)
    assert [key.port for key in state.servers] == [80]
    assert entries(state).keys() == {"CLUSTER-IP", "IPVS-IPS"}
    somewhere = state_of(endpoint(1), node_port=30080, **traits)
    assert entries(somewhere)["HEALTH-CHECK-NODE-PORT"] == {SetEntry(port=31000)}


def test_the_nodes_own_address_is_served_but_never_bound() -> None:
    node = min(NODES[V4])
    for traits in ({"external_ips": (node,)}, {"load_balancer_vips": (node,)}):
        state = state_of(endpoint(1), **traits)
        assert ServerKey(node, 80, 6) in state.servers
        assert SetEntry(node) not in entries(state)["IPVS-IPS"]


def test_pods_here_of_any_readiness_may_call_themselves() -> None:
    state = state_of(endpoint(1, local=True, ready=False), endpoint(2, local=True), endpoint(3))
    assert entries(state)["LOOP-BACK"] == {
        SetEntry(address("pod", n), 6, 8080, address("pod", n)) for n in (1, 2)
    }


HERE_POD, ELSEWHERE = endpoint(1, local=True), endpoint(2)
ALL, LOCAL = {HERE_POD.address, ELSEWHERE.address}, {HERE_POD.address}


@pytest.mark.parametrize(
    ("pods", "internal", "external", "inside", "outside"),
    [
        ((HERE_POD, ELSEWHERE), False, False, ALL, ALL),
        ((HERE_POD, ELSEWHERE), True, False, LOCAL, ALL),
        ((HERE_POD, ELSEWHERE), False, True, ALL, LOCAL),
        ((HERE_POD, ELSEWHERE), True, True, LOCAL, LOCAL),
        # Where a Local policy finds nobody, IPVS cannot drop.
        ((ELSEWHERE,), True, True, {ELSEWHERE.address}, {ELSEWHERE.address}),
        ((), True, True, set(), set()),
    ],
)
def test_each_frontend_follows_its_own_policy(pods, internal, external, inside, outside) -> None:
    state = state_of(
        *pods,
        node_port=30080,
        external_ips=(EXTERNAL,),
        load_balancer_vips=(BALANCER,),
        internal_policy_local=internal,
        external_policy_local=external,
    )
    vip = address("cluster", 1)
    assert {key.address for key in state.servers} == {vip, EXTERNAL, BALANCER, *NODES[V4]}
    for key, found in targets(state).items():
        assert found == (inside if key.address == vip else outside), key


def test_affinity_is_persistence_of_every_frontend() -> None:
    state = state_of(endpoint(1), node_port=30080, affinity_timeout_s=60)
    assert {(s.flags, s.timeout_s) for s, _ in state.servers.values()} == {(FLAG_PERSISTENT, 60)}


def test_maglev_hashing_takes_ports_into_account() -> None:
    state = state_of(endpoint(1), given=settings(scheduler="mh"), affinity_timeout_s=60)
    [(server, _)] = state.servers.values()
    assert (server.scheduler, server.flags) == ("mh", FLAG_PERSISTENT | FLAG_SCHED_MH_PORT)


def test_names_of_ipv6_sets_are_as_long_as_ipset_takes() -> None:
    found = {kind.name(V6) for kind in names.SETS}
    assert len(found) == len(names.SETS) == 17
    assert max(map(len, found)) == 31
    assert "KUBE-6-LOAD-BALANCER-SOURCE-CID" in found
    assert {kind.name(V4) for kind in names.SETS}.isdisjoint(found)
