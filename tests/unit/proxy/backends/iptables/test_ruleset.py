"""Restore texts executed by tables in memory: where they lead, and what they name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from proxy.backends.iptables import names
from proxy.model.addresses import IPFamily
from proxy.model.services import ServicePortName
from proxy.plan.service_plan import FrontendKind, ServicePortPlan
from tests.support.iptables_node import (
    LOCALHOST,
    SETTINGS,
    V4,
    Node,
    Plans,
    Rounds,
    by_name,
    face,
    fresh,
)
from tests.support.iptables_text import differences
from tests.support.plans import address, endpoint, plan, service_port, simple

SHARED = {
    *(("filter", chain) for chain in names.FILTER_CHAINS),
    ("nat", names.SERVICES),
    ("nat", names.NODEPORTS),
}


# -- what is reached -------------------------------------------------------------------------


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_changes_ends_where_a_fresh_statement_ends(family, seed) -> None:
    node = fresh(SETTINGS[family], {})
    for plans, changes in Rounds(family, seed):
        node.change(changes)
        expected = fresh(SETTINGS[family], plans).kernel.ruleset()
        assert differences(expected, node.kernel.ruleset()) == ""
    assert len(plans) > 5


def test_the_same_holds_with_localhost_node_ports_and_counters() -> None:
    node = fresh(LOCALHOST, {})
    plans: Plans = {}
    for plans, changes in Rounds(V4, 3):  # noqa: B007 - the last ones are compared
        node.change(changes)
    expected = fresh(LOCALHOST, plans).kernel.ruleset()
    assert differences(expected, node.kernel.ruleset()) == ""
    assert any("nfacct" in rule for rule in node.kernel.rules("nat", names.NODEPORTS))


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("seed", range(3))
def test_a_statement_over_somebody_elses_rules_ends_there_too(family, seed) -> None:
    *_, (before, _), (plans, _) = Rounds(family, seed)
    previous = fresh(replace(SETTINGS[family], masquerade_all=True), before)
    node = Node(SETTINGS[family])
    node.kernel = previous.kernel
    node.kernel.tables["nat"]["KUBE-SEP-FOREIGN"] = []
    node.kernel.tables["nat"]["KUBE-SVC-FOREIGN"] = ["-j KUBE-SEP-FOREIGN"]
    node.kernel.tables["nat"]["OTHERS"] = ["-j ACCEPT"]
    node.state(plans.values())
    assert "KUBE-SVC-FOREIGN" in node.kernel.tables["nat"]
    node.prune(size=3)
    assert node.kernel.tables["nat"].pop("OTHERS") == ["-j ACCEPT"]
    expected = fresh(SETTINGS[family], plans).kernel.ruleset()
    assert differences(expected, node.kernel.ruleset()) == ""


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
def test_the_size_of_a_chunk_makes_no_difference(size) -> None:
    *_, (plans, _) = Rounds(V4, 1)
    node = Node()
    node.state(plans.values(), size=size)
    expected = fresh(SETTINGS[V4], plans).kernel.ruleset()
    assert differences(expected, node.kernel.ruleset()) == ""


def test_what_was_written_with_comments_is_removed_without_them() -> None:
    node = fresh(SETTINGS[V4], {})
    for plans, changes in Rounds(V4, 5):
        node.change(changes, comments=len(plans) % 2 == 0)
    node.change(dict.fromkeys(plans))
    expected = fresh(SETTINGS[V4], {}).kernel.ruleset()
    assert differences(expected, node.kernel.ruleset()) == ""


def test_the_jumps_to_node_ports_stay_last() -> None:
    node = fresh(SETTINGS[V4], {})
    for _, changes in Rounds(V4, 2):
        node.change(changes)
        *others, last = node.kernel.rules("nat", names.SERVICES)
        assert last.endswith(f"-j {names.NODEPORTS}")
        assert not any(names.NODEPORTS in rule for rule in others)


def test_other_node_addresses_replace_only_the_jumps_to_node_ports() -> None:
    other = replace(SETTINGS[V4], node_port_addresses=frozenset({b"\xc0\x00\x02\x01"}))
    third = replace(
        other, node_port_addresses=frozenset({b"\xc0\x00\x02\x02", b"\xc0\x00\x02\x01"})
    )
    plans = by_name(simple(1, 1), simple(2, 2))
    node = fresh(SETTINGS[V4], plans)
    for settings in (other, third, other, SETTINGS[V4]):
        node.run(node.rules.resettle(settings))
        node.rules.settings = settings
        assert set(node.kernel.touched) == {("nat", names.SERVICES)}
        expected = fresh(settings, plans).kernel.ruleset()
        assert differences(expected, node.kernel.ruleset()) == ""
        assert node.rules.resettle(settings) == []


# -- what is named ---------------------------------------------------------------------------


@pytest.mark.parametrize("services", [1, 200])
def test_one_endpoint_for_another_touches_three_chains_whatever_else_there_is(services) -> None:
    node = fresh(SETTINGS[V4], by_name(*(simple(n, 1, 2, 3) for n in range(services))))
    changed = simple(0, 1, 2, 4)
    node.change({changed.name: changed})
    hashed = names.port_hash(changed.name)
    gone, made = (names.endpoint_chain(changed.name, f"10.180.0.{last}:8080") for last in (3, 4))
    assert set(node.kernel.touched) == {
        ("nat", chain) for chain in (f"{names.SERVICE}{hashed}", gone, made)
    }
    assert len(node.kernel.touched) == 3 + 4 + 2 + 1  # declared, balanced, translated, removed


@pytest.mark.parametrize("family", IPFamily)
def test_a_change_names_no_chain_of_another_service(family) -> None:
    node = fresh(SETTINGS[family], {})
    for _, changes in Rounds(family, 4):
        before = {name: _own_chains(node, name) for name in changes}
        node.kernel.touched = []
        node.change(changes)
        allowed = {chain for name in changes for chain in before[name] | _own_chains(node, name)}
        assert {(t, c) for t, c in node.kernel.touched} - SHARED <= {("nat", c) for c in allowed}
        assert not any(text.startswith(":KUBE-SERVICES") for text in node.kernel.inputs[1:])


def _own_chains(node: Node, name: ServicePortName) -> set[str]:
    return set(node.rules._rules(node.rules.placed(name)).chains)


def test_a_change_of_endpoints_leaves_the_shared_chains_alone() -> None:
    ports = [service_port(n, node_port=30000 + n, external_policy_local=n == 2) for n in (1, 2)]
    pods = [endpoint(n, local=True) for n in range(5)]
    node = fresh(SETTINGS[V4], by_name(*(plan(port, *pods[:3]) for port in ports)))
    for port in ports:
        for some in (pods, pods[1:], pods[:1]):
            changed = plan(port, *some)
            node.change({changed.name: changed})
            assert not SHARED & set(node.kernel.touched)


def test_a_change_to_what_is_there_says_nothing() -> None:
    node = fresh(SETTINGS[V4], by_name(simple(1, 1, 2)))
    same = simple(1, 1, 2)
    assert node.rules.change({same.name: same}, endpoint_comments=True).sections == []


def test_every_line_of_a_change_has_an_origin() -> None:
    node = fresh(SETTINGS[V4], {})
    for _, changes in Rounds(V4, 6):
        change = node.rules.change(changes, endpoint_comments=True)
        node.run(change.sections)
        node.rules.commit(change.placed)
        for section in change.sections:
            assert {line.origin for line in section.lines} <= changes.keys()


def test_without_commit_nothing_is_remembered() -> None:
    node = fresh(SETTINGS[V4], by_name(simple(1, 1)))
    changed = simple(1, 2)
    node.rules.change({changed.name: changed}, endpoint_comments=True)
    assert node.rules.plan_of(changed.name) == simple(1, 1)
    assert node.rules.held() == (changed.name,)


# -- what a conflict leaves ------------------------------------------------------------------


def without(each: ServicePortPlan, *kinds: FrontendKind) -> ServicePortPlan:
    """The plan of a service port whose frontends of these kinds another one holds."""
    return replace(each, frontends=tuple(f for f in each.frontends if f.kind not in kinds))


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_service_port_that_lost_frontends_to_another_one_keeps_the_others(kept) -> None:
    whole = plan(
        service_port(
            1, node_port=30001, external_ips=(address("external", 1),), has_external_ips=True
        ),
        endpoint(1),
    )
    lost = (FrontendKind.CLUSTER_IP, FrontendKind.EXTERNAL_IP, FrontendKind.NODE_PORT)[: 3 - kept]
    poor = without(whole, *lost)
    assert len(poor.frontends) == kept
    node = fresh(SETTINGS[V4], by_name(poor))
    assert len(_face_rules(node)) == kept
    node.change({whole.name: whole})
    assert len(_face_rules(node)) == 3
    node.change({whole.name: poor})
    assert len(_face_rules(node)) == kept


def _face_rules(node: Node) -> Sequence[object]:
    return face(node.kernel, "ns/svc-1:p80")[0]
