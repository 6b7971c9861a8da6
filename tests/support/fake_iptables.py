"""
In-memory tables of iptables: a RulesPort that executes restore texts and refuses what iptables
refuses, in its words.

Every section is one transaction. Beyond iptables' own rules a test can script failures: ``refuse``
lets lines be refused, ``fail`` lets whole runs fail. That the tables behave like the kernel's is
proven by one script that runs on both (tests/packets/test_fake_iptables.py).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from proxy.kernel.iptables import RestoreRejected
from proxy.kernel.legacy_entries import TableContent
from proxy.kernel.restore_refusal import parse_refusal
from tests.support.iptables_text import Chain, Ruleset

BUILT_IN = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
LOCKED = (
    "Another app is currently holding the xtables lock; still 5s 0us time ahead to have a chance"
)
_TERMINAL = frozenset(
    {"ACCEPT", "DROP", "RETURN", "REJECT", "MARK", "MASQUERADE", "DNAT", "SNAT", "LOG"}
)
_JUMP = re.compile(r"(?:^|\s)(?:-j|-g) (\S+)")

Table = dict[str, list[str]]


class _Refused(Exception):
    """What iptables-nft-restore says, ``{}`` being the number of the line."""


_NFT = "iptables-nft-restore v1.8.9 (nf_tables): "
_ABSENT = "iptables-nft-restore: line {} failed: No chain/target/match by that name."
_NO_RULE = (
    "iptables-nft-restore: line {} failed: Bad rule (does a matching rule exist in that chain?)."
)


class FakeIptables:
    """
    The tables of one family.

    Attributes:
        tables: rules by table and chain; change them to play another program.
        inputs: every text that was restored, refused ones included.
        touched: table and chain of every line of the last text.
        watch: called after every COMMIT that was accepted.
        legacy: nothing says which rule the kernel refuses, as ip_tables does at COMMIT.
    """

    def __init__(self, *, legacy: bool = False) -> None:
        self.tables: dict[str, Table] = {
            table: {chain: [] for chain in chains} for table, chains in BUILT_IN.items()
        }
        self.inputs: list[str] = []
        self.touched: list[tuple[str, str]] = []
        self.watch: Callable[[], None] = lambda: None
        self.legacy = legacy
        self.unreadable: Exception | None = None
        self._refused: set[str] = set()
        self._failures: Iterator[Exception | str] = iter(())

    # -- scripting -----------------------------------------------------------------------------

    def refuse(self, pattern: str) -> None:
        """Refuse rules that are added and match, until ``allow``."""
        self._refused.add(pattern)

    def allow(self, pattern: str) -> None:
        """Take back a ``refuse``."""
        self._refused.discard(pattern)

    def fail(self, why: Exception | str = LOCKED, times: int = 1) -> None:
        """Let the next runs fail as a whole: raise, or say this and change nothing."""
        self._failures = iter([why] * times)

    def flush(self, table: str) -> None:
        """Empty all chains of a table, as ``iptables -F`` does."""
        for rules in self.tables[table].values():
            rules.clear()

    # -- the port ------------------------------------------------------------------------------

    def restore(self, text: str) -> float:
        """Execute sections up to the first that is refused."""
        self.inputs.append(text)
        self.touched = []
        failure = next(self._failures, None)
        if isinstance(failure, Exception):
            raise failure
        if failure is not None:
            raise RestoreRejected(parse_refusal(failure, text))
        lines = text.splitlines()
        assert lines, "iptables-restore was given nothing"
        assert lines[-1] == "COMMIT", "the last section has no end"
        table, staged = "", dict[str, list[str]]()
        for number, line in enumerate(lines, 1):
            try:
                if line.startswith("*"):
                    assert not table, f"section {table} has no end"
                    table = line[1:]
                    staged = {chain: list(rules) for chain, rules in self.tables[table].items()}
                elif line == "COMMIT":
                    self._check(staged, lines[:number])
                    self.tables[table], table = staged, ""
                    self.watch()
                else:
                    self._execute(table, staged, line)
            except _Refused as refused:
                said = "iptables-restore: line {} failed" if self.legacy else str(refused)
                said = said.format(number)
                raise RestoreRejected(parse_refusal(said, text)) from None
        return 0.001

    def chains(self, table: str) -> frozenset[str]:
        """Return the names of a table's chains."""
        if self.unreadable is not None:
            raise self.unreadable
        return frozenset(self.tables[table])

    def content(self, table: str) -> TableContent | None:
        """Return the number of rules of each chain and the jumps; None unless legacy."""
        if not self.legacy:
            return None
        chains = self.tables[table]
        jumps = ((chain, _target(rule)) for chain in BUILT_IN[table] for rule in chains[chain])
        counts = {chain: len(rules) for chain, rules in chains.items()}
        return TableContent(counts, frozenset(jump for jump in jumps if jump[1] in chains))

    def rules(self, table: str, chain: str) -> list[str]:
        """Return a chain's rules; empty when there is none."""
        return list(self.tables[table].get(chain, ()))

    def has_rule(self, table: str, chain: str, arguments: Sequence[str]) -> bool:
        """Whether a chain has a rule of these arguments, in whatever order they are printed."""
        wanted = sorted(arguments)
        return any(sorted(shlex.split(rule)) == wanted for rule in self.rules(table, chain))

    # -- looking -------------------------------------------------------------------------------

    def ruleset(self) -> Ruleset:
        """Everything, as ``iptables-save`` tells it."""
        return {
            table: {
                name: Chain("ACCEPT" if name in BUILT_IN[table] else "-", tuple(rules))
                for name, rules in chains.items()
            }
            for table, chains in self.tables.items()
        }

    def followed(self, rule: str) -> tuple[object, ...]:
        """A rule of the nat table, and what it leads to, each rule likewise."""
        chain = self.tables["nat"].get(_target(rule), ())
        return rule, tuple(map(self.followed, chain))

    def leads_to(self, chain: str) -> set[str]:
        """All ``IP:port`` that a chain of the nat table can translate to."""
        found = set()
        for rule in self.tables["nat"][chain]:
            if " -j DNAT --to-destination " in rule:
                found.add(rule.rpartition(" ")[2])
            elif _target(rule) in self.tables["nat"]:
                found |= self.leads_to(_target(rule))
        return found

    # -- inside --------------------------------------------------------------------------------

    def _execute(self, table: str, staged: Table, line: str) -> None:
        if line.startswith(":"):
            chain = line[1:].split()[0]
            self.touched.append((table, chain))
            staged[chain] = []
            return
        verb, chain, *rest = line.split(" ", 2)
        rule = rest[0] if rest else ""
        self.touched.append((table, chain))
        if chain not in staged:
            raise _Refused(_ABSENT)
        if verb == "-X":
            self._remove(staged, chain)
        elif verb == "-D":
            if rule not in staged[chain]:
                raise _Refused(_NO_RULE)
            staged[chain].remove(rule)
        else:
            assert verb in ("-A", "-I"), line
            if self.legacy and _target(rule) not in (_TERMINAL | staged.keys() | {""}):
                raise _Refused("")
            if not self.legacy and self._is_refused(rule):
                said = f"RULE_APPEND failed (Invalid argument): rule in chain {chain}"
                raise _Refused(f"{_NFT}\nline {{}}: {said}")
            staged[chain].insert(0 if verb == "-I" else len(staged[chain]), rule)

    def _remove(self, staged: Table, chain: str) -> None:
        is_led_to = any(_target(rule) == chain for rules in staged.values() for rule in rules)
        if staged[chain] or is_led_to:
            busy = "CHAIN_DEL failed (Device or resource busy)"
            raise _Refused(f"{_NFT}\nline {{}}: {busy}: chain {chain}")
        del staged[chain]

    def _check(self, staged: Table, before: Sequence[str]) -> None:
        """What is found out only when the table is complete."""
        for rules in staged.values():
            for rule in rules:
                target = _target(rule)
                if target and target not in _TERMINAL and target not in staged:
                    missing = f"Chain '{target}' does not exist"
                    raise _Refused(f"{_NFT}{missing}\nError occurred at line: {{}}")
        if self.legacy and any(map(self._is_refused, _added(before))):
            raise _Refused("")

    def _is_refused(self, rule: str) -> bool:
        return any(re.search(pattern, rule) for pattern in self._refused)


def _added(lines: Sequence[str]) -> Iterator[str]:
    """Yield the rules that the last of several sections adds."""
    start = max(n for n, line in zip(count(), lines, strict=False) if line.startswith("*"))
    return (line for line in lines[start:] if line.startswith(("-A", "-I")))


def _target(rule: str) -> str:
    match = _JUMP.search(rule)
    return match[1] if match else ""
