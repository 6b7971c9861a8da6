"""A base chain of nftables as a listener at its hook: the walk through its rules and maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from ipaddress import ip_address
from typing import NamedTuple

from diagnostics.nftables.data_types import Json
from diagnostics.nftables.elements import Element
from diagnostics.nftables.model import Chain, Rule, Table
from diagnostics.trace.nft_conditions import holds
from diagnostics.trace.nft_values import Expressions, Special, Value
from diagnostics.trace.node import Hook
from diagnostics.trace.packet import Address
from diagnostics.trace.walk import Branch, End, Step, Tri, Verdict, either

_MOST_SPLITS = 12
_DEEPEST = 64
_ONE = Fraction(1)
# Statements that change nothing a later rule or a reader would notice.
_SILENT = frozenset({"counter", "log", "set", "quota", "comment", "ct helper", "ct timeout", "map"})
_VERDICTS = frozenset({"accept", "drop", "jump", "goto", "return", "continue", "reject", "queue"})


class _Frame(NamedTuple):
    chain: Chain
    number: int
    caller: _Frame | None
    depth: int = 0


class _Outcome(NamedTuple):
    """
    What a rule made of a branch.

    ``verdict`` is its verdict statement, or None when the next rule follows. ``matched`` says that
    all conditions held; MAYBE: perhaps. ``note`` cites a map element that decided.
    """

    branch: Branch
    matched: Tri
    verdict: Json = None
    note: str = ""


class BaseChain:
    """A listener; see Node."""

    def __init__(self, table: Table, chain: Chain, expressions: Expressions) -> None:
        assert chain.hook is not None
        self.hook = Hook(chain.hook)
        self.priority = chain.priority
        self.is_nat = chain.type == "nat"
        self._table = table
        self._chain = chain
        self._expressions = expressions

    def run(self, branch: Branch) -> Iterator[End]:
        """Return how a branch may leave the chain."""
        yield from self._walk(branch, _Frame(self._chain, 0, None), _MOST_SPLITS)

    # -- the walk ----------------------------------------------------------------------------

    def _walk(self, branch: Branch, start: _Frame | None, splits: int) -> Iterator[End]:
        frame = start
        while frame is not None:
            if frame.number >= len(frame.chain.rules):
                frame = frame.caller
                continue
            rule = frame.chain.rules[frame.number]
            behind = frame._replace(number=frame.number + 1)
            outcomes = list(self._rule(rule, branch))
            if len(outcomes) == 1 and outcomes[0].matched is not Tri.MAYBE:
                after = self._decide(outcomes[0], behind, rule)
                if isinstance(after, End):
                    yield after
                    return
                branch, frame = after
                continue
            for outcome in outcomes:
                yield from self._follow(outcome, branch, behind, rule, splits)
            return
        yield self._policy(branch)

    def _follow(
        self, outcome: _Outcome, before: Branch, behind: _Frame, rule: Rule, splits: int
    ) -> Iterator[End]:
        after = self._decide(outcome, behind, rule)
        taken = [after] if isinstance(after, End) else self._walk(*after, splits - 1)
        if outcome.matched is not Tri.MAYBE:
            yield from taken
            return
        share = outcome.branch.probability
        passed = self._walk(replace(before, probability=share), behind, splits - 1)
        yield from either(taken if splits > 0 else (), passed)

    def _decide(
        self, outcome: _Outcome, behind: _Frame, rule: Rule
    ) -> End | tuple[Branch, _Frame | None]:
        branch, verdict = outcome.branch, outcome.verdict
        if outcome.matched is Tri.NO:
            return branch, behind
        branch = branch.met(self._step(behind.chain, rule, outcome))
        if not verdict:
            return branch, behind
        word, body = next(iter(verdict.items()))
        if word in ("jump", "goto"):
            return branch, self._called(behind, word, str(body["target"]))
        if word == "return":
            return branch, behind.caller
        return (branch, behind) if word == "continue" else _end(branch, word, body)

    def _called(self, behind: _Frame, word: str, target: str) -> _Frame | None:
        chain = self._table.chains.get(target)
        if chain is None or behind.depth >= _DEEPEST:
            return behind
        return _Frame(chain, 0, behind if word == "jump" else behind.caller, behind.depth + 1)

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

    def _step(self, chain: Chain, rule: Rule, outcome: _Outcome) -> Step:
        place = f"handle {rule.handle}" if rule.handle else f"rule {rule.number}"
        table = f"{self._table.family} {self._table.name}"
        return Step(
            self.hook.value, table, chain.name, place, rule.text, outcome.matched, outcome.note
        )

    # -- one rule ----------------------------------------------------------------------------

    def _rule(self, rule: Rule, branch: Branch) -> Iterator[_Outcome]:
        yield from self._statements(list(rule.expressions), _Outcome(branch, Tri.YES))

    def _statements(self, left: list[Json], so_far: _Outcome) -> Iterator[_Outcome]:
        for index, statement in enumerate(left):
            word, body = next(iter(statement.items()))
            rest = left[index + 1 :]
            if word in _SILENT:
                continue
            if word in _VERDICTS:
                yield so_far._replace(verdict={word: body})
                return
            made = list(self._statement(word, body, so_far))
            if len(made) == 1 and made[0].matched is not Tri.NO and made[0].verdict is None:
                so_far = made[0]
                continue
            for outcome in made:
                if outcome.matched is Tri.NO or outcome.verdict is not None:
                    yield outcome
                else:
                    yield from self._statements(rest, outcome)
            return
        yield so_far

    def _statement(self, word: str, body: Json, so_far: _Outcome) -> Iterator[_Outcome]:
        branch = so_far.branch
        if word == "match":
            for found, share in holds(body, branch.packet, self._expressions):
                matched = Tri.MAYBE if Tri.MAYBE in (found, so_far.matched) else Tri.YES
                if found is Tri.NO:
                    matched = Tri.NO
                yield so_far._replace(branch=branch.share(share), matched=matched)
        elif word == "vmap":
            yield from self._verdict_map(body, so_far)
        elif word == "mangle":
            yield from self._mangle(body, so_far)
        elif word in ("dnat", "redirect"):
            yield from self._dnat(body or {}, so_far)
        elif word in ("snat", "masquerade"):
            rewritten = branch.as_(replace(branch.packet, source_rewritten=True))
            yield so_far._replace(branch=rewritten, verdict={"accept": None})
        elif word == "limit":
            yield so_far
        else:
            known = str(body).startswith("xt match comment")
            yield so_far if known else so_far._replace(matched=Tri.MAYBE)

    def _verdict_map(self, body: Json, so_far: _Outcome) -> Iterator[_Outcome]:
        branch = so_far.branch
        for value, share in self._expressions.values(body["key"], branch.packet):
            part = so_far._replace(branch=branch.share(share))
            if isinstance(value, Special):
                unknown = value is Special.UNKNOWN
                yield part._replace(matched=Tri.MAYBE if unknown else Tri.NO)
                continue
            element = self._expressions.lookup(body["data"], body["key"], value)
            if isinstance(element, Element):
                note = f"{_name(body['data'])} {element.text}".strip()
                yield part._replace(verdict=element.data, note=note)
            else:
                unknown = element is Special.UNKNOWN
                yield part._replace(matched=Tri.MAYBE if unknown else Tri.NO)

    def _mangle(self, body: Json, so_far: _Outcome) -> Iterator[_Outcome]:
        branch, key = so_far.branch, body["key"]
        for value, share in self._expressions.values(body["value"], branch.packet):
            part = branch.share(share)
            packet = part.packet
            if isinstance(value, int) and key == {"meta": {"key": "mark"}}:
                packet = replace(packet, mark=value)
            elif isinstance(value, int) and key == {"ct": {"key": "mark"}}:
                packet = replace(packet, ct_mark=value)
            yield so_far._replace(branch=part.as_(packet))

    def _dnat(self, body: Json, so_far: _Outcome) -> Iterator[_Outcome]:
        branch = so_far.branch
        loopback = "127.0.0.1" if branch.packet.family == 4 else "::1"
        port = body.get("port")
        for value, share in self._expressions.values(body.get("addr", loopback), branch.packet):
            part = so_far._replace(branch=branch.share(share))
            target = _target(value, port)
            if target is None:
                unknown = value is Special.UNKNOWN
                yield part._replace(matched=Tri.MAYBE if unknown else Tri.NO)
                continue
            moved = part.branch.as_(part.branch.packet.to(*target))
            yield part._replace(branch=moved, verdict={"accept": None})


def _end(branch: Branch, word: str, body: Json) -> End:
    if word == "drop":
        return End(branch, Verdict.DROP)
    if word == "reject":
        return End(branch, Verdict.REJECT, str((body or {}).get("expr", "port unreachable")))
    return End(branch, Verdict.ACCEPT)


def _target(value: Value | Special, port: Json) -> tuple[Address, int | None] | None:
    """Return address and port of a translation; None when there is none."""
    number = port if isinstance(port, int) else None
    if isinstance(value, Special):
        return None
    if isinstance(value, tuple):
        address, number = value[0], int(str(value[1]))
    else:
        address = value
    try:
        return ip_address(str(address)), number
    except ValueError:
        return None


def _name(data: Json) -> str:
    return data if isinstance(data, str) else ""
