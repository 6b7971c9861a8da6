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
from diagnostics.trace.facts import redirected
from diagnostics.trace.nft_conditions import holds
from diagnostics.trace.nft_values import Expressions, Special, Value, how_drawn, merged
from diagnostics.trace.node import Hook
from diagnostics.trace.packet import Address, Packet
from diagnostics.trace.walk import Branch, End, Step, Tri, Verdict, either

_MOST_SPLITS = 8
# What a statement raises that is not as nft prints it.
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
_ONE = Fraction(1)
# Statements that change nothing a later rule or a reader would notice.
_SILENT = frozenset(
    {"counter", "log", "set", "map", "comment", "ct helper", "ct timeout", "ct expectation"}
    | {"flow", "dup", "last", "secmark", "reset"}
)
# Those that an entry of a set is added with may stop the rule.
_CONDITIONS = frozenset({"limit", "quota", "ct count"})
# nft 1.0.6 prints something at random in place of the word "dormant" in its JSON.
_TABLE_FLAGS = frozenset({"owner", "persist"})
_VERDICTS = frozenset({"accept", "drop", "jump", "goto", "return", "continue", "reject", "queue"})


class _Frame(NamedTuple):
    chain: Chain
    number: int
    caller: _Frame | None
    within: frozenset[str] = frozenset()


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
        undecided = outcome.matched is Tri.MAYBE
        if not isinstance(after, End) and after[1] is behind:  # unless it only counts or logs
            undecided = undecided and after[0].packet != before.packet
        taken = [after] if isinstance(after, End) else self._walk(*after, splits - undecided)
        if not undecided:
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
            target = body.get("target") if isinstance(body, dict) else None
            called = self._called(behind, word, str(target))
            return (
                (branch, called) if called else (replace(branch, maybe=True, opaque=True), behind)
            )
        if word == "return":
            return branch, behind.caller
        return (branch, behind) if word == "continue" else _end(branch, word, body)

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
            if word in _SILENT and not _is_conditional(body):
                continue
            if word in _VERDICTS:
                yield so_far._replace(verdict={word: body})
                return
            made = self._made(word, body, so_far)
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

    def _made(self, word: str, body: Json, so_far: _Outcome) -> list[_Outcome]:
        try:
            return list(self._statement(word, body, so_far))
        except _MALFORMED:
            return [so_far._replace(matched=Tri.MAYBE, note="the dump does not tell it whole")]

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
            rewritten = branch.as_(branch.packet.from_(_new_source(body)))
            yield so_far._replace(branch=rewritten, verdict={"accept": None})
        elif word == "notrack":
            yield so_far._replace(branch=branch.as_(replace(branch.packet, untracked=True)))
        elif word == "limit":
            exceeded = isinstance(body, dict) and body.get("inv")
            note = so_far.note or "the rate is taken not to be exceeded"
            yield so_far._replace(matched=Tri.NO if exceeded else so_far.matched, note=note)
        else:
            known = str(body).startswith("xt match comment")
            yield so_far if known else so_far._replace(matched=Tri.MAYBE)

    def _verdict_map(self, body: Json, so_far: _Outcome) -> Iterator[_Outcome]:
        branch = so_far.branch
        values = self._expressions.values(body["key"], branch.packet)
        found = (
            (v if isinstance(v, Special) else self._expressions.lookup(*where, v), share)
            for where in [(body["data"], body["key"])]
            for v, share in values
        )
        for element, share in merged(found):
            part = so_far._replace(branch=branch.share(share))
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
            elif "payload" in key:
                packet = _overwritten(packet, str(key["payload"].get("field")), value)
            yield so_far._replace(branch=part.as_(packet))

    def _dnat(self, body: Json, so_far: _Outcome) -> Iterator[_Outcome]:
        branch = so_far.branch
        own = str(redirected(branch.packet, self._expressions.facts))
        port = body.get("port")
        for value, share in self._expressions.values(body.get("addr", own), branch.packet):
            part = so_far._replace(branch=branch.share(share))
            target = _target(value, port)
            if target is None:
                unknown = value is not Special.NO_VALUE
                yield part._replace(matched=Tri.MAYBE if unknown else Tri.NO)
                continue
            if isinstance(port, dict):  # a range, or what a map yields: the kernel chooses
                part = part._replace(branch=replace(part.branch, maybe=True))
            moved = part.branch.as_(part.branch.packet.to(*target))
            note = so_far.note or how_drawn(body.get("addr"))
            yield part._replace(branch=moved, verdict={"accept": None}, note=note)


def _overwritten(packet: Packet, field: str, value: Value | Special) -> Packet:
    """Return the packet with a header field written over, which is no translation."""
    if field in ("dport", "sport") and isinstance(value, int):
        return replace(packet, dport=value) if field == "dport" else replace(packet, sport=value)
    if field in ("daddr", "saddr") and not isinstance(value, tuple | Special):
        address = ip_address(str(value))
        return replace(packet, dst=address) if field == "daddr" else replace(packet, src=address)
    return packet


def _end(branch: Branch, word: str, body: Json) -> End:
    if word == "drop":
        return End(branch, Verdict.DROP)
    if word == "reject":
        return End(branch, Verdict.REJECT, str((body or {}).get("expr", "port unreachable")))
    return End(
        replace(branch, maybe=True, opaque=True) if word == "queue" else branch, Verdict.ACCEPT
    )


def _is_conditional(body: Json) -> bool:
    statements = body.get("stmt") if isinstance(body, dict) else None
    return any(word in _CONDITIONS for one in statements or () for word in one)


def _new_source(body: Json) -> Address | None:
    """Return the address that a source becomes, None if it depends or the port changes too."""
    if not isinstance(body, dict) or body.get("port") is not None:
        return None
    try:
        return ip_address(str(body.get("addr")))
    except ValueError:
        return None


def _target(value: Value | Special, port: Json) -> tuple[Address, int | None] | None:
    """Return address and port of a translation; None when there is none."""
    number = port if isinstance(port, int) else None
    if isinstance(value, Special):
        return None
    parts = value if isinstance(value, tuple) else (value,)
    try:
        if len(parts) > 1:
            number = int(str(parts[1]))
        return ip_address(str(parts[0])), number
    except ValueError:
        return None


def _name(data: Json) -> str:
    return data if isinstance(data, str) else ""
