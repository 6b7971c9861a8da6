"""Whose rules a node uses, and which programs there are to write them."""

from __future__ import annotations

import pytest

from proxy.kernel import xtables_backend
from proxy.kernel.command import Completed, ToolMissing
from proxy.kernel.xtables_backend import (
    Backend,
    Kind,
    choose_backend,
    double_rule_sets,
    wanted_backend,
)
from proxy.model.addresses import IPFamily

V4, V6 = IPFamily.IPV4, IPFamily.IPV6


class Tables:
    """Tables as told; what is not told is empty."""

    def __init__(
        self,
        chains: dict[tuple[Kind, IPFamily, str], set[str]] | None = None,
        rules: dict[tuple[Kind, IPFamily], int] | None = None,
        nft: bool = True,
    ) -> None:
        self._chains, self._rules, self._nft = chains or {}, rules or {}, nft

    def has_nft(self) -> bool:
        return self._nft

    def chains(self, kind: Kind, family: IPFamily, table: str) -> frozenset[str]:
        return frozenset(self._chains.get((kind, family, table), ()))

    def rule_count(self, kind: Kind, family: IPFamily, at_most: int) -> int:
        return min(self._rules.get((kind, family), 0), at_most)


@pytest.mark.parametrize("chain", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_the_kubelets_mark_decides_whatever_else_there_is(
    kind: Kind, family: IPFamily, chain: str
) -> None:
    tables = Tables(
        {(kind, family, "mangle"): {"PREROUTING", chain}},
        {("nft", V4): 9, ("legacy", V4): 8000, ("legacy", V6): 1},
    )
    assert wanted_backend(tables) == (
        kind,
        f"the kubelet's chain {chain} is in {kind}'s mangle table",
    )


def test_of_two_marks_that_of_nft_decides() -> None:
    marks = {"KUBE-KUBELET-CANARY"}
    tables = Tables({("legacy", V4, "mangle"): marks, ("nft", V6, "mangle"): marks})
    assert wanted_backend(tables)[0] == "nft"


def test_a_mark_in_another_table_than_mangle_does_not_count() -> None:
    tables = Tables({("legacy", V4, "nat"): {"KUBE-KUBELET-CANARY"}})
    assert wanted_backend(tables)[0] == "nft"


@pytest.mark.parametrize(
    ("nft", "legacy", "wanted"),
    [(0, 0, "nft"), (5, 5, "nft"), (5, 4, "nft"), (4, 5, "legacy"), (0, 1, "legacy")],
)
def test_without_marks_more_rules_of_both_families_decide_and_nft_when_equal(
    nft: int, legacy: int, wanted: str
) -> None:
    tables = Tables(rules={("nft", V4): nft, ("legacy", V6): legacy})
    kind, why = wanted_backend(tables)
    assert kind == wanted
    assert f"legacy {legacy}, " in why


def test_rules_of_both_families_of_nft_are_added_up() -> None:
    rules = {("nft", V4): 2, ("nft", V6): 3, ("legacy", V4): 5}
    assert wanted_backend(Tables(rules=rules))[0] == "nft"
    assert wanted_backend(Tables(rules={**rules, ("legacy", V6): 1})) == (
        "legacy",
        "no chain of the kubelet's found; rules: legacy 6, nft 5",
    )


def test_without_legacy_rules_those_of_nft_are_not_counted() -> None:
    class Large(Tables):
        def rule_count(self, kind: Kind, family: IPFamily, at_most: int) -> int:
            assert kind == "legacy"
            return 0

    assert wanted_backend(Large())[0] == "nft"


def test_a_kernel_without_nf_tables_leaves_legacy() -> None:
    assert wanted_backend(Tables(nft=False)) == ("legacy", "the kernel has no nf_tables")


# -- programs --------------------------------------------------------------------------------


def _install(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    """Let exactly these programs, and the -restore of each, be installed."""
    names = {name + action for name in versions for action in ("", "-restore")}
    monkeypatch.setattr(xtables_backend, "find_tool", lambda name: name if name in names else None)
    monkeypatch.setattr(
        xtables_backend, "run", lambda argv: Completed(f"{versions[argv[0]]}\n", "", 0)
    )


_BOTH = {
    "iptables": "iptables v1.8.9 (nf_tables)",
    "iptables-nft": "iptables v1.8.9 (nf_tables)",
    "iptables-legacy": "iptables v1.8.10 (legacy)",
}
_LEGACY_WANTED = Tables({("legacy", V4, "mangle"): {"KUBE-KUBELET-CANARY"}})


def test_the_programs_of_the_chosen_kind_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _BOTH)
    backend = choose_backend(_LEGACY_WANTED)
    assert (backend.kind, backend.variant, backend.version) == ("legacy", "-legacy", (1, 8, 10))
    assert backend.why == "the kubelet's chain KUBE-KUBELET-CANARY is in legacy's mangle table"
    assert backend.program(V4, "restore") == "iptables-legacy-restore"
    assert backend.program(V6) == "ip6tables-legacy"
    assert choose_backend(Tables()).program(V6, "restore") == "ip6tables-nft-restore"


@pytest.mark.parametrize("said", ["iptables v1.8.9 (legacy)", "iptables v1.6.1"])
def test_plain_iptables_serves_when_it_is_of_the_chosen_kind(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    _install(monkeypatch, {"iptables": said})
    backend = choose_backend(_LEGACY_WANTED)
    assert (backend.kind, backend.variant) == ("legacy", "")
    assert "but only" not in backend.why


@pytest.mark.parametrize("name", ["iptables", "iptables-legacy"])
def test_a_kind_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _install(monkeypatch, {name: "iptables v1.8.9 (legacy)"})
    backend = choose_backend(Tables())
    assert backend.kind == "legacy"
    assert backend.program(V4) == name
    assert backend.why.endswith("; but only iptables of the legacy kind is installed")


def test_a_host_without_iptables_gets_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, {})
    with pytest.raises(ToolMissing, match=r"iptables-restore.*; install the package iptables$"):
        choose_backend(Tables())


@pytest.mark.parametrize(
    ("version", "random_fully", "wait", "restore_wait"),
    [
        ((1, 4, 21), False, (), ()),
        ((1, 4, 22), False, ("-w", "5"), ()),
        ((1, 6, 1), False, ("-w", "5"), ()),
        ((1, 6, 2), True, ("-w", "5"), ("-w", "5")),
        ((1, 10), True, ("-w", "5"), ("-w", "5")),
    ],
)
def test_old_programs_are_not_given_what_they_do_not_know(
    version: tuple[int, ...], random_fully: bool, wait: tuple[str], restore_wait: tuple[str]
) -> None:
    backend = Backend("legacy", "", version=version)
    assert backend.random_fully is random_fully
    assert (backend.wait(5), backend.restore_wait(5)) == (wait, restore_wait)


def test_an_unreadable_version_is_taken_for_a_modern_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, {"iptables": "iptables (nf_tables)"})
    assert choose_backend(Tables()).random_fully


# -- double rule sets ------------------------------------------------------------------------


def test_rules_of_a_proxy_in_the_other_backend_are_told_for_each_table_and_family() -> None:
    tables = Tables(
        {
            ("legacy", V4, "nat"): {"KUBE-SERVICES"},
            ("legacy", V6, "filter"): {"KUBE-SERVICES", "INPUT"},
            ("nft", V4, "nat"): {"KUBE-SERVICES"},
            ("legacy", V4, "filter"): {"KUBE-FIREWALL"},
        }
    )
    first, second = double_rule_sets("nft", tables)
    assert "legacy's nat table of IPv4" in first
    assert "iptables-legacy-save -t nat" in first
    assert "legacy's filter table of IPv6" in second
    assert "ip6tables-legacy-save -t filter" in second
    assert len(double_rule_sets("legacy", tables)) == 1


def test_one_rule_set_is_nothing_to_tell() -> None:
    assert double_rule_sets("nft", Tables({("nft", V4, "nat"): {"KUBE-SERVICES"}})) == ()
