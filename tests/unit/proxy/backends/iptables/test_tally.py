"""Counts that are kept change by change are those that counting everything finds."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import pytest

from proxy.backends.iptables import names
from proxy.backends.iptables.restore import Section, render
from proxy.backends.iptables.ruleset import IptablesRules
from proxy.backends.iptables.settings import COUNTERS, IptablesSettings
from proxy.backends.settings import LocalTraffic
from proxy.model.addresses import IPFamily
from tests.support.fake_iptables import FakeIptables
from tests.support.plans import ServiceGenerator, network

TABLES = ("mangle", "nat", "filter")
SETTINGS = IptablesSettings(
    IPFamily.IPV4,
    local_traffic=LocalTraffic(network=network("10.0.0.0/8")),
    localhost_node_ports=True,
    counters=frozenset(COUNTERS),
)


class Kernel:
    """Rules, and tables that took everything they say."""

    def __init__(self, settings: IptablesSettings = SETTINGS) -> None:
        self.rules = IptablesRules(settings)
        self.tables = FakeIptables(legacy=True)
        self.run(self.rules.skeleton({}))
        self.run(self.rules.dispatch({}))

    def run(self, sections: Iterable[Section]) -> None:
        if filled := [section for section in sections if section]:
            self.tables.restore(render(filled))

    def change(self, changes) -> None:
        change = self.rules.change(changes, endpoint_comments=True)
        self.run(change.sections)
        self.rules.commit(change.placed)

    def counted(self) -> dict[str, int]:
        """What ``iptables-save | grep -c '^-A KUBE-'`` says of each table."""
        return {
            table: sum(len(r) for c, r in self.tables.tables[table].items() if c.startswith("KUBE"))
            for table in ("nat", "filter")
        }

    def agrees(self) -> bool:
        contents = {table: self.tables.content(table) for table in TABLES}
        return all(self.rules.agrees(table, found.rules) for table, found in contents.items())


@pytest.fixture
def served() -> Kernel:
    """A kernel with ten Services of all kinds."""
    kernel = Kernel()
    made = ServiceGenerator(7, IPFamily.IPV4)
    kernel.change({plan.name: plan for plan in map(made.plan, range(10))})
    assert kernel.agrees()
    return kernel


def service_chain(kernel: Kernel) -> list[str]:
    """The rules of one endpoint's chain."""
    nat = kernel.tables.tables["nat"]
    return nat[next(chain for chain in nat if chain.startswith(names.ENDPOINT))]


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_changes_is_counted(seed) -> None:
    draw, made = random.Random(seed), ServiceGenerator(seed, IPFamily.IPV4)
    kernel = Kernel()
    for _ in range(30):
        numbers = draw.sample(range(12), draw.choice((1, 2, 6)))
        plans = [made.plan(number) for number in numbers]
        kernel.change({plan.name: None if draw.random() < 0.3 else plan for plan in plans})
        assert kernel.rules.rule_totals() == kernel.counted()
        assert kernel.agrees()
    assert sum(kernel.counted().values()) > 20


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SETTINGS, {"nat": 5, "filter": 4}),
        (replace(SETTINGS, localhost_node_ports=False), {"nat": 5, "filter": 3}),
        (replace(SETTINGS, drop_invalid=False), {"nat": 5, "filter": 3}),
    ],
)
def test_a_node_without_services_has_as_many_rules_as_with_kube_proxy(settings, expected) -> None:
    kernel = Kernel(settings)
    assert kernel.rules.rule_totals() == kernel.counted() == expected


def test_counts_follow_settings_and_a_restatement(served) -> None:
    placed = {name: served.rules.placed(name) for name in served.rules.held()}
    before = served.rules.rule_totals()
    served.rules.replace(placed)
    assert served.rules.rule_totals() == before
    addresses = frozenset({bytes((192, 168, 0, 1)), bytes((192, 168, 0, 2))})
    settings = replace(SETTINGS, node_port_addresses=addresses)
    served.run(served.rules.resettle(settings))
    served.rules.settings = settings
    assert served.rules.rule_totals() == served.counted()
    assert served.agrees()
    served.rules.replace({})
    assert served.rules.rule_totals() == {"nat": 6, "filter": 4}


def test_rules_of_others_are_not_counted(served) -> None:
    tables = served.tables.tables
    tables["nat"]["CNI-a1"] = ["-j ACCEPT"]
    tables["nat"]["KUBE-MARK-DROP"] = ["-j MARK --set-xmark 0x8000/0x8000"]
    tables["filter"]["KUBE-FIREWALL"].append("-m mark --mark 0x8000/0x8000 -j DROP")
    tables["filter"]["INPUT"].append("-p tcp -j ACCEPT")
    assert served.agrees()


@pytest.mark.parametrize(
    "damage",
    [
        lambda kernel: kernel.tables.flush("nat"),
        lambda kernel: kernel.tables.flush("filter"),
        lambda kernel: service_chain(kernel).pop(),
        lambda kernel: service_chain(kernel).append("-j RETURN"),
        lambda kernel: kernel.tables.tables["nat"].update({"KUBE-SVC-FOREIGN": []}),
        lambda kernel: kernel.tables.tables["filter"].pop(names.PROXY_FIREWALL),
        lambda kernel: kernel.tables.tables["filter"][names.SERVICES].append("-j DROP"),
        lambda kernel: kernel.tables.tables["filter"][names.KUBELET_FIREWALL].pop(),
        lambda kernel: kernel.tables.tables["filter"].pop(names.KUBELET_FIREWALL),
        lambda kernel: kernel.tables.tables["mangle"].pop(names.CANARY),
        lambda kernel: kernel.tables.tables["nat"][names.POSTROUTING].pop(0),
    ],
)
def test_damage_is_seen(served, damage) -> None:
    damage(served)
    assert not served.agrees()


def test_two_chains_that_exchanged_their_numbers_of_rules_are_seen(served) -> None:
    nat = served.tables.tables["nat"]
    own = [chain for chain in nat if names.is_service_chain(chain)]
    exchanges = [(a, b) for a, b in combinations(own, 2) if len(nat[a]) != len(nat[b])]
    assert len(exchanges) > 100
    for one, other in exchanges:
        nat[one], nat[other] = nat[other], nat[one]
        assert not served.agrees()
        nat[one], nat[other] = nat[other], nat[one]
    assert served.agrees()


def test_rules_of_a_text_are_counted_without_jumps_and_removals() -> None:
    section = Section("nat")
    section.declare("KUBE-SERVICES")
    section.append("KUBE-SERVICES", "-j RETURN")
    section.insert("KUBE-SERVICES", "-j RETURN")
    section.insert("OUTPUT", "-j KUBE-SERVICES")
    section.delete("KUBE-SERVICES", "-j RETURN")
    section.remove("KUBE-SVC-A")
    assert section.rule_count == 2
