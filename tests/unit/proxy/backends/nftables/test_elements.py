import random

import pytest

from proxy.backends.nftables import layout
from proxy.backends.nftables.elements import (
    Placed,
    _keep_places,
    frontend_key,
    place,
    port_elements,
    shared_elements,
)
from proxy.backends.settings import LocalTraffic, Settings
from proxy.model.addresses import IPFamily
from proxy.netfilter.statements import DROP, goto
from tests.support.plans import address, endpoint, network, plan, service_port, simple

V4 = Settings(IPFamily.IPV4, local_traffic=LocalTraffic(network=network("10.0.0.0/8")))
VIP = address("cluster", 1)


def targets(*numbers):
    return tuple(address("pod", number) + b"\x1f\x90" for number in numbers)


def elements(made, settings=V4):
    return port_elements(place(made, None), settings)[0]


def chain_names(made, settings=V4):
    return {chain.name for chain in port_elements(place(made, None), settings)[1]}


# -- places ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "wanted", "placed"),
    [
        ((1, 2, 3), (3, 2, 1), (1, 2, 3)),
        ((1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4)),
        ((1, 2, 3), (2, 3), (3, 2)),
        ((1, 2, 3), (1, 2), (1, 2)),
        ((1, 2, 3), (1, 9, 3), (1, 9, 3)),
        ((1, 2, 3), (8, 9), (8, 9)),
        ((1, 2, 3, 4), (4,), (4,)),
        ((1, 2, 3), (), ()),
        ((), (1, 2), (1, 2)),
    ],
)
def test_who_stays_keeps_its_place(before, wanted, placed):
    assert _keep_places(targets(*before), targets(*wanted)) == targets(*placed)


@pytest.mark.parametrize("seed", range(20))
def test_places_are_a_permutation_and_only_the_tail_moves_into_gaps(seed):
    draw = random.Random(seed)
    for _ in range(200):
        before = draw.sample(range(30), draw.randint(0, 12))
        wanted = draw.sample(range(30), draw.randint(0, 12))
        placed = _keep_places(tuple(map(_raw, before)), tuple(map(_raw, wanted)))
        assert sorted(placed) == sorted(map(_raw, wanted))
        for index, target in enumerate(map(_raw, before)):
            if target not in placed or placed.index(target) == index:
                continue
            # It moved, so it stood beyond the new end, and it fills what had become empty.
            assert index >= len(placed)
            assert before[placed.index(target)] not in wanted


@pytest.mark.parametrize("seed", range(20))
def test_each_endpoint_that_comes_or_goes_costs_at_most_two_changed_places(seed):
    draw = random.Random(seed)
    for _ in range(200):
        before = tuple(map(_raw, draw.sample(range(40), draw.randint(0, 20))))
        left = draw.sample(before, draw.randint(0, min(3, len(before))))
        newcomers = tuple(map(_raw, draw.sample(range(40, 60), draw.randint(0, 3))))
        wanted = sorted([t for t in before if t not in left] + list(newcomers))
        placed = _keep_places(before, tuple(wanted))
        old, new = dict(enumerate(before)), dict(enumerate(placed))
        changed = {index for index in old.keys() | new.keys() if old.get(index) != new.get(index)}
        assert len(changed) <= 2 * (len(left) + len(newcomers))


def _raw(number):
    return targets(number)[0]


def test_places_are_those_of_the_plan_when_nothing_was_there():
    made = simple(1, 3, 1, 2)
    assert place(made, None) == Placed(made, made.cluster, made.local)


# -- elements --------------------------------------------------------------------------------


def test_a_cluster_ip_is_one_verdict_and_one_element_per_endpoint():
    found = elements(simple(1, 1, 2))
    key = VIP + b"\x06\0\0\0" + b"\0\x50\0\0"
    assert found == {
        (layout.SERVICE_IPS, key): goto("cluster-ip-lb-2"),
        (layout.ENDPOINTS, key + b"\0\0\0\0"): address("pod", 1) + b"\x1f\x90\0\0",
        (layout.ENDPOINTS, key + b"\1\0\0\0"): address("pod", 2) + b"\x1f\x90\0\0",
    }


def test_a_service_without_endpoints_is_refused_and_routed_nowhere():
    found = elements(simple(1))
    assert set(found.values()) == {goto(layout.REJECT_CHAIN)}
    assert {name for name, _ in found} == {layout.NO_ENDPOINT_SERVICES}


def test_policy_local_without_local_endpoints_drops_outsiders_and_still_serves_pods():
    port = service_port(
        1, external_policy_local=True, load_balancer_vips=(address("balancer", 1),), node_port=30001
    )
    found = elements(plan(port, endpoint(1)))
    by_set = {name: value for (name, key), value in found.items() if key[:4] != VIP}
    assert by_set[layout.NO_ENDPOINT_SERVICES] == DROP
    assert by_set[layout.NO_ENDPOINT_NODEPORTS] == DROP
    assert by_set[layout.SERVICE_IPS] == goto("external-local-lb-1-0")
    assert by_set[layout.SERVICE_NODEPORTS] == goto("external-local-nodeport-lb-1-0")


def test_each_pool_has_maps_of_its_own():
    port = service_port(
        1, external_policy_local=True, load_balancer_vips=(address("balancer", 1),), node_port=30001
    )
    found = elements(plan(port, endpoint(1), endpoint(2, local=True)))
    pools = {name: 0 for name, _ in found if "endpoints" in name}
    for name, _ in found:
        if name in pools:
            pools[name] += 1
    assert pools == {
        layout.ENDPOINTS: 4,  # the ClusterIP's two, and the load balancer's for pods
        layout.LOCAL_ENDPOINTS: 1,
        layout.NODEPORT_ENDPOINTS: 2,
        layout.NODEPORT_LOCAL_ENDPOINTS: 1,
    }


def test_the_same_address_under_two_headings_is_one_frontend():
    shared = address("balancer", 1)
    port = service_port(1, external_ips=(shared,), load_balancer_vips=(shared, shared))
    found = elements(plan(port, endpoint(1)))
    keys = [key for name, key in found if name == layout.SERVICE_IPS]
    assert sorted(key[:4] for key in keys) == sorted([VIP, shared])


def test_overlapping_and_repeated_source_ranges_become_disjoint_ranges():
    ranges = ("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "192.0.2.0/25", "192.0.2.128/25")
    port = service_port(
        1,
        load_balancer_vips=(address("balancer", 1),),
        source_ranges=tuple(map(network, ranges)),
    )
    found = elements(plan(port, endpoint(1)))
    key = address("balancer", 1) + b"\x06\0\0\0" + b"\0\x50\0\0"
    allowed = {k[1]: v for k, v in found.items() if k[0] == layout.ALLOWED_SOURCES}
    assert allowed == {
        key + bytes((10, 0, 0, 0)): key + bytes((10, 255, 255, 255)),
        key + bytes((192, 0, 2, 0)): key + bytes((192, 0, 2, 255)),
    }
    assert found[layout.FIREWALL_IPS, key] == goto(layout.SOURCES_CHAIN)


def test_affinity_adds_one_learning_element_per_frontend_and_endpoint():
    port = service_port(1, affinity_timeout_s=60, node_port=30001)
    made = plan(port, endpoint(1), endpoint(2), endpoint(3))
    found = elements(made)
    learning = {k: v for k, v in found.items() if k[0].startswith("affinity-learn")}
    assert len(learning) == 6
    assert set(learning.values()) == {goto("affinity-learn-60")}
    assert "sticky-lb-3" in chain_names(made)
    assert "sticky-nodeport-lb-3" in chain_names(made)


def test_masquerading_everything_needs_no_detection_of_local_traffic():
    everything = Settings(IPFamily.IPV4, masquerade_all=True)
    nothing = Settings(IPFamily.IPV4)
    assert chain_names(simple(1, 1), everything) == {"lb-1", "cluster-ip-lb-1"}
    assert chain_names(simple(1, 1), nothing) == {"lb-1"}


def test_shared_elements_are_cluster_ips_and_hairpins():
    made = plan(service_port(1), endpoint(1, local=True), endpoint(2))
    local = address("pod", 1)
    assert set(shared_elements(made)) == {
        (layout.CLUSTER_IPS, VIP),
        (layout.HAIRPIN, local + local),
    }


@pytest.mark.parametrize("family", IPFamily)
def test_keys_have_the_length_that_their_set_declares(family):
    settings = Settings(family)
    port = service_port(
        1,
        family,
        node_port=30001,
        affinity_timeout_s=5,
        external_policy_local=True,
        load_balancer_vips=(address("balancer", 1, family),),
        source_ranges=(network("10.0.0.0/8" if family is IPFamily.IPV4 else "fd00::/8"),),
    )
    made = plan(port, endpoint(1, family, local=True), endpoint(2, family))
    sets = layout.sets(family)
    keys = [*elements(made, settings), *shared_elements(made)]
    assert {name for name, _ in keys} >= {layout.ALLOWED_SOURCES, layout.AFFINITY_LEARN_NODEPORTS}
    for name, key in keys:
        wanted = 4 * sum(field.registers for field in sets[name].key)
        assert len(key) == wanted, name


def test_a_frontend_key_is_address_protocol_and_port_each_padded_to_four():
    frontend = simple(1, 1).frontends[0]
    assert frontend_key(17, frontend) == VIP + b"\x11\0\0\0" + b"\0\x50\0\0"
