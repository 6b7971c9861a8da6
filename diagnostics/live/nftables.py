"""
The nftables ruleset of a running node, read piece by piece.

All chains are listed once without their rules. Rules are asked of the kernel when a chain is first
walked through, elements when a key is looked up; what cannot be decoded here nft is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, overload

from diagnostics.live.errors import ReadError
from diagnostics.live.expressions import decode_rule
from diagnostics.live.kernel import KernelSet, KernelTable, NftReader, number
from diagnostics.live.packed import Undecoded, comment_of
from diagnostics.live.sets import kernel_set
from diagnostics.nftables.json_reader import read_json
from diagnostics.nftables.model import NamedSet, NftRuleset, Rule, Table
from proxy.kernel.command import CommandError
from proxy.kernel.netlink import NetlinkError
from proxy.netfilter.wire import attributes

T = TypeVar("T")
Run = Callable[[Sequence[str]], str]
"""Runs a program and returns what it prints; raises CommandError."""

Key = tuple[str, str]


def live_ruleset(tables: Sequence[KernelTable], kernel: NftReader, run: Run) -> NftRuleset:
    """
    Return tables that exist.

    Raises:
        CommandError: Their chains could not be listed.

    Rules and elements raise ReadError when they are looked at and cannot be read.
    """
    if not tables:
        return NftRuleset({})
    listed = read_json(run(("nft", "-j", "list", "chains")))
    return NftRuleset(
        {
            (table.family, table.name): _table(table, listed, Pieces(table, kernel, run))
            for table in tables
        },
        listed.gaps,
    )


def bare_table(table: KernelTable, kernel: NftReader, run: Run) -> tuple[Pieces, Table]:
    """Return what reads a table, and the table with its sets, but without its chains."""
    pieces = Pieces(table, kernel, run)
    return pieces, Table(table.family, table.name, {}, _NamedSets(pieces))


def _table(table: KernelTable, listed: NftRuleset, pieces: Pieces) -> Table:
    found = listed.tables.get((table.family, table.name))
    chains = {
        name: replace(chain, rules=_Rules(name, pieces))
        for name, chain in (found.chains.items() if found else ())
    }
    flags = frozenset({"dormant"} if table.dormant else ())
    return Table(table.family, table.name, chains, _NamedSets(pieces), flags=flags)


class _Rules(Sequence[Rule]):
    """The rules of a chain, read when they are first looked at."""

    __slots__ = ("_chain", "_pieces", "_read")

    def __init__(self, chain: str, pieces: Pieces) -> None:
        self._chain = chain
        self._pieces = pieces
        self._read: Sequence[Rule] | None = None

    def _rules(self) -> Sequence[Rule]:
        if self._read is None:
            self._read = self._pieces.rules(self._chain)
        return self._read

    def __len__(self) -> int:
        return len(self._rules())

    @overload
    def __getitem__(self, index: int) -> Rule: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Rule]: ...

    def __getitem__(self, index: int | slice) -> Rule | Sequence[Rule]:
        return self._rules()[index]


class _NamedSets(Mapping[str, NamedSet]):
    """The named sets and maps of a table; to go through all of them lists the table."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._known: dict[str, NamedSet | None] = {}

    def __getitem__(self, name: str) -> NamedSet:
        if name not in self._known:
            self._known[name] = self._pieces.named_set(name)
        found = self._known[name]
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces.whole().sets)

    def __len__(self) -> int:
        return len(self._pieces.whole().sets)


class Pieces:
    """Reads what belongs to one table; every piece once."""

    def __init__(self, table: KernelTable, kernel: NftReader, run: Run) -> None:
        self._table = table
        self._kernel = kernel
        self._run = run
        self._headers: dict[str, KernelSet | None] = {}
        self._whole: Table | None = None

    def raw(self, chain: str) -> list[bytes]:
        """Return the attributes of each rule of a chain; raises ReadError."""
        return self._asked(lambda: self._kernel.rules(self._table, chain))

    def rule(self, chain: str, place: int) -> Rule:
        """Return the rule of a chain at a place from 0; raises ReadError."""
        try:
            return self._rule(place + 1, self.raw(chain)[place])
        except Undecoded:
            return self._listed("chain", chain).chains[chain].rules[place]

    def rules(self, chain: str) -> Sequence[Rule]:
        """Return the rules of a chain; raises ReadError."""
        raw = self.raw(chain)
        try:
            return [self._rule(number, one) for number, one in enumerate(raw, 1)]
        except Undecoded:
            found = self._listed("chain", chain).chains.get(chain)
            return found.rules if found else ()

    def named_set(self, name: str) -> NamedSet | None:
        """Return a named set; raises ReadError."""
        header = self.header(name)
        if header is None:
            return None

        def ask(key: bytes) -> bytes | None:
            return self._asked(lambda: self._kernel.element(self._table, name, key))

        def read_all() -> NamedSet:
            kind = "map" if header.flags & 8 else "set"
            found = self._listed(kind, name).sets.get(name)
            if found is None:
                raise ReadError(f"nft -j list {kind} {self._place(name)}: shows no such {kind}")
            return found

        return kernel_set(header, ask, read_all)

    def header(self, name: str) -> KernelSet | None:
        """Return the properties of a set of the table, also of an anonymous one."""
        if name not in self._headers:
            found = self._asked(lambda: self._kernel.set(self._table, name))
            self._headers[name] = found
        return self._headers[name]

    def elements(self, name: str) -> list[bytes]:
        """Return the elements of a set of the table."""
        return self._asked(lambda: self._kernel.elements(self._table, name))

    def whole(self) -> Table:
        """Return the table as nft lists it, read once."""
        if self._whole is None:
            self._whole = self._listed("table")
        return self._whole

    def _rule(self, place: int, raw: bytes) -> Rule:
        found = attributes(raw)
        statements = decode_rule(found.get(4, memoryview(b"")), self._table.family, self)
        comment = comment_of(bytes(found.get(7, b"")))
        return Rule(number(found.get(3)), place, self._table.family, statements, comment)

    def _listed(self, kind: str, name: str = "") -> Table:
        argv = ("nft", "-j", "list", kind, *self._place(name).split(" "))
        try:
            read = read_json(self._run(argv))
        except CommandError as error:
            raise ReadError(str(error)) from error
        key = self._table.family, self._table.name
        return read.tables.get(key) or Table(*key, {}, {})

    def _place(self, name: str) -> str:
        return f"{self._table.family} {self._table.name} {name}".strip()

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (NetlinkError, TimeoutError) as error:
            raise ReadError(f"nftables table {self._place('')}: {error}; run as root") from error
