"""A base chain of nftables as a listener at its hook: the walk through its rules and maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from diagnostics.nftables.model import Chain, Rule, Table
from diagnostics.trace.nft_rules import After, Outcome, RuleReader, decided, followed
from diagnostics.trace.nft_values import Expressions
from diagnostics.trace.node import Hook
from diagnostics.trace.packet import Packet
from diagnostics.trace.walk import Branch, End, Step, Tri, Verdict, either

_MOST_SPLITS = 8
# nft 1.0.6 prints something at random in place of the word "dormant" in its JSON.
_TABLE_FLAGS = frozenset({"owner", "persist"})


class _Frame(NamedTuple):
    chain: Chain
    number: int
    caller: _Frame | None
    within: frozenset[str] = frozenset()


class BaseChain:
    """A listener; see Node."""

    def __init__(self, table: Table, chain: Chain, expressions: Expressions) -> None:
        assert chain.hook is not None
        self.hook = Hook(chain.hook)
        self.priority = chain.priority
        self.is_nat = chain.type == "nat"
        self.reroutes = chain.type in ("route", "nat")
        self._table = table
        self._chain = chain
        self._rules = RuleReader(expressions)

    def run(self, branch: Branch) -> Iterator[End]:
        """Return how a branch may leave the chain."""
        if self.is_nat and branch.packet.untracked:
            yield End(branch, Verdict.ACCEPT)
            return
        asked = self._is_asked(branch.packet)
        if asked is Tri.YES:
            yield from self._walk(branch, _Frame(self._chain, 0, None), _MOST_SPLITS)
        elif asked is Tri.NO:
            yield End(branch, Verdict.ACCEPT)
        else:
            doubtful = branch.met(self._doubt())
            walked = self._walk(doubtful, _Frame(self._chain, 0, None), _MOST_SPLITS)
            yield from either(walked, [End(doubtful, Verdict.ACCEPT)])

    def _is_asked(self, packet: Packet) -> Tri:
        """Return whether the kernel shows this chain the packet at all."""
        sure = self._table.flags <= _TABLE_FLAGS
        if self.hook is Hook.INGRESS:
            devices = self._chain.device
            if devices and packet.iif is not None and packet.iif not in devices.split(", "):
                return Tri.NO
            sure = sure and devices is not None and packet.iif is not None
        return Tri.YES if sure else Tri.MAYBE

    def _doubt(self) -> Step:
        table = f"{self._table.family} {self._table.name}"
        if self._table.flags <= _TABLE_FLAGS:
            text = f"device {self._chain.device or 'not told'}"
            why = "whether the packet comes in there is not known"
        else:
            text = f"flags {', '.join(sorted(self._table.flags))}"
            why = "nft misprints the table's flags: it may be dormant"
        return Step(self.hook.value, table, self._chain.name, "chain", text, Tri.MAYBE, why)

    # -- the walk ----------------------------------------------------------------------------

    def _walk(self, branch: Branch, start: _Frame | None, splits: int) -> Iterator[End]:
        frame = start
        while frame is not None:
            if frame.number >= len(frame.chain.rules):
                frame = frame.caller
                continue
            rule = frame.chain.rules[frame.number]
            behind = frame._replace(number=frame.number + 1)
            outcomes = self._rules.outcomes(rule, branch)
            if len(outcomes) == 1 and outcomes[0].matched is not Tri.MAYBE:
                after = self._decide(outcomes[0], behind, rule)
                if isinstance(after, End):
                    yield after
                    return
                branch, frame = after
                continue
            for outcome in outcomes:
                after = self._decide(outcome, behind, rule)
                yield from followed(outcome, after, branch, behind, self._walk, splits)
            return
        yield self._policy(branch)

    def _decide(self, outcome: Outcome, behind: _Frame, rule: Rule) -> After[_Frame | None]:
        if outcome.matched is Tri.NO:
            return outcome.branch, behind
        met = outcome.branch.met(self._step(behind.chain, rule, outcome))

        def call(word: str, target: str) -> _Frame | None:
            return self._called(behind, word, target)

        return decided(outcome._replace(branch=met), behind, behind.caller, call)

    def _called(self, behind: _Frame, word: str, target: str) -> _Frame | None:
        """Return the start of a chain; None if it is not in the dump, or a loop leads to it."""
        chain = self._table.chains.get(target)
        within = behind.within | {behind.chain.name}
        if chain is None or target in within:
            return None
        return _Frame(chain, 0, behind if word == "jump" else behind.caller, within)

    def _policy(self, branch: Branch) -> End:
        if self._chain.policy != "drop":
            return End(branch, Verdict.ACCEPT)
        step = Step(
            self.hook.value,
            f"{self._table.family} {self._table.name}",
            self._chain.name,
            "policy",
            "policy drop",
            Tri.YES,
            "no rule decided",
        )
        return End(branch.met(step), Verdict.DROP)

    def _step(self, chain: Chain, rule: Rule, outcome: Outcome) -> Step:
        place = f"handle {rule.handle}" if rule.handle else f"rule {rule.number}"
        table = f"{self._table.family} {self._table.name}"
        return Step(
            self.hook.value, table, chain.name, place, rule.text, outcome.matched, outcome.note
        )
