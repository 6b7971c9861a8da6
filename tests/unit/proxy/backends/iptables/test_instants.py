"""How packets fare after every transaction on the way from one state to another."""

from __future__ import annotations

import pytest

from proxy.backends.iptables import names
from proxy.backends.iptables.ruleset import IptablesRules
from proxy.model.addresses import IPFamily
from proxy.model.endpoints import target_text
from tests.support.fake_iptables import FakeIptables
from tests.support.iptables_node import SETTINGS, Rounds, face, fresh, stands_for
from tests.support.iptables_text import service_port


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("seed", range(3))
def test_at_every_commit_each_service_port_is_wholly_old_or_wholly_new(family, seed) -> None:
    node = fresh(SETTINGS[family], {})
    kinds = set()
    for plans, changes in Rounds(family, seed):
        old = {name: face(node.kernel, str(name)) for name in changes}
        expected = fresh(SETTINGS[family], plans).kernel
        new = {name: face(expected, str(name)) for name in old}
        commits = 0

        def judge(old=old, new=new) -> None:
            nonlocal commits
            commits += 1
            for name in old:
                found = face(node.kernel, str(name))
                assert stands_for(found, old[name]) or stands_for(found, new[name]), name

        node.kernel.watch = judge
        node.change(changes)
        kinds.add(commits)
        assert all(face(node.kernel, str(name)) == new[name] for name in new)
    assert kinds >= {1, 3}


@pytest.mark.parametrize("family", IPFamily)
def test_a_statement_of_what_is_there_changes_nothing_at_any_commit(family) -> None:
    *_, (plans, _) = Rounds(family, 7)
    node = fresh(SETTINGS[family], plans)
    before = {name: face(node.kernel, str(name)) for name in plans}
    fixed = [
        node.kernel.rules("nat", names.POSTROUTING),
        node.kernel.rules("filter", names.FORWARD),
    ]

    def judge() -> None:
        for name, state in before.items():
            assert face(node.kernel, str(name))[0] == state[0], name
        now = [node.kernel.rules("nat", names.POSTROUTING)]
        assert [*now, node.kernel.rules("filter", names.FORWARD)] == fixed

    node.kernel.watch = judge
    node.rules = IptablesRules(SETTINGS[family])
    node.state(plans.values(), size=3)
    assert len(node.kernel.inputs) > 5


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("seed", range(3))
def test_taking_over_dispatches_and_refuses_as_before_or_as_wanted_at_any_commit(
    family, seed
) -> None:
    states = [plans for plans, _ in Rounds(family, seed)]
    before, plans = states[9], states[-1]
    node, wanted = fresh(SETTINGS[family], before), fresh(SETTINGS[family], plans).kernel
    old = {name: face(node.kernel, str(name), deep=False) for name in before | plans}
    new = {name: face(wanted, str(name), deep=False) for name in old}

    def judge() -> None:
        for name in old:
            found = face(node.kernel, str(name), deep=False)
            assert stands_for(found, old[name]) or stands_for(found, new[name]), name

    node.kernel.watch = judge
    node.rules = IptablesRules(SETTINGS[family])
    node.state(plans.values(), size=4)
    assert old != new


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("seed", range(3))
def test_taking_over_sends_nobody_astray_at_any_commit(family, seed) -> None:
    states = [plans for plans, _ in Rounds(family, seed)]
    before, plans = states[9], states[-1]
    node = fresh(SETTINGS[family], before)
    allowed = {
        str(name): {
            target_text(target)
            for source in (before, plans)
            if name in source
            for target in source[name].reachable
        }
        for name in before | plans
    }
    served = [n for n in before.keys() & plans.keys() if before[n].reachable and plans[n].reachable]

    def judge() -> None:
        for name in before | plans:
            reached = _reached(node.kernel, str(name))
            assert reached <= allowed[str(name)], name
        for name in served:
            first = plans[name].frontends[0], before[name].frontends[0]
            if all(frontend.route.value != "nowhere" for frontend in first):
                assert _reached(node.kernel, str(name)), name

    node.kernel.watch = judge
    node.rules = IptablesRules(SETTINGS[family])
    node.state(plans.values(), size=4)
    node.prune()
    assert served


def _reached(kernel: FakeIptables, owner: str) -> set[str]:
    found = set()
    for chain in (names.SERVICES, names.NODEPORTS):
        for rule in kernel.rules("nat", chain):
            if service_port(rule) == owner:
                found |= kernel.leads_to(rule.rpartition(" ")[2])
    return found
