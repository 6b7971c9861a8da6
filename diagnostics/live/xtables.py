"""
The iptables rules of a running node, read chain by chain, in both backends.

``iptables-nft -S CHAIN`` reads one chain out of the kernel, a full dump of a large node takes
seconds. The legacy backend always copies a whole table out of the kernel, so there a table is read
at once. Only tables that exist are read: the legacy programs make a table by asking for it.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from diagnostics.iptables.model import Chain, Ruleset, Table
from diagnostics.iptables.save import read_listing, read_save
from diagnostics.live.errors import ReadError
from diagnostics.live.kernel import KernelTable, NftReader
from diagnostics.live.nftables import Run
from proxy.kernel.command import CommandError, ToolMissing
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily

# The built-in chains of each table; iptables(8).
BUILT_IN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
# Names of hooks, which no other chain has.
_HOOKS = frozenset(
    {"INGRESS", "EGRESS"}.union(name for names in BUILT_IN.values() for name in names)
)
_LEGACY_NAMES = {
    IPFamily.IPV4: "proc/self/net/ip_tables_names",
    IPFamily.IPV6: "proc/self/net/ip6_tables_names",
}
NFT, LEGACY = "nft", "legacy"
_PROGRAMS = {IPFamily.IPV4: "iptables", IPFamily.IPV6: "ip6tables"}
_WORDS = {IPFamily.IPV4: "ip", IPFamily.IPV6: "ip6"}
# How iptables-nft speaks of what was made with nft, and of a chain that does not exist.
_INCOMPATIBLE = "incompatible"
_ABSENT = ("no chain/target/match by that name", "does not exist", "chain not found")


@dataclass(frozen=True, slots=True)
class Programs:
    """
    What to run for a family's backends.

    Attributes:
        run: Runs it.
        has: Tells whether a program is installed.
    """

    run: Run
    has: Callable[[str], bool]

    def of(self, family: IPFamily, kind: str, action: str = "") -> str:
        """
        Return the program of a backend, ``nft`` or ``legacy``.

        Raises:
            ToolMissing: None is installed.
        """
        own = f"{_PROGRAMS[family]}-{kind}{action}"
        if self.has(own):
            return own
        plain = _PROGRAMS[family]
        if self.has(plain) and self.backend(family) == kind:
            return plain + action
        reason = f"the node has rules of the {kind} backend, and this program is not installed"
        raise ToolMissing([own], reason, hint="install the package iptables")

    def backend(self, family: IPFamily) -> str:
        """Return the backend of the plain program; raises CommandError."""
        said = self.run((_PROGRAMS[family], "--version"))
        return NFT if "nf_tables" in said else LEGACY


def legacy_tables(root: Path, family: IPFamily) -> list[str]:
    """Return the names of the legacy tables that exist; raises OSError."""
    try:
        return (root / _LEGACY_NAMES[family]).read_text().split()
    except FileNotFoundError:  # the kernel has not loaded, or does not have, legacy tables
        return []


def second_dump(family: IPFamily, root: Path, programs: Programs) -> tuple[str, str] | None:
    """
    Return what the backend holds that the plain iptables-save does not show.

    Returns:
        The name of the program that showed it and what it printed; None where it holds nothing.

    Raises:
        CommandError: It could not be read.
        OSError: Which legacy tables there are could not be read.
    """
    if programs.backend(family) == NFT:
        if not legacy_tables(root, family):
            return None
        program = programs.of(family, LEGACY, "-save")
    else:
        program = f"{_PROGRAMS[family]}-nft-save"
        if not programs.has(program):
            return None
    text = programs.run((program, "-c"))
    return (program, text) if read_save(text).tables else None


def nft_rules(
    family: IPFamily, tables: Collection[KernelTable], kernel: NftReader, programs: Programs
) -> Ruleset:
    """
    Return the rules that iptables-nft keeps, in those of *tables* that are its own.

    A table whose built-in chains were made with nft is left out. One that has other base chains
    too is named in ``notices``: iptables does not show those.

    Raises:
        CommandError, NetlinkError: A table could not be read.
    """
    found = Ruleset(family=4 if family is IPFamily.IPV4 else 6, backend="nf_tables")
    wanted = [one for one in tables if one.family == _WORDS[family] and one.name in BUILT_IN]
    program = programs.of(family, "nft") if wanted else ""
    for table in wanted:
        chains = _Chains(table, program, kernel, programs.run)
        if chains.are_readable():
            found.tables[table.name] = Table(table.name, chains, complete=True)
            found.notices += [table.name] if chains.has_others else []
    return found


def legacy_rules(family: IPFamily, names: Collection[str], programs: Programs) -> Ruleset:
    """
    Return the rules of the legacy tables *names*, which exist.

    Raises:
        CommandError: A table could not be read.
    """
    found = Ruleset(family=4 if family is IPFamily.IPV4 else 6, backend="legacy")
    program = programs.of(family, "legacy", "-save") if names else ""
    for name in sorted(names):
        read = read_save(programs.run((program, "-t", name)))
        found.tables |= read.tables
        found.problems += read.problems
        found.notices += read.notices
    return found


class _Chains(UserDict[str, Chain]):
    """
    The chains of a table, each listed when it is first asked for.

    To go through all of them reads the table at once. What cannot be read raises ReadError.
    """

    def __init__(self, table: KernelTable, program: str, kernel: NftReader, run: Run) -> None:
        super().__init__()
        self.has_others = False
        self._table = table
        self._built_in = BUILT_IN[table.name]
        self._program = program
        self._kernel = kernel
        self._run = run
        self._absent: set[str] = set()
        self._is_complete = False

    def are_readable(self) -> bool:
        """
        Read the built-in chains; return False when one was made with nft.

        Raises CommandError and NetlinkError.
        """
        return all(self._list(name) for name in self._built_in)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __missing__(self, name: str) -> Chain:
        is_elsewhere = name in _HOOKS and name not in self._built_in
        if is_elsewhere or name in self._absent or self._is_complete:
            raise KeyError(name)
        try:
            is_known = self._list(name)
        except (CommandError, NetlinkError) as error:
            raise ReadError(str(error)) from error
        if not is_known:
            text = f"{self._program} -t {self._table.name} -S {name}"
            raise ReadError(f"{text}: the chain was made with nft, iptables does not show it")
        if name not in self.data:
            self._absent.add(name)
            raise KeyError(name)
        return self.data[name]

    def __iter__(self) -> Iterator[str]:
        self._complete()
        return iter(self.data)

    def __len__(self) -> int:
        self._complete()
        return len(self.data)

    def _list(self, name: str) -> bool:
        """
        Read one chain, unless it does not exist; return False when iptables cannot show it.

        iptables 1.8 says "incompatible" of a chain that does not exist, too.
        """
        try:
            text = self._run((self._program, "-t", self._table.name, "-S", name))
        except CommandError as error:
            said = error.stderr.lower()
            if _INCOMPATIBLE in said:
                return not self._kernel.has_chain(self._table, name)
            if any(word in said for word in _ABSENT):
                return True
            raise
        read = read_listing(text, self._table.name)
        self.has_others |= any(_INCOMPATIBLE in notice.lower() for notice in read.notices)
        self.data |= read.tables[self._table.name].chains
        return True

    def _complete(self) -> None:
        if self._is_complete:
            return
        try:
            text = self._run((f"{self._program}-save", "-t", self._table.name))
        except CommandError as error:
            raise ReadError(str(error)) from error
        table = read_save(text).tables.get(self._table.name)
        self.data = {**(table.chains if table else {}), **self.data}
        self._is_complete = True
