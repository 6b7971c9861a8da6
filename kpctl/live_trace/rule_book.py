"""
The text of the rules that a trace names by handle: what is listed is listed once.

Rules of iptables-nft are in the kernel's trace too; they are cited as iptables-save writes them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from diagnostics.nftables.model import Chain
from diagnostics.nftables.text_reader import read_text
from kpctl.live_trace.kernel_rules import ChainHook, chain_count, chain_hook, rule_handles
from proxy.kernel.command import CommandError, find_tool, run
from proxy.kernel.netlink import NetlinkError
from proxy.kernel.xtables_backend import TABLES

_TIMEOUT_S = 30.0
_PROGRAMS = {"ip": ("iptables-nft", "iptables"), "ip6": ("ip6tables-nft", "ip6tables")}
# nft reads all elements of a table before it lists a single chain, so that one listing of a table
# is cheaper than those of its chains, unless it has one for each Service.
_FEW_CHAINS = 500
_Chain = tuple[str, str, str]


_Rules = dict[_Chain, dict[int, "CitedRule"]]


class CitedRule(NamedTuple):
    """A rule as it is cited: its table, its place (``rule 4``, ``handle 12``), its text."""

    table: str
    place: str
    text: str


class RuleBook(Protocol):
    """Looks up what the kernel's trace names; families are words: ip, ip6, inet."""

    def hook(self, family: str, table: str, chain: str) -> ChainHook | None:
        """Return where a base chain listens, None for others."""

    def rule(self, family: str, table: str, chain: str, handle: int) -> CitedRule:
        """Return a rule; of one that is gone or cannot be listed, the text says so."""


class KernelRuleBook:
    """The rules of this network namespace; ``gaps`` says which chains could not be listed."""

    def __init__(self) -> None:
        self.gaps: list[str] = []
        self._hooks: dict[_Chain, ChainHook | None] = {}
        self._rules: _Rules = {}

    def hook(self, family: str, table: str, chain: str) -> ChainHook | None:
        """As ``RuleBook.hook``."""
        key = family, table, chain
        if key not in self._hooks:
            self._hooks[key] = chain_hook(family, table, chain)
        return self._hooks[key]

    def rule(self, family: str, table: str, chain: str, handle: int) -> CitedRule:
        """As ``RuleBook.rule``."""
        key = family, table, chain
        if key not in self._rules:
            self._rules[key] = {}
            self._rules |= self._list(key)
        gone = CitedRule(f"{family} {table}", f"handle {handle}", "a rule that is no longer there")
        return self._rules[key].get(handle, gone)

    def _list(self, key: _Chain) -> _Rules:
        """Return the rules of a chain, and of others that came with it."""
        try:
            return (_iptables(key) if is_iptables(*key[:2]) else None) or _nft(key)
        except (CommandError, NetlinkError) as error:
            self.gaps.append(f"chain {' '.join(key)}: {error}")
            return {}


def is_iptables(family: str, table: str) -> bool:
    """Whether a table is one that iptables-nft keeps."""
    return family in _PROGRAMS and table in TABLES


def _iptables(key: _Chain) -> _Rules | None:
    """Return a chain's rules; None when iptables does not list what the kernel has."""
    family, table, chain = key
    program = next((name for name in _PROGRAMS[family] if find_tool(name)), None)
    if program is None:
        return None
    done = run([program, "-t", table, "-S", chain], timeout_s=_TIMEOUT_S, check=False)
    texts = [line for line in done.stdout.splitlines() if line.startswith("-A ")]
    handles = rule_handles(family, table, chain)
    if done.returncode != 0 or len(texts) != len(handles):
        return None
    numbered = enumerate(zip(handles, texts, strict=True), start=1)
    return {key: {h: CitedRule(table, f"rule {number}", text) for number, (h, text) in numbered}}


def _nft(key: _Chain) -> _Rules:
    few = chain_count(*key[:2]) <= _FEW_CHAINS
    what = ["table", *key[:2]] if few else ["chain", *key]
    listing = run(["nft", "-t", "-a", "list", *what], timeout_s=_TIMEOUT_S)
    table = read_text(listing.stdout).tables.get(key[:2])
    chains = table.chains if table else {}
    return {(*key[:2], name): _cited(key[:2], chain) for name, chain in chains.items()}


def _cited(table: tuple[str, str], chain: Chain) -> dict[int, CitedRule]:
    return {
        rule.handle: CitedRule(" ".join(table), f"handle {rule.handle}", rule.text)
        for rule in chain.rules
        if rule.handle is not None
    }
