"""On the legacy backend a foreign change is looked at before it is called damage."""

from __future__ import annotations

import errno

import pytest

from proxy.backends.iptables import names
from tests.support.engine_rig import many_services
from tests.support.fake_iptables import FakeIptables
from tests.support.iptables_rig import IptablesRig, foreign_rule
from tests.support.iptables_text import differences


@pytest.fixture
def rig(monkeypatch) -> IptablesRig:
    made = IptablesRig(monkeypatch, kernel=FakeIptables(legacy=True))
    made.start(*many_services(3))
    made.kernel.inputs.clear()
    return made


def a_foreign_chain(tables) -> None:
    tables["nat"]["CNI-a1"] = ["-d 10.1.0.1/32 -j ACCEPT"]


def a_rule_in_input(tables) -> None:
    tables["filter"]["INPUT"].append("-p tcp -m tcp --dport 22 -j ACCEPT")


def a_rule_before_our_jumps(tables) -> None:
    tables["nat"]["PREROUTING"].insert(0, "-j ACCEPT")


def a_flush_of_nat(tables) -> None:
    for rules in tables["nat"].values():
        rules.clear()


def a_deleted_rule_of_an_endpoint(tables) -> None:
    nat = tables["nat"]
    nat[next(chain for chain in nat if chain.startswith(names.ENDPOINT))].pop()


def a_removed_jump(tables) -> None:
    del tables["filter"]["FORWARD"][0]


@pytest.mark.parametrize("change", [a_foreign_chain, a_rule_in_input, a_rule_before_our_jumps])
def test_a_change_of_others_rules_is_left_alone(rig, change) -> None:
    change(rig.kernel.tables)
    rig.turn(foreign_rule())
    assert rig.kernel.inputs == []
    assert rig.metrics.self_repairs.values == {}
    assert rig.until_due() > 300


@pytest.mark.parametrize("change", [a_flush_of_nat, a_deleted_rule_of_an_endpoint, a_removed_jump])
def test_damage_is_repaired_and_counted(rig, change) -> None:
    before = rig.kernel.ruleset()
    change(rig.kernel.tables)
    assert differences(before, rig.kernel.ruleset())
    rig.turn(foreign_rule())
    assert differences(before, rig.kernel.ruleset()) == ""
    assert rig.metrics.self_repairs.values == {("IPv4", "rule"): 1}


def test_tables_that_cannot_be_looked_at_are_stated_anew(rig, monkeypatch) -> None:
    def unreadable(table: str) -> None:
        raise OSError(errno.ENOMEM, f"no memory for {table}")

    monkeypatch.setattr(rig.kernel, "content", unreadable)
    rig.turn(foreign_rule())
    assert rig.kernel.inputs
    assert rig.metrics.self_repairs.values == {("IPv4", "rule"): 1}


def test_while_a_repair_is_due_nobody_looks_again(rig, monkeypatch) -> None:
    a_flush_of_nat(rig.kernel.tables)
    looked = []
    content = rig.kernel.content
    monkeypatch.setattr(rig.kernel, "content", lambda table: looked.append(table) or content(table))
    rig.turn(foreign_rule(), foreign_rule(), foreign_rule())
    assert looked == ["nat", "nat", "filter", "mangle"]  # once before the repair, once after it
    assert rig.metrics.self_repairs.values == {("IPv4", "rule"): 3}


def test_on_nf_tables_whatever_is_told_is_repaired(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch)
    rig.start(*many_services(1))
    rig.kernel.inputs.clear()
    rig.turn(foreign_rule())
    assert rig.kernel.inputs
    assert rig.metrics.self_repairs.values == {("IPv4", "rule"): 1}
