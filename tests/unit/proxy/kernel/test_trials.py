"""The trials cover what the data plane writes, so that nothing it needs goes unnoticed."""

from ipaddress import ip_network

import pytest

from proxy.backends.nftables import layout
from proxy.backends.nftables.service_chains import Entry, entry_chains, learn_chain
from proxy.backends.settings import LocalTraffic, Settings
from proxy.kernel.trials import trials
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import Msg, attributes, iterate_attributes
from proxy.plan.service_plan import Route

FAMILIES = pytest.mark.parametrize("family", list(IPFamily))
NETWORKS = {IPFamily.IPV4: ip_network("10.0.0.0/8"), IPFamily.IPV6: ip_network("fd00::/8")}
Kind = tuple[str, bytes]


def kinds(expressions: bytes) -> set[Kind]:
    """Return (name, key) of each expression; key is what ct, meta and fib are asked for."""
    found = set()
    for _, element in iterate_attributes(expressions):
        parts = attributes(element)
        name = bytes(parts[1]).rstrip(b"\0").decode()
        key = bytes(attributes(parts[2])[2]) if name in ("ct", "meta", "fib") else b""
        found.add((name, key))
    return found


def tried_kinds(family: IPFamily) -> set[Kind]:
    found = set()
    for trial in trials(family):
        for request in trial.requests:
            if request.kind is Msg.NEWRULE:
                found |= kinds(bytes(attributes(request.body)[4]))
    return found


def written_chains(family: IPFamily):
    """Return every kind of chain the data plane writes, under every kind of setting."""
    network = NETWORKS[family]
    for local in (
        LocalTraffic(network=network),
        LocalTraffic(interface="cni0"),
        LocalTraffic(interface_prefix="veth"),
    ):
        for addresses in (None, frozenset({network.network_address.packed})):
            settings = Settings(
                family,
                local_traffic=local,
                node_port_addresses=addresses,
                service_cidrs=(network,),
            )
            yield from layout.fixed_chains(settings)
            for route in Route:
                for flag in (True, False):
                    yield from entry_chains(Entry(route, flag, flag, flag, 3, 2), settings)
    yield from layout.base_chains()
    yield learn_chain(family, 10800)


@FAMILIES
def test_every_kind_of_expression_the_data_plane_writes_is_tried(family):
    written = set()
    for chain in written_chains(family):
        for rule in chain.rules:
            written |= kinds(rule.expressions)
    assert {"dynset", "fib", "masq", "nat", "numgen", "reject"} <= {name for name, _ in written}
    assert written <= tried_kinds(family)


@FAMILIES
def test_every_kind_of_set_and_base_chain_of_the_table_is_tried(family):
    requests = [request for trial in trials(family) for request in trial.requests]
    sets = [attributes(r.body) for r in requests if r.kind is Msg.NEWSET]
    assert {item.flags for item in layout.sets(family).values()} <= {
        int.from_bytes(found[3], "big") for found in sets
    }
    chains = [attributes(r.body) for r in requests if r.kind is Msg.NEWCHAIN]
    hooks = {
        (bytes(c[7]).rstrip(b"\0").decode(), int.from_bytes(attributes(c[4])[1], "big"))
        for c in chains
        if 7 in c
    }
    written = [chain.hook for chain in layout.base_chains()]
    assert {(hook.kind, hook.number) for hook in written if hook} <= hooks


@FAMILIES
def test_a_trial_needs_only_what_was_tried_before_it(family):
    before: set[str] = set()
    for trial in trials(family):
        assert set(trial.needs) <= before, trial.feature
        assert trial.feature not in before
        before.add(trial.feature)
