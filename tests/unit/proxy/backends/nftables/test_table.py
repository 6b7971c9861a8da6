import random
from collections import Counter
from dataclasses import replace

import pytest

from proxy.backends.nftables import layout
from proxy.backends.nftables.table import NftablesTable
from proxy.backends.settings import LocalTraffic, Settings
from proxy.model.addresses import IPFamily, pack_address
from proxy.netfilter.wire import Msg
from tests.support.nft_messages import element_changes, elements_of, kinds, name_in
from tests.support.plans import (
    ServiceGenerator,
    address,
    applied,
    endpoint,
    filled,
    network,
    plan,
    service_port,
    simple,
)

V4 = Settings(IPFamily.IPV4, local_traffic=LocalTraffic(network=network("10.0.0.0/8")))


def memory(table):
    """All that a table remembers, for comparison."""
    return (
        dict(table.placed),
        dict(table._counts),
        table.service_chains,
        frozenset(table._learned),
        table.settings,
    )


def held(batches):
    """Set elements after these batches, as a kernel keeps them; a wrong order fails."""
    kept: dict[tuple[str, bytes], tuple[bytes, bytes]] = {}
    for batch in batches:
        if batch.fresh:
            kept = {}
        for element in elements_of(batch.requests):
            place = element.set_name, element.key
            if element.kind is Msg.DELSETELEM:
                assert place in kept, "deletes what is not there"
                assert kept[place][1] == element.end, "names another range"
                del kept[place]
            else:
                assert place not in kept, "adds what is there"
                kept[place] = element.data, element.end
    return kept


# -- the size of a change --------------------------------------------------------------------


@pytest.mark.parametrize("services", [1, 300])
@pytest.mark.parametrize("endpoints", [3, 40])
def test_replacing_one_endpoint_costs_the_same_whatever_else_there_is(services, endpoints):
    table = filled(V4, *(simple(n, *range(endpoints)) for n in range(services)))
    changed = simple(0, *range(1, endpoints), 500)
    batch = table.change({changed.name: changed})
    assert element_changes(batch.requests) == {
        ("DELSETELEM", layout.ENDPOINTS): 1,
        ("NEWSETELEM", layout.ENDPOINTS): 1,
    }
    assert kinds(batch.requests) == {"DELSETELEM": 1, "NEWSETELEM": 1}


@pytest.mark.parametrize("endpoints", [3, 40])
def test_one_endpoint_more_costs_one_element_and_the_verdict(endpoints):
    table = filled(
        V4, *(simple(n, *range(endpoints)) for n in range(50)), simple(99, *range(endpoints + 1))
    )
    changed = simple(0, *range(endpoints), 500)
    batch = table.change({changed.name: changed})
    assert element_changes(batch.requests) == {
        ("DELSETELEM", layout.SERVICE_IPS): 1,
        ("NEWSETELEM", layout.SERVICE_IPS): 1,
        ("NEWSETELEM", layout.ENDPOINTS): 1,
    }


@pytest.mark.parametrize("endpoints", [3, 40])
def test_one_endpoint_less_moves_only_the_last_one(endpoints):
    table = filled(
        V4, *(simple(n, *range(endpoints)) for n in range(50)), simple(99, *range(endpoints - 1))
    )
    changed = simple(0, *range(1, endpoints))
    batch = table.change({changed.name: changed})
    assert element_changes(batch.requests) == {
        ("DELSETELEM", layout.SERVICE_IPS): 1,
        ("NEWSETELEM", layout.SERVICE_IPS): 1,
        ("DELSETELEM", layout.ENDPOINTS): 2,
        ("NEWSETELEM", layout.ENDPOINTS): 1,
    }


def test_a_plan_that_is_as_before_costs_nothing():
    table = filled(V4, simple(1, 1, 2))
    again = simple(1, 2, 1)
    assert not table.change({again.name: again})


def test_removing_what_was_never_there_costs_nothing():
    table = filled(V4)
    batch = table.change({simple(1, 1).name: None})
    assert not batch
    assert batch.placed == {}


# -- order -----------------------------------------------------------------------------------


def test_chains_come_first_then_deletions_then_additions():
    table = filled(V4, simple(1, 1, 2), simple(2, 1))
    batch = table.change(
        {
            simple(1).name: simple(1, 2, 3, 4),
            simple(2).name: None,
            simple(3).name: simple(3, *range(9)),
        }
    )
    order = ["NEWCHAIN", "NEWRULE", "DELSETELEM", "NEWSETELEM"]
    rank = {"NEWCHAIN": 0, "NEWRULE": 0, "DELSETELEM": 1, "NEWSETELEM": 2}
    ranks = [rank[request.kind.name] for request in batch.requests]
    assert ranks == sorted(ranks)
    assert set(order) == set(kinds(batch.requests))


def test_a_chain_exists_before_anything_refers_to_it():
    table = filled(V4)
    batch = table.change({simple(1).name: simple(1, 1, 2)})
    added = [name_in(request) for request in batch.requests if request.kind is Msg.NEWCHAIN]
    assert added == ["lb-2", "cluster-ip-lb-2"]


def test_chains_are_shared_and_added_once():
    table = filled(V4, simple(1, 1, 2))
    again = table.change({simple(2).name: simple(2, 3, 4)})
    assert "NEWCHAIN" not in kinds(again.requests)
    two = table.change({simple(n).name: simple(n, 1, 2, 3) for n in (3, 4)})
    assert kinds(two.requests)["NEWCHAIN"] == 2


def test_an_address_moves_from_one_service_to_another_in_one_batch():
    table = filled(V4, simple(1, 1))
    taker = replace(simple(1, 2), name=simple(2).name)
    batch = table.change({taker.name: taker, simple(1).name: None})
    before = table_batches(simple(1, 1))
    assert held([*before, batch]) == held(table_batches(taker))


def table_batches(*plans):
    return [NftablesTable(V4).restate(plans, replace=False)]


# -- shared elements -------------------------------------------------------------------------


def test_a_shared_element_is_added_once_and_leaves_with_the_last_one_that_needs_it():
    first = plan(service_port(1, port=80), endpoint(1, local=True))
    second = plan(service_port(1, port=443), endpoint(1, local=True))
    third = plan(service_port(2), endpoint(1, local=True))
    table, batches = NftablesTable(V4), []

    def change(**plans):
        batch = applied(table, table.change({byname[n].name: p for n, p in plans.items()}))
        batches.append(batch)
        changes = element_changes(batch.requests)
        return {
            (kind, name): count
            for (kind, name), count in changes.items()
            if name in (layout.CLUSTER_IPS, layout.HAIRPIN)
        }

    byname = {"first": first, "second": second, "third": third}
    assert change(first=first, second=second) == {
        ("NEWSETELEM", layout.CLUSTER_IPS): 1,
        ("NEWSETELEM", layout.HAIRPIN): 1,
    }
    assert change(third=third) == {("NEWSETELEM", layout.CLUSTER_IPS): 1}
    assert change(first=None) == {}
    assert change(third=None) == {("DELSETELEM", layout.CLUSTER_IPS): 1}
    assert change(second=None) == {
        ("DELSETELEM", layout.CLUSTER_IPS): 1,
        ("DELSETELEM", layout.HAIRPIN): 1,
    }
    assert held(batches) == {}
    assert memory(table)[:2] == ({}, {})


def test_a_shared_element_that_changes_hands_in_one_batch_is_not_touched():
    table = filled(V4, plan(service_port(1), endpoint(1, local=True)))
    taker = plan(service_port(1, port=443), endpoint(1, local=True))
    batch = table.change({simple(1).name: None, taker.name: taker})
    assert not {name for _, name in element_changes(batch.requests)} & {
        layout.CLUSTER_IPS,
        layout.HAIRPIN,
    }


# -- memory ----------------------------------------------------------------------------------


def test_nothing_is_remembered_before_commit():
    table = filled(V4, simple(1, 1, 2))
    before = memory(table)
    sticky = plan(service_port(2, affinity_timeout_s=5), endpoint(1, local=True))
    table.change({simple(1).name: None, sticky.name: sticky})
    table.restate([sticky], replace=True)
    table.resettle(replace(V4, node_port_addresses=frozenset({b"\1\2\3\4"})))
    assert memory(table) == before


def test_an_uncommitted_batch_is_computed_again_the_same():
    table = filled(V4, simple(1, 1, 2))
    changes = {simple(1).name: simple(1, 2, 3, 4)}
    assert table.change(changes).requests == table.change(changes).requests


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("seed", range(8))
def test_changes_end_where_a_restatement_would(seed, family):
    draw = random.Random(seed)
    draw_plan = ServiceGenerator(seed, family).plan
    table = NftablesTable(Settings(family))
    batches = [applied(table, table.restate([draw_plan(n) for n in range(6)], replace=False))]
    for _ in range(40):
        numbers = draw.sample(range(12), draw.randint(1, 4))
        drawn = {n: draw_plan(n) for n in numbers}
        changes = {p.name: p if draw.random() < 0.7 else None for p in drawn.values()}
        batches.append(applied(table, table.change(changes)))
    plans = [placed.plan for placed in table.placed.values()]
    fresh = NftablesTable(Settings(family))
    whole = [applied(fresh, fresh.restate(plans, replace=False))]
    changed, restated = held(batches), held(whole)
    # A place in a pool may differ, and nothing else.
    pools = (
        layout.ENDPOINTS,
        layout.LOCAL_ENDPOINTS,
        layout.NODEPORT_ENDPOINTS,
        layout.NODEPORT_LOCAL_ENDPOINTS,
    )
    assert changed.keys() == restated.keys()
    assert {k: v for k, v in changed.items() if k[0] not in pools} == {
        k: v for k, v in restated.items() if k[0] not in pools
    }
    for pool in pools:
        assert _by_frontend(changed, pool) == _by_frontend(restated, pool)
    assert table._counts == fresh._counts
    assert table._learned == fresh._learned
    assert fresh.service_chains <= table.service_chains


def _by_frontend(kept, pool):
    return Counter((key[:-4], value[0]) for (name, key), value in kept.items() if name == pool)


def test_emptying_the_table_leaves_no_element():
    draw_plan = ServiceGenerator(1, IPFamily.IPV4).plan
    plans = [draw_plan(n) for n in range(20)]
    table = NftablesTable(V4)
    batches = [applied(table, table.restate(plans, replace=False))]
    batches.append(applied(table, table.change({p.name: None for p in plans})))
    assert held(batches) == {}
    assert len(table) == 0


# -- restating -------------------------------------------------------------------------------


def test_restating_flushes_everything_but_remembered_clients():
    batch = NftablesTable(V4).restate([simple(1, 1)], replace=False)
    flushed = {
        name_in(request)
        for request in batch.requests
        if request.kind is Msg.DELSETELEM and not list(elements_of([request]))
    }
    assert flushed == set(layout.sets(IPFamily.IPV4)) - {layout.AFFINITY}
    assert "DELTABLE" not in kinds(batch.requests)


def test_replacing_deletes_the_table_in_the_same_batch():
    batch = NftablesTable(V4).restate([], replace=True)
    first = [request.kind.name for request in batch.requests[:4]]
    assert first == ["NEWTABLE", "DELTABLE", "NEWTABLE", "NEWSET"]


def test_a_restatement_forgets_what_is_not_in_it():
    table = filled(V4, simple(1, 1, 2), plan(service_port(2, affinity_timeout_s=5), endpoint(1)))
    applied(table, table.restate([simple(3, 1)], replace=False))
    assert memory(table) == memory(filled(V4, simple(3, 1)))


# -- affinity --------------------------------------------------------------------------------


def test_clients_are_forgotten_only_when_a_pair_left():
    sticky = service_port(1, affinity_timeout_s=5)
    table = filled(V4, plan(sticky, endpoint(1), endpoint(2)))
    more = plan(sticky, endpoint(1), endpoint(2), endpoint(3))
    less = plan(sticky, endpoint(2))
    longer = plan(service_port(1, affinity_timeout_s=9), endpoint(1), endpoint(2))
    assert not table.change({more.name: more}).forgets_clients
    assert not table.change({longer.name: longer}).forgets_clients
    assert table.change({less.name: less}).forgets_clients
    assert table.change({less.name: None}).forgets_clients


def test_pairs_are_known_from_commit_to_removal():
    sticky = plan(service_port(1, affinity_timeout_s=5), endpoint(1))
    pair = address("cluster", 1) + b"\x06\0\0\0\0\x50\0\0" + address("pod", 1) + b"\x1f\x90\0\0"
    table = filled(V4)
    batch = table.change({sticky.name: sticky})
    assert not table.learns(pair)
    applied(table, batch)
    assert table.learns(pair)
    applied(table, table.change({sticky.name: None}))
    assert not table.learns(pair)


# -- settings and chains ---------------------------------------------------------------------


def test_resettling_touches_only_addresses_that_differ():
    one, two, three = (pack_address(f"10.0.0.{n}") for n in (1, 2, 3))
    table = filled(replace(V4, node_port_addresses=frozenset({one, two})))
    after = replace(V4, node_port_addresses=frozenset({two, three}))
    batch = table.resettle(after)
    changes = [(e.kind.name, e.set_name, e.key) for e in elements_of(batch.requests)]
    assert changes == [
        ("DELSETELEM", layout.NODEPORT_IPS, one),
        ("NEWSETELEM", layout.NODEPORT_IPS, three),
    ]
    applied(table, batch)
    assert table.settings == after
    assert not table.resettle(after)


def test_resettling_service_cidrs_rewrites_one_chain():
    table = filled(V4)
    batch = table.resettle(replace(V4, service_cidrs=(network("172.30.0.0/16"),)))
    assert {name_in(request) for request in batch.requests} == {"cluster-ips-check"}
    assert kinds(batch.requests) == {"DELRULE": 1, "NEWRULE": 2}


def test_chains_in_use_are_those_of_the_present_plans_and_the_fixed_ones():
    table = filled(V4, simple(1, 1, 2))
    applied(table, table.change({simple(1).name: simple(1, 1)}))
    in_use = table.chains_in_use()
    assert {"lb-1", "cluster-ip-lb-1", "services", "nat-prerouting"} <= in_use
    unused = table.service_chains - in_use
    assert unused == {"lb-2", "cluster-ip-lb-2"}
    table.forget_chains(unused)
    batch = table.change({simple(1).name: simple(1, 1, 2)})
    assert kinds(batch.requests)["NEWCHAIN"] == 2


def test_a_request_names_the_service_ports_whose_elements_it_carries():
    table = filled(V4)
    batch = table.change({simple(n).name: simple(n, 1) for n in (1, 2)})
    origins = [
        request.origins
        for request in batch.requests
        if request.kind is Msg.NEWSETELEM and name_in(request) == layout.SERVICE_IPS
    ]
    assert origins == [(simple(1).name, simple(2).name)]
