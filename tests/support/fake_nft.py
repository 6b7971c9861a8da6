"""
An in-memory nf_tables table: an NftPort that decodes requests and refuses what the kernel refuses.

What it knows of the kernel's rules is proven against the kernel by one contract test that runs on
both (tests/unit/proxy/engine/test_fake_nft.py). Beyond them a test can script failures:
``fail`` lets whole transactions fail, ``refuse`` lets single elements be refused.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from proxy.kernel.netlink import NetlinkError
from proxy.kernel.nftables import KernelRequest, Refusal, TransactionRejected
from proxy.netfilter.statements import Verdict
from proxy.netfilter.wire import Msg, attributes, iterate_attributes

Attributes = dict[int, memoryview]
_JUMPS = (-3, -4)  # NFT_JUMP, NFT_GOTO
_SET_TYPE = (3, 4, 5, 6, 7)  # flags, key type and length, data type and length


@dataclass(frozen=True, slots=True)
class Element:
    """Data of an element: packed map data, end of a range, or a verdict and where it leads."""

    data: bytes = b""
    verdict: bytes = b""
    chain: str = ""

    @property
    def value(self) -> bytes | Verdict:
        """What a port tells of it."""
        if not self.verdict:
            return self.data
        code = int.from_bytes(attributes(self.verdict)[1], "big", signed=True)
        return Verdict(code, self.chain)


@dataclass(slots=True)
class Rule:
    """A rule's names: the chains it leads to and the sets it looks up."""

    chains: frozenset[str]
    sets: frozenset[str]


@dataclass(slots=True)
class FakeSet:
    """A set; ``type`` is what the kernel compares when it is declared again."""

    type: tuple[bytes, ...]
    elements: dict[bytes, Element] = field(default_factory=dict)


@dataclass(slots=True)
class FakeChain:
    """A chain; ``hook`` is the encoded hook of a base chain."""

    hook: bytes = b""
    rules: list[Rule] = field(default_factory=list)


@dataclass(slots=True)
class FakeTable:
    """One table."""

    comment: str = ""
    sets: dict[str, FakeSet] = field(default_factory=dict)
    chains: dict[str, FakeChain] = field(default_factory=dict)

    def copy(self) -> FakeTable:
        sets = {name: FakeSet(s.type, dict(s.elements)) for name, s in self.sets.items()}
        chains = {name: FakeChain(c.hook, list(c.rules)) for name, c in self.chains.items()}
        return FakeTable(self.comment, sets, chains)

    def leads_to(self, chain: str) -> bool:
        """Whether a rule or an element of the table leads to *chain*."""
        return any(chain in rule.chains for c in self.chains.values() for rule in c.rules) or any(
            element.chain == chain for s in self.sets.values() for element in s.elements.values()
        )


class FakeNft:
    """
    The fake; ``tables`` is its whole state and may be edited, as another program would.

    Attributes:
        transactions: requests of every transaction that was tried, in order.
        accepted: how many transactions were accepted.
    """

    def __init__(self) -> None:
        self.tables: dict[str, FakeTable] = {}
        self.transactions: list[Sequence[KernelRequest]] = []
        self.accepted = 0
        self.unreadable: NetlinkError | None = None
        self._failures: dict[int, int] = {}
        self._refused: dict[bytes, int] = {}

    # -- scripts -----------------------------------------------------------------------------

    def fail(self, number: int, *, after: int = 0, times: int = 1) -> None:
        """Let *times* transactions fail with errno *number*, after *after* that do not."""
        first = len(self.transactions) + after
        self._failures |= dict.fromkeys(range(first, first + times), number)

    def recover(self) -> None:
        """Forget the failures that ``fail`` announced."""
        self._failures.clear()

    def refuse(self, key_part: bytes, number: int = errno.EINVAL) -> None:
        """Refuse every new element with *key_part* in its key, with errno *number*."""
        self._refused[key_part] = number

    def allow(self, key_part: bytes) -> None:
        """Undo ``refuse``."""
        del self._refused[key_part]

    # -- what tests look at --------------------------------------------------------------------

    def requests_of(self, index: int = -1) -> int:
        """Return how many requests a transaction had; the last one's by default."""
        return len(self.transactions[index])

    def elements_of(self, index: int = -1) -> int:
        """Return how many elements a transaction added or deleted; the last one's by default."""
        return sum(
            len(list(_elements(attributes(request.body))))
            for request in self.transactions[index]
            if request.kind in (Msg.NEWSETELEM, Msg.DELSETELEM)
        )

    def keys(self, table: str, name: str) -> set[bytes]:
        """Return the keys of a set's elements."""
        return set(self.tables[table].sets[name].elements)

    def target_of(self, table: str, name: str, key: bytes) -> str:
        """Return the chain that an element of a verdict map leads to; "" when it is not there."""
        return self.tables[table].sets[name].elements.get(key, Element()).chain

    def rule_count(self, table: str, chain: str) -> int:
        """Return how many rules a chain has."""
        return len(self.tables[table].chains[chain].rules)

    # -- NftPort -------------------------------------------------------------------------------

    def apply(self, requests: Sequence[KernelRequest]) -> float:
        """Make one transaction; see NftPort."""
        number = self._failures.pop(len(self.transactions), 0)
        self.transactions.append(requests)
        if number:
            raise NetlinkError(number)
        tables = {name: table.copy() for name, table in self.tables.items()}
        refusals: list[Refusal] = []
        for index, request in enumerate(requests):
            try:
                _HANDLERS[request.kind](self, tables, attributes(request.body), request)
            except NetlinkError as error:  # the kernel goes on, to report every refusal
                refusals.append(Refusal(index, error))
        if refusals:
            raise TransactionRejected(refusals)
        self.tables = tables
        self.accepted += 1
        return 0.0

    def table_comment(self, table: str) -> str | None:
        """Return a table's comment; see NftPort."""
        self._check_readable()
        return self.tables[table].comment if table in self.tables else None

    def chains(self, table: str) -> frozenset[str]:
        """Return a table's chains; see NftPort."""
        self._check_readable()
        return frozenset(self.tables[table].chains) if table in self.tables else frozenset()

    def sets(self, table: str) -> frozenset[str]:
        """Return a table's sets and maps; see NftPort."""
        self._check_readable()
        return frozenset(self.tables[table].sets) if table in self.tables else frozenset()

    def elements(self, table: str, name: str) -> list[tuple[bytes, bytes | Verdict]]:
        """Return a set's elements; see NftPort."""
        self._check_readable()
        if table not in self.tables or name not in self.tables[table].sets:
            return []
        found = self.tables[table].sets[name].elements
        return [(key, element.value) for key, element in found.items()]

    def _check_readable(self) -> None:
        if self.unreadable is not None:
            raise self.unreadable

    # -- requests ------------------------------------------------------------------------------

    def new_table(self, tables: Tables, found: Attributes, _: KernelRequest) -> None:
        userdata = bytes(found.get(6, b""))
        tables.setdefault(_text(found[1]), FakeTable(userdata[2:].rstrip(b"\0").decode()))

    def delete_table(self, tables: Tables, found: Attributes, _: KernelRequest) -> None:
        _table(tables, found)
        del tables[_text(found[1])]

    def new_set(self, tables: Tables, found: Attributes, _: KernelRequest) -> None:
        sets = _table(tables, found).sets
        kind = tuple(bytes(found.get(number, b"")) for number in _SET_TYPE)
        if sets.setdefault(_text(found[2]), FakeSet(kind)).type != kind:
            raise NetlinkError(errno.EEXIST)

    def delete_set(self, tables: Tables, found: Attributes, _: KernelRequest) -> None:
        table, name = _table(tables, found), _text(found[2])
        _set(table, found)
        if any(name in rule.sets for chain in table.chains.values() for rule in chain.rules):
            raise NetlinkError(errno.EBUSY)
        del table.sets[name]

    def new_chain(self, tables: Tables, found: Attributes, _: KernelRequest) -> None:
        chains, hook = _table(tables, found).chains, bytes(found.get(4, b""))
        chain = chains.setdefault(_text(found[3]), FakeChain(hook))
        if hook and chain.hook != hook:  # a chain stays where it was attached, if it ever was
            raise NetlinkError(errno.EOPNOTSUPP)

    def delete_chain(self, tables: Tables, found: Attributes, _: KernelRequest) -> None:
        table, name = _table(tables, found), _text(found[3])
        chain = table.chains.get(name)
        if chain is None:
            raise NetlinkError(errno.ENOENT)
        if table.leads_to(name):
            raise NetlinkError(errno.EBUSY)
        del table.chains[name]

    def new_rule(self, tables: Tables, found: Attributes, _: KernelRequest) -> None:
        table = _table(tables, found)
        chain = table.chains.get(_text(found[2]))
        rule = _rule(found[4])
        if chain is None or rule.chains - table.chains.keys() or rule.sets - table.sets.keys():
            raise NetlinkError(errno.ENOENT)
        chain.rules.append(rule)

    def delete_rules(self, tables: Tables, found: Attributes, _: KernelRequest) -> None:
        table = _table(tables, found)
        if 2 in found and _text(found[2]) not in table.chains:
            raise NetlinkError(errno.ENOENT)
        for name in [_text(found[2])] if 2 in found else table.chains:
            table.chains[name].rules.clear()

    def new_elements(self, tables: Tables, found: Attributes, request: KernelRequest) -> None:
        table = _table(tables, found)
        known = _set(table, found).elements
        for key, element in _elements(attributes(request.body)):
            for part, number in self._refused.items():
                if part in key:
                    raise NetlinkError(number)
            if element.chain and element.chain not in table.chains:
                raise NetlinkError(errno.ENOENT)
            if known.setdefault(key, element) != element:
                raise NetlinkError(errno.EEXIST)

    def delete_elements(self, tables: Tables, found: Attributes, _: KernelRequest) -> None:
        known = _set(_table(tables, found), found).elements
        if 3 not in found:
            known.clear()
            return
        for key, _element in _elements(found):
            if known.pop(key, None) is None:
                raise NetlinkError(errno.ENOENT)


Tables = dict[str, FakeTable]
_Handler = Callable[[FakeNft, Tables, Attributes, KernelRequest], None]
_HANDLERS: dict[Msg, _Handler] = {
    Msg.NEWTABLE: FakeNft.new_table,
    Msg.DELTABLE: FakeNft.delete_table,
    Msg.NEWSET: FakeNft.new_set,
    Msg.DELSET: FakeNft.delete_set,
    Msg.NEWCHAIN: FakeNft.new_chain,
    Msg.DELCHAIN: FakeNft.delete_chain,
    Msg.NEWRULE: FakeNft.new_rule,
    Msg.DELRULE: FakeNft.delete_rules,
    Msg.NEWSETELEM: FakeNft.new_elements,
    Msg.DELSETELEM: FakeNft.delete_elements,
}


def _text(value: memoryview) -> str:
    return bytes(value).rstrip(b"\0").decode()


def _table(tables: Tables, found: Attributes) -> FakeTable:
    table = tables.get(_text(found[1]))
    if table is None:
        raise NetlinkError(errno.ENOENT)
    return table


def _set(table: FakeTable, found: Attributes) -> FakeSet:
    item = table.sets.get(_text(found[2]))
    if item is None:
        raise NetlinkError(errno.ENOENT)
    return item


def _elements(found: Attributes) -> Iterator[tuple[bytes, Element]]:
    """Yield key and data of each element; the end of a range is part of what must be equal."""
    for _, payload in iterate_attributes(found.get(3, memoryview(b""))):
        entry = attributes(payload)
        key = bytes(attributes(entry[1])[1])
        data = attributes(entry.get(2, memoryview(b"")))
        verdict = bytes(data.get(2, b""))
        end = bytes(attributes(entry.get(10, memoryview(b""))).get(1, b""))
        yield key, Element(bytes(data.get(1, b"")) or end, verdict, _chain_of(verdict))


def _chain_of(verdict: bytes | memoryview) -> str:
    found = attributes(verdict)
    if 1 not in found or int.from_bytes(found[1], "big", signed=True) not in _JUMPS:
        return ""
    return _text(found[2])


def _rule(expressions: memoryview) -> Rule:
    chains: set[str] = set()
    sets: set[str] = set()
    for _, payload in iterate_attributes(expressions):
        found = attributes(payload)
        name, body = _text(found[1]), attributes(found.get(2, memoryview(b"")))
        if name in ("lookup", "dynset"):
            sets.add(_text(body[1]))
        elif name == "immediate":
            chains.add(_chain_of(attributes(body[2]).get(2, memoryview(b""))))
    return Rule(frozenset(chains - {""}), frozenset(sets))
