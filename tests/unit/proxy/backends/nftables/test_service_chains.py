import pytest

from proxy.backends.nftables.service_chains import Entry, entry_chains, entry_of, learn_chain
from proxy.backends.settings import LocalTraffic, Settings
from proxy.model.addresses import IPFamily
from proxy.plan.service_plan import Frontend, FrontendKind, Refusal, Route
from tests.support.plans import network

PODS = LocalTraffic(network=network("10.0.0.0/8"))
V4 = Settings(IPFamily.IPV4, local_traffic=PODS)


def entry(route=Route.CLUSTER, *, always=False, node_port=False, sticky=False, cluster=3, local=1):
    kind = FrontendKind.NODE_PORT if node_port else FrontendKind.CLUSTER_IP
    frontend = Frontend(kind, b"", 80, route, Refusal.NONE, always, False)
    return entry_of(frontend, sticky, cluster, local)


def names(made, settings=V4):
    return [chain.name for chain in entry_chains(made, settings)]


def rules(made, settings=V4):
    return [rule.text for rule in entry_chains(made, settings)[-1].rules]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (entry(), ["lb-3", "cluster-ip-lb-3"]),
        (entry(always=True), ["lb-3", "external-lb-3"]),
        (entry(Route.LOCAL), ["local-lb-1", "cluster-ip-local-lb-1"]),
        (entry(sticky=True), ["lb-3", "sticky-lb-3", "cluster-ip-sticky-lb-3"]),
        (
            entry(always=True, node_port=True),
            ["nodeport-lb-3", "external-nodeport-lb-3"],
        ),
        (entry(Route.SHORT_CIRCUIT), ["lb-3", "local-lb-1", "external-local-lb-3-1"]),
        (entry(Route.SHORT_CIRCUIT, local=0), ["lb-3", "external-local-lb-3-0"]),
        (
            entry(Route.SHORT_CIRCUIT, node_port=True, sticky=True),
            [
                "nodeport-lb-3",
                "sticky-nodeport-lb-3",
                "nodeport-local-lb-1",
                "sticky-nodeport-local-lb-1",
                "external-local-sticky-nodeport-lb-3-1",
            ],
        ),
    ],
)
def test_chains_are_named_after_what_they_do(made, expected):
    assert names(made) == expected


def test_a_pool_that_is_not_used_does_not_multiply_chains():
    assert entry(local=1) == entry(local=7)
    assert entry(Route.LOCAL, cluster=1) == entry(Route.LOCAL, cluster=7)


def test_the_same_name_always_means_the_same_rules():
    seen = {}
    for route in (Route.CLUSTER, Route.LOCAL, Route.SHORT_CIRCUIT):
        for always in (False, True):
            for node_port in (False, True):
                for sticky in (False, True):
                    for local in (0, 1, 2):
                        made = entry(
                            route, always=always, node_port=node_port, sticky=sticky, local=local
                        )
                        if route is Route.LOCAL and not local:
                            continue
                        for chain in entry_chains(made, V4):
                            assert seen.setdefault(chain.name, chain) == chain


@pytest.mark.parametrize(
    ("local", "negated"),
    [
        (PODS, "ip saddr != 10.0.0.0/8"),
        (LocalTraffic(interface="cbr0"), 'iifname != "cbr0"'),
        (LocalTraffic(interface_prefix="veth"), 'iifname != "veth*"'),
    ],
)
def test_outsiders_are_told_apart_as_configured(local, negated):
    settings = Settings(IPFamily.IPV4, local_traffic=local, masquerade_bit=3)
    assert rules(entry(), settings) == [
        f"{negated} meta mark set meta mark | 0x00000008",
        "goto lb-3",
    ]


def test_local_policy_lets_pods_and_the_node_through_before_it_counts():
    assert rules(entry(Route.SHORT_CIRCUIT)) == [
        'ip saddr 10.0.0.0/8 goto lb-3 comment "short-circuit pod traffic"',
        'fib saddr type local meta mark set meta mark | 0x00004000 comment "masquerade local'
        ' traffic"',
        'fib saddr type local goto lb-3 comment "short-circuit local traffic"',
        "goto local-lb-1",
    ]


@pytest.mark.parametrize("family", IPFamily)
def test_the_largest_keys_fit_the_kernels_registers(family):
    made = Entry(Route.SHORT_CIRCUIT, False, True, True, 3, 1)
    assert entry_chains(made, Settings(family))
    assert len(learn_chain(family, 10800).rules) == 3


def test_clients_are_remembered_for_the_services_time():
    chain = learn_chain(IPFamily.IPV4, 90)
    assert chain.name == "affinity-learn-90"
    assert [rule.text for rule in chain.rules] == [
        f"meta l4proto {protocol} update @affinity {{ ct original ip saddr . ct original ip daddr"
        f" . meta l4proto . ct original proto-dst timeout 90s : ip daddr . {protocol} dport }}"
        for protocol in ("tcp", "udp", "sctp")
    ]
