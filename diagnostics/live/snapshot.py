"""The running node as a snapshot for following packets: rules are read as far as they are met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from diagnostics.iptables.model import Ruleset
from diagnostics.live.kernel import KernelNft, KernelTable, NftReader
from diagnostics.live.native import KernelNatives
from diagnostics.live.nftables import bare_table, live_ruleset
from diagnostics.live.xtables import Programs, legacy_rules, legacy_tables, nft_rules
from diagnostics.nftables.model import NftRuleset
from diagnostics.nftables.native import NativeRules
from diagnostics.snapshot.live import TIMEOUT_S, LiveSource, ReadObjects
from diagnostics.snapshot.mode import ModeGuess, guess_mode
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap, Part, gap
from diagnostics.snapshot.source import PartSource
from proxy.backends.iptables.names import SERVICES
from proxy.kernel.command import CommandError, find_tool, run
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily

T = TypeVar("T")
_PARTS = {IPFamily.IPV4: Part.IPTABLES, IPFamily.IPV6: Part.IP6TABLES}
_WORDS = {"ip": IPFamily.IPV4, "ip6": IPFamily.IPV6}


class SelectiveSnapshot(NodeSnapshot):
    """
    The node this process runs on; its rules are read chain by chain, its maps key by key.

    What a walk meets later than the first look raises ReadError when it cannot be read.

    Args:
        source: Everything but the rules.
        name: The Node's name, "" for the host's.
        kernel: Answers for nf_tables.
        programs: Runs iptables and nft.
        root: Where proc is, for tests.
    """

    def __init__(
        self,
        source: PartSource,
        name: str = "",
        *,
        kernel: NftReader,
        programs: Programs,
        root: Path = Path("/"),
    ) -> None:
        super().__init__(source, name)
        self._kernel = kernel
        self._programs = programs
        self._root = root

    def rulesets(self, family: IPFamily) -> tuple[Ruleset, ...] | Gap:
        """Return the iptables rules of each backend that holds tables, legacy first."""
        return self._once(
            f"rulesets {family}", lambda: _or_gap(_PARTS[family], lambda: self._rulesets(family))
        )

    def _rulesets(self, family: IPFamily) -> tuple[Ruleset, ...]:
        found = (
            legacy_rules(family, legacy_tables(self._root, family), self._programs),
            nft_rules(family, self._tables(), self._kernel, self._programs),
        )
        return tuple(rules for rules in found if rules.tables)

    def iptables(self, family: IPFamily) -> Ruleset | Gap:
        """Return the rules of the backend with tables, nft's where both have; may be empty."""
        found = self.rulesets(family)
        if isinstance(found, Gap):
            return found
        return found[-1] if found else Ruleset()

    def nft(self) -> NftRuleset | Gap:
        """Return the nftables ruleset, without the tables that are iptables-nft's alone."""
        return self._once("nft", lambda: _or_gap(Part.NFT_JSON, self._nft))

    def natives(self, family: IPFamily, table: str) -> NativeRules | None:
        """Return the rules of nft in a table of iptables, None without such a table."""
        for one in self._tables():
            if _WORDS.get(one.family) is family and one.name == table:
                return KernelNatives(*bare_table(one, self._kernel, self._programs.run))
        return None

    def _nft(self) -> NftRuleset:
        wanted = [table for table in self._tables() if not self._is_of_iptables(table)]
        return live_ruleset(wanted, self._kernel, self._programs.run)

    def setting(self, name: str) -> int | None:
        """Return one kernel setting: sysctl prints a thousand others with it."""
        # A dot within the name of a device is a slash in that of a setting.
        path = name.translate({ord("."): "/", ord("/"): "."})
        try:
            return int((self._root / "proc/sys" / path).read_text())
        except (OSError, ValueError):
            return None

    def _guess_mode(self) -> ModeGuess:
        """As for a whole snapshot, from the chains and tables that tell a proxy's mode."""
        config, tables, servers = self.config(), self.nft(), self.ipvs()
        lines = [line for family in IPFamily for line in self._services_chains(family)]
        names = () if isinstance(tables, Gap) else tables.tables
        return guess_mode(
            "" if isinstance(config, Gap) else config.mode,
            "\n".join(lines),
            "\n".join(f"table {family} {name}" for family, name in names),
            not isinstance(servers, Gap) and bool(servers.servers),
        )

    def _services_chains(self, family: IPFamily) -> Iterator[str]:
        """Yield what iptables-save would print of the proxy's chain of Services."""
        found = self.rulesets(family)
        for rules in () if isinstance(found, Gap) else found:
            chain = rules.chain("nat", SERVICES)
            if chain is not None:
                yield f":{SERVICES} - [0:0]"
                yield from (f"-A {SERVICES} {raw}" for raw in chain.raw)

    def _is_of_iptables(self, table: KernelTable) -> bool:
        family = _WORDS.get(table.family)
        found = self.rulesets(family) if family else ()
        if isinstance(found, Gap):
            return False
        return any(
            table.name in one.tables and table.name not in one.notices
            for one in found
            if one.backend == "nf_tables"
        )

    def _tables(self) -> list[KernelTable]:
        return self._once("nf_tables", self._kernel.tables)


def _or_gap(part: Part, make: Callable[[], T]) -> T | Gap:
    try:
        return make()
    except CommandError as error:
        return gap(part, str(error), error.hint or "see what the command says when run by hand")
    except NetlinkError as error:
        return gap(part, f"nf_tables: {error}", "run as root")
    except OSError as error:
        return gap(part, str(error), "run as root")


def selective_snapshot(
    objects: ReadObjects | None = None, name: str = "", why_no_objects: str = ""
) -> SelectiveSnapshot:
    """Return the running node for following packets; the arguments are ``live_snapshot``'s."""

    def program(argv: Sequence[str]) -> str:
        return run(argv, timeout_s=TIMEOUT_S).stdout

    return SelectiveSnapshot(
        LiveSource(objects, why_no_objects or "no API server was named"),
        name,
        kernel=KernelNft(),
        programs=Programs(program, lambda tool: find_tool(tool) is not None),
    )
