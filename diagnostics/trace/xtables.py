"""A built-in chain of an iptables table as a listener at its hook: the walk through its rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from heapq import merge
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from diagnostics.iptables import targets as t
from diagnostics.iptables.model import Chain, Table
from diagnostics.iptables.rule import Rule
from diagnostics.nftables.model import Rule as NftRule
from diagnostics.nftables.native import NativeRules
from diagnostics.trace.candidates import Candidates
from diagnostics.trace.conditions import ONCE, Conditions
from diagnostics.trace.facts import Facts, redirected
from diagnostics.trace.nft_rules import After, Outcome, RuleReader, decided, followed
from diagnostics.trace.nft_values import Expressions
from diagnostics.trace.node import Hook
from diagnostics.trace.packet import Packet
from diagnostics.trace.walk import Branch, End, Step, Tri, Verdict, either

# include/uapi/linux/netfilter_ipv4.h; the nat table has two priorities.
PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
_SOURCE_NAT = 100
# Each undecidable condition doubles the ways; no real chain has so many that matter.
_MOST_SPLITS = 8


class _Frame(NamedTuple):
    """
    Where a walk stands: the next rule of a chain, and where a RETURN leads.

    ``within`` names the chains that led here.
    """

    chain: Chain
    number: int
    caller: _Frame | None
    within: frozenset[str] = frozenset()


class Judgement(NamedTuple):
    """Whether all conditions of a rule hold, with which chance, and why."""

    holds: Tri
    chance: Fraction
    why: str


class _Match(NamedTuple):
    """A rule that may hold, and the place behind it; ``native`` is how nft reads it, if it must."""

    behind: _Frame
    rule: Rule
    judged: Judgement
    native: NftRule | None = None


class Natives:
    """The rules of nft in the chains of one table; see ``diagnostics.nftables.native``."""

    def __init__(self, rules: NativeRules, facts: Facts) -> None:
        self._rules = rules
        self._reader = RuleReader(Expressions(rules.table, facts))
        self._known: dict[str, Mapping[int, NftRule]] = {}

    def of(self, chain: Chain) -> Mapping[int, NftRule]:
        """Return those of a chain by their place from 0."""
        if chain.name not in self._known:
            self._known[chain.name] = self._rules.of(chain.name, len(chain.raw))
        return self._known[chain.name]

    def outcomes(self, rule: NftRule, branch: Branch) -> list[Outcome]:
        """Return what a rule makes of a branch."""
        return self._reader.outcomes(rule, branch)


class BuiltInChain:
    """A listener; see Node. *candidates* is shared by all chains of a trace."""

    def __init__(
        self,
        table: Table,
        hook: Hook,
        conditions: Conditions,
        candidates: Candidates,
        natives: Natives | None = None,
    ) -> None:
        self._facts = conditions.facts
        self.table = table
        self.hook = hook
        self.is_nat = table.name == "nat"
        self.reroutes = table.name in ("mangle", "nat")
        late = self.is_nat and hook in (Hook.POSTROUTING, Hook.INPUT)
        self.priority = _SOURCE_NAT if late else PRIORITIES.get(table.name, 0)
        self._conditions = conditions
        self._candidates = candidates
        self._natives = natives

    def run(self, branch: Branch) -> Iterator[End]:
        """Return how a branch may leave the chain."""
        if self.is_nat and branch.packet.untracked:
            yield End(branch, Verdict.ACCEPT)
            return
        start = _Frame(self.table.chains[self.hook.name], 0, None)
        yield from self._walk(branch, start, _MOST_SPLITS)

    # -- the walk ----------------------------------------------------------------------------

    def _walk(self, branch: Branch, start: _Frame | None, splits: int) -> Iterator[End]:
        frame = start
        while frame is not None:
            match = self._next(branch.packet, frame)
            if match is None:
                frame = frame.caller
                continue
            if match.native is not None:
                gone = self._natively(branch, match, splits)
                if not isinstance(gone, tuple):
                    yield from gone
                    return
                branch, frame = gone
                continue
            frame, rule, judged, _ = match
            met = branch.met(self._step(frame, rule, judged))
            if judged.holds is Tri.MAYBE:
                yield from self._either(met, match, splits)
                return
            if isinstance(rule.target, t.Tproxy):
                yield from _intercepted(met, rule.target)
                return
            if judged.chance is not ONCE and judged.chance < 1:
                yield from self._act(met.share(judged.chance), frame, rule, splits)
                branch = branch.share(1 - judged.chance)
                continue
            decided = self._decide(met, frame, rule)
            if isinstance(decided, End):
                yield decided
                return
            branch, frame = decided
        yield self._policy(branch)

    def _either(self, met: Branch, match: _Match, splits: int) -> Iterator[End]:
        """Follow a rule that may hold; of more than *splits* it is taken that they do not."""
        frame, rule, judged, _ = match
        if judged.chance < 1:
            yield from self._walk(met.share(1 - judged.chance), frame, splits)
            met = met.share(judged.chance)
        decided = self._decide(met, frame, rule)
        if decided == (met, frame):  # it only counts or logs
            yield from self._walk(met, frame, splits)
            return
        taken = self._act(met, frame, rule, splits - 1) if splits else ()
        yield from either(taken, self._walk(met, frame, max(0, splits - 1)))

    def _act(self, branch: Branch, frame: _Frame, rule: Rule, splits: int) -> Iterator[End]:
        if isinstance(rule.target, t.Tproxy):
            yield from _intercepted(branch, rule.target)
            return
        decided = self._decide(branch, frame, rule)
        if isinstance(decided, End):
            yield decided
        else:
            yield from self._walk(*decided, splits)

    def _next(self, packet: Packet, frame: _Frame) -> _Match | None:
        """Return the next rule that may hold; None at the chain's end."""
        chain = frame.chain
        natives = self._natives.of(chain) if self._natives else {}
        numbers = self._candidates.of(chain, packet.dst, frame.number)
        if natives:  # their destination is not the one that iptables shows
            numbers = merge(numbers, sorted(n for n in natives if n >= frame.number))
        for index in numbers:
            rule = chain.rules[index]
            if index in natives:
                behind = frame._replace(number=index + 1)
                return _Match(behind, rule, Judgement(Tri.YES, ONCE, ""), natives[index])
            judged = self._judge(rule, packet)
            if judged.holds is not Tri.NO:
                return _Match(frame._replace(number=index + 1), rule, judged)
        return None

    def _natively(
        self, branch: Branch, match: _Match, splits: int
    ) -> tuple[Branch, _Frame | None] | list[End]:
        """Return where a branch goes on behind a rule of nft, or the ends of its several ways."""
        assert self._natives is not None
        assert match.native is not None
        outcomes = self._natives.outcomes(match.native, branch)
        if len(outcomes) == 1 and outcomes[0].matched is not Tri.MAYBE:
            after = self._decide_native(outcomes[0], match)
            return [after] if isinstance(after, End) else after
        ends: list[End] = []
        for outcome in outcomes:
            after = self._decide_native(outcome, match)
            ends += followed(outcome, after, branch, match.behind, self._walk, splits)
        return ends

    def _decide_native(self, outcome: Outcome, match: _Match) -> After[_Frame | None]:
        behind, native = match.behind, match.native
        assert native is not None
        if outcome.matched is Tri.NO:
            return outcome.branch, behind
        told = outcome.noted("a rule of nft, which iptables does not show whole")
        place = f"rule {match.rule.number}"
        where = self.hook.value, self.table.name, behind.chain.name, place
        step = Step(*where, native.text, outcome.matched, told.note)

        def call(word: str, chain: str) -> _Frame | None:
            kind = t.Jump if word == "jump" else t.Goto
            return self._called(behind, kind("", chain))

        met = outcome._replace(branch=outcome.branch.met(step))
        return decided(met, behind, behind.caller, call)

    def _judge(self, rule: Rule, packet: Packet) -> Judgement:
        chance, maybe, reasons = ONCE, False, []
        for condition in rule.matches:
            answer = self._conditions.holds(condition, packet)
            if answer.holds is Tri.NO:
                return Judgement(Tri.NO, chance, answer.why)
            maybe = maybe or answer.holds is Tri.MAYBE
            if answer.chance is not ONCE:
                if answer.chance <= 0:
                    return Judgement(Tri.NO, chance, answer.why)
                chance *= min(answer.chance, ONCE)
            if answer.why:
                reasons.append(answer.why)
        if isinstance(rule.target, _UNKNOWN) and not _is_net_map(rule.target):
            maybe = True
            reasons.append("what this target does is not known")
        if isinstance(rule.target, t.Tproxy):
            reasons.append("handed to a transparent proxy; dropped if none listens there")
        return Judgement(Tri.MAYBE if maybe else Tri.YES, chance, "; ".join(reasons))

    # -- what a rule does --------------------------------------------------------------------

    def _decide(
        self, branch: Branch, frame: _Frame, rule: Rule
    ) -> End | tuple[Branch, _Frame | None]:
        """Return how the hook ends, or the branch and where it goes on."""
        target = rule.target
        if (end := self._end(branch, target)) is not None:
            return end
        if isinstance(target, t.Return):
            return branch, frame.caller
        if isinstance(target, t.Jump | t.Goto):
            called = self._called(frame, target)
            return (branch, called) if called else (replace(branch, maybe=True, opaque=True), frame)
        return branch.as_(_marked(branch.packet, target)), frame

    def _called(self, frame: _Frame, target: t.Jump | t.Goto) -> _Frame | None:
        """Return the start of a chain; None if it is not in the dump, or a loop leads to it."""
        chain = self.table.chains.get(target.chain)
        within = frame.within | {frame.chain.name}
        if chain is None or chain.name in within:
            return None
        caller = frame if isinstance(target, t.Jump) else frame.caller
        return _Frame(chain, 0, caller, within)

    def _end(self, branch: Branch, target: t.Target) -> End | None:
        if isinstance(target, t.Drop):
            return End(branch, Verdict.DROP)
        if isinstance(target, t.Reject):
            return End(branch, Verdict.REJECT, target.how or "port unreachable")
        if isinstance(target, t.Accept):
            return End(branch, Verdict.ACCEPT)
        translated = self._translated(branch.packet, target)
        if translated is not None:
            return End(branch.as_(translated), Verdict.ACCEPT)
        if isinstance(target, _UNKNOWN):
            return End(replace(branch, maybe=True, opaque=True), Verdict.ACCEPT)
        return None

    def _translated(self, packet: Packet, target: t.Target) -> Packet | None:
        """Return the packet with an address rewritten, None when the target does not do that."""
        if isinstance(target, t.Dnat) and target.ranges:
            to = target.ranges[0]
            return packet.to(to.first or packet.dst, to.ports[0] if to.ports else None)
        if isinstance(target, t.Redirect):
            own = redirected(packet, self._facts)
            return packet.to(own, target.ports[0] if target.ports else None)
        if isinstance(target, t.Snat):
            ranges = [one for one in target.ranges if not one.ports and one.first == one.last]
            return packet.from_(ranges[0].first if ranges else None)
        if isinstance(target, t.Masquerade):
            return packet.from_(None)
        if isinstance(target, t.OpaqueTarget) and _is_net_map(target):
            return _net_mapped(packet, target, self.hook)
        return None

    def _policy(self, branch: Branch) -> End:
        chain = self.table.chains[self.hook.name]
        if chain.policy != "DROP":
            return End(branch, Verdict.ACCEPT)
        text = f"policy {chain.policy}"
        step = Step(
            self.hook.value, self.table.name, chain.name, "policy", text, Tri.YES, "no rule decided"
        )
        return End(branch.met(step), Verdict.DROP)

    def _step(self, behind: _Frame, rule: Rule, judged: Judgement) -> Step:
        chain = behind.chain.name
        place = f"rule {rule.number}"
        text = f"-A {chain} {rule.text}"
        return Step(self.hook.value, self.table.name, chain, place, text, judged.holds, judged.why)


# Nobody outside the kernel knows what these do with the packet.
_UNKNOWN = (t.OpaqueTarget, t.Queue)
_NETMAP = re.compile(r"--to (\S+)")


def _intercepted(branch: Branch, target: t.Tproxy) -> Iterator[End]:
    """Return what TPROXY makes of a packet: marked for its route, or dropped (tproxy_tg4())."""
    marked = replace(branch.packet, mark=(branch.packet.mark & target.keep) ^ target.flip)
    yield from either([End(branch.as_(marked), Verdict.ACCEPT)], [End(branch, Verdict.DROP)])


def _is_net_map(target: t.Target) -> bool:
    return isinstance(target, t.OpaqueTarget) and target.name == "NETMAP"


def _net_mapped(packet: Packet, target: t.OpaqueTarget, hook: Hook) -> Packet | None:
    """Return the packet with the network part of an address exchanged."""
    found = _NETMAP.search(target.text)
    try:
        network = ip_network(found[1] if found else "", strict=False)
    except ValueError:
        return None
    source = hook in (Hook.POSTROUTING, Hook.INPUT)
    old = packet.src if source else packet.dst
    if network.version != old.version:
        return None
    kept = int(old) & int(network.hostmask)
    new = ip_address((int(network.network_address) | kept).to_bytes(len(old.packed), "big"))
    return packet.from_(new) if source else packet.to(new, None)


def _marked(packet: Packet, target: t.Target) -> Packet:
    if isinstance(target, t.Notrack):
        return replace(packet, untracked=True)
    if isinstance(target, t.SetMark):
        return replace(packet, mark=target.apply(packet.mark))
    if isinstance(target, t.SetConnMark):
        return replace(packet, ct_mark=target.apply(packet.ct_mark))
    if isinstance(target, t.SaveMark):
        kept = packet.ct_mark & ~target.ctmask
        return replace(packet, ct_mark=kept ^ (packet.mark & target.nfmask))
    if isinstance(target, t.RestoreMark):
        kept = packet.mark & ~target.nfmask
        return replace(packet, mark=kept ^ (packet.ct_mark & target.ctmask))
    return packet
