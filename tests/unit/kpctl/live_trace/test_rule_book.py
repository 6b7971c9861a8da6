"""Rules are cited as the program that wrote them lists them, and listed once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kpctl.live_trace import rule_book
from kpctl.live_trace.rule_book import CitedRule, KernelRuleBook, is_iptables
from proxy.kernel.command import CommandError, Completed

_CHAIN = """-N KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-MARK-MASQ -j RETURN
"""
_TABLE = """table ip kube-proxy { # handle 3
	chain services { # handle 24
		ip daddr . meta l4proto . th dport vmap @service-ips # handle 48
	}
	chain lb-3 { # handle 25
		drop # handle 72
	}
}
"""


class Programs:
    """Answers instead of iptables and nft."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stdout: str, code: int = 0) -> None:
        self.calls: list[list[str]] = []
        self.stdout, self.code = stdout, code
        self.error: CommandError | None = None
        self.installed = {"iptables-nft"}
        self.chains = 20
        monkeypatch.setattr(rule_book, "run", self.run)
        monkeypatch.setattr(rule_book, "find_tool", lambda name: name in self.installed or None)
        monkeypatch.setattr(rule_book, "rule_handles", lambda *_: [7, 9])
        monkeypatch.setattr(rule_book, "chain_count", lambda *_: self.chains)

    def run(self, argv: Sequence[str], **_: object) -> Completed:
        self.calls.append(list(argv))
        if self.error is not None:
            raise self.error
        return Completed(self.stdout, "", self.code)


def test_rules_of_iptables_are_numbered_as_iptables_lists_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs = Programs(monkeypatch, _CHAIN)
    book = KernelRuleBook()
    second = book.rule("ip", "nat", "KUBE-MARK-MASQ", 9)
    assert second == CitedRule("nat", "rule 2", "-A KUBE-MARK-MASQ -j RETURN")
    assert book.rule("ip", "nat", "KUBE-MARK-MASQ", 7).place == "rule 1"
    assert programs.calls == [["iptables-nft", "-t", "nat", "-S", "KUBE-MARK-MASQ"]]


@pytest.mark.parametrize("case", ["no program", "fails", "other rules"])
def test_what_iptables_cannot_list_nft_lists(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    listing = "table ip nat {\n\tchain C {\n\t\tdrop # handle 7\n\t}\n}\n"
    programs = Programs(monkeypatch, listing)
    if case == "no program":
        programs.installed = set()
    programs.code = 1 if case == "fails" else 0
    assert KernelRuleBook().rule("ip", "nat", "C", 7) == CitedRule("ip nat", "handle 7", "drop")
    assert programs.calls[-1] == ["nft", "-t", "-a", "list", "table", "ip", "nat"]


def test_a_small_table_is_listed_once_for_all_its_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(monkeypatch, _TABLE)
    book = KernelRuleBook()
    assert "vmap @service-ips" in book.rule("ip", "kube-proxy", "services", 48).text
    assert book.rule("ip", "kube-proxy", "lb-3", 72).text == "drop"
    assert len(programs.calls) == 1


def test_of_a_table_with_many_chains_only_one_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(monkeypatch, _TABLE)
    programs.chains = 40_000
    KernelRuleBook().rule("ip", "kube-proxy", "lb-3", 72)
    assert programs.calls == [["nft", "-t", "-a", "list", "chain", "ip", "kube-proxy", "lb-3"]]


def test_a_rule_that_is_gone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(monkeypatch, _TABLE)
    book = KernelRuleBook()
    for chain in ("lb-3", "lb-4", "lb-4"):
        gone = book.rule("ip", "kube-proxy", chain, 999)
        assert gone == CitedRule("ip kube-proxy", "handle 999", "a rule that is no longer there")
    assert len(programs.calls) == 2
    assert book.gaps == []


def test_a_chain_that_cannot_be_listed_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(monkeypatch, "")
    programs.error = CommandError(["nft"], "nft is not installed")
    book = KernelRuleBook()
    assert book.rule("inet", "fw", "input", 4).place == "handle 4"
    assert book.gaps == ["chain inet fw input: nft: nft is not installed"]


@pytest.mark.parametrize(
    ("family", "table", "expected"),
    [("ip", "nat", True), ("ip6", "raw", True), ("inet", "nat", False), ("ip", "fw", False)],
)
def test_tables_of_iptables_are_known_by_name(family: str, table: str, expected: bool) -> None:
    assert is_iptables(family, table) is expected
