"""Order, chunks, races and refusals when chains are removed."""

from __future__ import annotations

import pytest

from proxy.engine.cleanup import iptables
from proxy.engine.cleanup.iptables import remove_iptables
from proxy.engine.cleanup.outcome import Outcome
from proxy.kernel.command import ToolMissing

Tables = dict[str, dict[str, list[str]]]
JUMP = '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'


class FakeTables:
    """Tables that refuse what the kernel refuses, a section wholly or not at all."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.texts: list[str] = []
        self.reads = 0
        self.before_restore: list[object] = []

    def chains(self, table: str) -> frozenset[str]:
        return frozenset(self.tables.get(table, {}))

    def rules(self, table: str, chain: str) -> list[str]:
        self.reads += 1
        return list(self.tables[table][chain])

    def restore(self, text: str) -> None:
        if self.before_restore:
            event = self.before_restore.pop(0)
            if isinstance(event, Exception):
                raise event
            if callable(event):
                event()
        self.texts.append(text)
        head, *lines, commit = text.splitlines()
        assert commit == "COMMIT"
        table = head.removeprefix("*")
        chains = {name: list(rules) for name, rules in self.tables[table].items()}
        for line in lines:
            self._apply(chains, line)
        self.tables[table] = chains

    def _apply(self, chains: dict[str, list[str]], line: str) -> None:
        verb, _, rest = line.partition(" ")
        if verb.startswith(":"):
            chains[verb[1:]] = []
        elif verb == "-D":
            chain, _, rule = rest.partition(" ")
            if rule not in chains[chain]:
                raise OSError(22, "no such rule")
            chains[chain].remove(rule)
        else:
            assert verb == "-X", line
            used = any(rule.endswith(f"-j {rest}") for rules in chains.values() for rule in rules)
            if rest not in chains or chains[rest] or used:
                raise OSError(16, f"{rest} is busy")
            del chains[rest]


def proxy_rules() -> Tables:
    return {
        "nat": {
            "PREROUTING": [JUMP, "-j DOCKER"],
            "OUTPUT": [JUMP, JUMP],
            "DOCKER": ["-j RETURN"],
            "KUBE-SERVICES": ["-d 10.0.0.1/32 -j KUBE-SVC-A"],
            "KUBE-SVC-A": ["-j KUBE-SEP-A", "-j KUBE-SEP-B"],
            "KUBE-SEP-A": ["-j KUBE-MARK-MASQ"],
            "KUBE-SEP-B": ["-j KUBE-MARK-MASQ"],
            "KUBE-MARK-MASQ": ["-j MARK --set-xmark 0x4000/0x4000"],
        },
        "filter": {"INPUT": ["-j KUBE-SERVICES"], "KUBE-SERVICES": ["-j REJECT"]},
    }


def test_jumps_of_all_tables_go_before_any_chain_is_touched() -> None:
    port = FakeTables(proxy_rules())
    assert remove_iptables(port).errors == []
    kinds = [text.splitlines()[1][:2] for text in port.texts]
    assert kinds == ["-D", "-D", ":K", "-X", ":K", "-X"]
    assert port.tables == {
        "nat": {"PREROUTING": ["-j DOCKER"], "OUTPUT": [], "DOCKER": ["-j RETURN"]},
        "filter": {"INPUT": []},
    }


def test_all_chunks_are_emptied_before_one_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "_CHUNK_CHAINS", 2)
    port = FakeTables(proxy_rules())
    outcome = remove_iptables(port)
    assert outcome.errors == []
    assert outcome.removed[-2:] == ["5 chains of table nat", "1 chain of table filter"]
    assert [text.count("-X") for text in port.texts] == [0, 0, 0, 0, 0, 2, 2, 1, 0, 1]


def test_nothing_is_read_or_written_without_chains_of_a_proxy() -> None:
    port = FakeTables({"nat": {"PREROUTING": [], "DOCKER": []}})
    assert remove_iptables(port) == Outcome()
    assert port.reads == 0
    assert port.texts == []


def test_a_jump_that_vanishes_before_it_is_deleted_costs_one_more_look() -> None:
    port = FakeTables(proxy_rules())
    port.before_restore.append(lambda: port.tables["nat"]["OUTPUT"].clear())
    outcome = remove_iptables(port)
    assert outcome.errors == []
    assert outcome.removed[0] == "1 jump of table nat"


def test_a_chain_that_vanishes_before_it_is_deleted_is_no_error() -> None:
    port = FakeTables(proxy_rules())
    port.before_restore += [None, None, None]
    port.before_restore.append(lambda: port.tables["nat"].pop("KUBE-SEP-A"))
    assert remove_iptables(port).errors == []
    assert set(port.tables["nat"]) == {"PREROUTING", "OUTPUT", "DOCKER"}


def test_a_refused_step_is_reported_and_the_other_table_is_cleaned_all_the_same() -> None:
    port = FakeTables(proxy_rules())
    port.before_restore += [None, None, OSError(12, "no memory")]
    outcome = remove_iptables(port)
    assert outcome.errors == ["table nat: 5 chains not emptied: [Errno 12] no memory"]
    assert port.tables["filter"] == {"INPUT": []}


def test_a_missing_program_is_reported_once_per_step_and_never_raised() -> None:
    port = FakeTables({"nat": proxy_rules()["nat"]})
    missing = ToolMissing(["iptables-legacy-restore"], "is not installed")
    port.before_restore += [missing] * 3
    outcome = remove_iptables(port)
    assert outcome.removed == []
    assert len(outcome.errors) == 2
    assert all("is not installed" in error for error in outcome.errors)


def test_a_chain_in_use_by_others_is_named_with_its_user() -> None:
    tables = proxy_rules()
    tables["nat"]["DOCKER"] = ["-p tcp -j KUBE-MARK-MASQ"]
    port = FakeTables(tables)
    outcome = remove_iptables(port)
    assert outcome.errors == [
        "nat KUBE-MARK-MASQ is emptied but stays: a rule of chain DOCKER leads to it"
    ]
    assert port.tables["nat"]["KUBE-MARK-MASQ"] == []
    assert outcome.removed[2] == "4 chains of table nat"


def test_a_table_that_cannot_be_read_is_reported_and_the_others_are_cleaned() -> None:
    class Unreadable(FakeTables):
        def chains(self, table: str) -> frozenset[str]:
            if table == "nat":
                raise PermissionError(1, "no")
            return super().chains(table)

    port = Unreadable(proxy_rules())
    outcome = remove_iptables(port)
    assert outcome.errors == ["Cannot read table nat: [Errno 1] no"]
    assert port.tables["filter"] == {"INPUT": []}
