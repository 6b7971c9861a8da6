"""What one nftables rule does with a packet: its conditions, maps and translations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from ipaddress import ip_address
from typing import NamedTuple, TypeVar

from diagnostics.nftables.data_types import Json
from diagnostics.nftables.elements import Element
from diagnostics.nftables.model import Rule
from diagnostics.nftables.render import render_expression
from diagnostics.trace.facts import redirected
from diagnostics.trace.nft_conditions import holds
from diagnostics.trace.nft_values import Expressions, Special, Value, how_drawn, merged
from diagnostics.trace.packet import Address, Packet
from diagnostics.trace.walk import Branch, End, Tri, Verdict, either

Place = TypeVar("Place")
# What a statement raises that is not as nft prints it.
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
# Statements that change nothing a later rule or a reader would notice.
_SILENT = frozenset(
    {"counter", "log", "set", "map", "comment", "ct helper", "ct timeout", "ct expectation"}
    | {"flow", "dup", "last", "secmark", "reset"}
)
# Those that an entry of a set is added with may stop the rule.
_CONDITIONS = frozenset({"limit", "quota", "ct count"})
_VERDICTS = frozenset({"accept", "drop", "jump", "goto", "return", "continue", "reject", "queue"})
# What iptables-nft writes as extensions of iptables, and nft cannot read.
_TARGET = "xt target"
_HARMLESS = frozenset({"xt match comment", "xt target LOG", "xt target NFLOG", "xt target TRACE"})
# Codes of icmpx as the kernel sends them (nft_reject_icmp_code(), nft_reject_icmpv6_code()).
_ICMPX = {
    4: {"no-route": "net-unreachable"},
    6: {"host-unreachable": "addr-unreachable", "admin-prohibited": "adm-prohibited"},
}


class Outcome(NamedTuple):
    """
    What a rule made of a branch.

    ``verdict`` is its verdict statement, or None when the next rule follows. ``matched`` says that
    all conditions held; MAYBE: perhaps. ``note`` says why, and cites a map element that decided.
    """

    branch: Branch
    matched: Tri
    verdict: Json = None
    note: str = ""

    def noted(self, note: str) -> Outcome:
        """Return the same with one more note, unless it says that already."""
        if not note or note in self.note:
            return self
        return self._replace(note=f"{self.note}; {note}" if self.note else note)


After = End | tuple[Branch, Place]


def decided(
    outcome: Outcome, here: Place, back: Place, call: Callable[[str, str], Place | None]
) -> After[Place]:
    """
    Return how the hook ends, or the branch and where it goes on, for a rule that matched.

    Args:
        outcome: of the rule, its step included.
        here: the place behind the rule.
        back: where a return leads.
        call: returns the start of the chain that a jump or goto leads to, None for none.
    """
    branch, verdict = outcome.branch, outcome.verdict
    if not verdict:
        return branch, here
    word, body = next(iter(verdict.items()))
    if word in ("jump", "goto"):
        called = call(word, str(body.get("target") if isinstance(body, dict) else None))
        return (branch, called) if called else (replace(branch, maybe=True, opaque=True), here)
    if word == "return":
        return branch, back
    return (branch, here) if word == "continue" else _end(branch, word, body)


def followed(
    outcome: Outcome,
    after: After[Place],
    before: Branch,
    here: Place,
    walk: Callable[[Branch, Place, int], Iterable[End]],
    splits: int,
) -> Iterator[End]:
    """Return the ends behind one outcome of a rule; of more than *splits* none is taken to hold."""
    undecided = outcome.matched is Tri.MAYBE
    if not isinstance(after, End) and after[1] is here:  # unless it only counts or logs
        undecided = undecided and after[0].packet != before.packet
    taken = [after] if isinstance(after, End) else walk(*after, splits - undecided)
    if not undecided:
        yield from taken
        return
    passed = walk(replace(before, probability=outcome.branch.probability), here, splits - 1)
    yield from either(taken if splits > 0 else (), passed)


class RuleReader:
    """Reads the rules of one table."""

    def __init__(self, expressions: Expressions) -> None:
        self._expressions = expressions

    def outcomes(self, rule: Rule, branch: Branch) -> list[Outcome]:
        """Return what a rule makes of a branch; the shares of all sum to that of the branch."""
        return list(self._statements(rule.expressions, Outcome(branch, Tri.YES)))

    def _statements(self, left: Sequence[Json], so_far: Outcome) -> Iterator[Outcome]:
        for index, statement in enumerate(left):
            word, body = next(iter(statement.items()))
            if word == "match" and (found := self._sure(body, so_far)) is not None:
                if found:
                    continue
                yield so_far._replace(matched=Tri.NO)
                return
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
                    yield from self._statements(left[index + 1 :], outcome)
            return
        yield so_far

    def _sure(self, body: Json, so_far: Outcome) -> bool | None:
        """Return whether a match holds; None unless that is sure. Most of a walk's work is here."""
        try:
            answers = holds(body, so_far.branch.packet, self._expressions)
        except _MALFORMED:
            return None
        if len(answers) != 1 or answers[0][0] is Tri.MAYBE:
            return None
        return answers[0][0] is Tri.YES

    def _made(self, word: str, body: Json, so_far: Outcome) -> list[Outcome]:
        try:
            return list(self._statement(word, body, so_far))
        except _MALFORMED:
            return [_perhaps(so_far, "the dump does not tell it whole")]

    def _statement(self, word: str, body: Json, so_far: Outcome) -> Iterator[Outcome]:
        branch = so_far.branch
        if word == "match":
            for found, share in holds(body, branch.packet, self._expressions):
                matched = Tri.MAYBE if Tri.MAYBE in (found, so_far.matched) else Tri.YES
                if found is Tri.NO:
                    matched = Tri.NO
                made = so_far._replace(branch=branch.share(share), matched=matched)
                yield made.noted(_only_the_kernel(body["left"]) if found is Tri.MAYBE else "")
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
            made = so_far._replace(matched=Tri.NO if exceeded else so_far.matched)
            yield made.noted("the rate is taken not to be exceeded")
        else:
            yield _other(word, body, so_far)

    def _verdict_map(self, body: Json, so_far: Outcome) -> Iterator[Outcome]:
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
                yield part._replace(verdict=element.data).noted(_cited(body["data"], element))
            elif element is Special.UNKNOWN:
                # Any element may be met: that of another way than those followed, too.
                doubtful = replace(part.branch, maybe=True, opaque=True)
                yield _perhaps(part._replace(branch=doubtful), _only_the_kernel(body["key"]))
            else:
                yield part._replace(matched=Tri.NO)

    def _mangle(self, body: Json, so_far: Outcome) -> Iterator[Outcome]:
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

    def _dnat(self, body: Json, so_far: Outcome) -> Iterator[Outcome]:
        branch = so_far.branch
        own = str(redirected(branch.packet, self._expressions.facts))
        port, address = body.get("port"), body.get("addr", own)
        for value, share, cited in self._targets(address, branch.packet):
            part = so_far._replace(branch=branch.share(share))
            target = _target(value, port)
            if target is None:
                missing = value is Special.NO_VALUE
                perhaps = _perhaps(part, _only_the_kernel(address))
                yield part._replace(matched=Tri.NO) if missing else perhaps
                continue
            if isinstance(port, dict):  # a range, or what a map yields: the kernel chooses
                part = part._replace(branch=replace(part.branch, maybe=True))
            moved = part.branch.as_(part.branch.packet.to(*target))
            made = part._replace(branch=moved, verdict={"accept": None})
            yield made.noted(cited).noted(how_drawn(address))

    def _targets(
        self, address: Json, packet: Packet
    ) -> Iterator[tuple[Value | Special, Fraction, str]]:
        """Yield the addresses of a translation, with the map element that each comes from."""
        if not isinstance(address, dict) or "map" not in address:
            for value, share in self._expressions.values(address, packet):
                yield value, share, ""
            return
        body = address["map"]
        shares: dict[str, tuple[Value | Special, Fraction, str]] = {}
        for element, share in self._expressions.elements(body, packet):
            value, cited = element if isinstance(element, Special) else element.data, ""
            # Several elements may lead to one place; the first is cited. Those of a map without a
            # name stand in the rule.
            if isinstance(element, Element) and isinstance(body["data"], str):
                cited = _cited(body["data"], element)
            known = shares.get(repr(value), (value, Fraction(0), cited))
            shares[repr(value)] = value, known[1] + share, known[2]
        yield from shares.values()


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
        return End(branch, Verdict.REJECT, _answer(body or {}, branch.packet.family))
    return End(
        replace(branch, maybe=True, opaque=True) if word == "queue" else branch, Verdict.ACCEPT
    )


def _answer(body: Json, family: int) -> str:
    """Return what a reject answers; an ICMP error by the name that the packet's family has."""
    if "tcp reset" in str(body.get("type")):
        return "tcp reset"
    said = str(body.get("expr", "port-unreachable"))
    return _ICMPX[family].get(said, said) if body.get("type") == "icmpx" else said


def _other(word: str, body: Json, so_far: Outcome) -> Outcome:
    """Return the outcome of a statement whose effect cannot be told, or that has none."""
    said = str(body)
    if said in _HARMLESS:
        return so_far
    if word == "opaque" and not said.startswith(_TARGET):
        return _perhaps(so_far, f"only the kernel can decide {said!r}")
    if word != "tproxy" and not said.startswith(_TARGET):
        return _perhaps(so_far, f"only the kernel can decide {word!r}")
    # It may end otherwise than any way that is followed.
    doubtful = so_far._replace(branch=replace(so_far.branch, maybe=True, opaque=True))
    if word == "tproxy":
        return _perhaps(doubtful, "whether a transparent proxy listens there is not known")
    return _perhaps(doubtful, "what this target does is not known")


def _perhaps(outcome: Outcome, note: str) -> Outcome:
    return outcome._replace(matched=Tri.MAYBE).noted(note)


def _only_the_kernel(expression: Json) -> str:
    return f"only the kernel can decide {render_expression(expression)!r}"


def _cited(data: Json, element: Element) -> str:
    """Return a map's element, behind the map's name if it has one."""
    return f"{data if isinstance(data, str) else ''} {element.text}".strip()


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
