"""
nf_tables as a kernel answered once, with what nft printed of the same tables.

Files of tests/data/live: ``tables``; ``chains``, what ``nft -j list chains`` printed; ``rules``,
the netlink attributes of each chain's rules in hexadecimal; ``sets`` with the attributes of their
elements; ``ruleset``, what ``nft -j list ruleset`` printed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diagnostics.live.kernel import KernelSet, KernelTable
from diagnostics.nftables.json_reader import read_json
from diagnostics.nftables.model import NftRuleset
from proxy.netfilter.wire import attributes

_FOLDER = Path(__file__).parent.parent / "data" / "live"
_Place = tuple[str, str, str]


class RecordedNft:
    """
    An NftReader, and a runner of nft, over one file.

    Attributes:
        asked: what was asked of the kernel, as method and name.
        ran: the command lines of nft.
    """

    def __init__(self, name: str) -> None:
        self._data: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text())
        self._rules: dict[_Place, list[bytes]] = {
            (one["family"], one["table"], one["chain"]): list(map(bytes.fromhex, one["rules"]))
            for one in self._data["rules"]
        }
        self._sets = {
            (one["family"], one["table"], one["header"][0]): one for one in self._data["sets"]
        }
        self.asked: list[tuple[str, str]] = []
        self.ran: list[str] = []

    @property
    def ruleset(self) -> NftRuleset:
        """The tables as nft printed them."""
        return read_json(json.dumps(self._data["ruleset"]))

    # What a kernel answers, see NftReader.

    def tables(self) -> list[KernelTable]:
        self.asked.append(("tables", ""))
        return [KernelTable(*one) for one in self._data["tables"]]

    def has_chain(self, table: KernelTable, chain: str) -> bool:
        self.asked.append(("has_chain", chain))
        return (table.family, table.name, chain) in self._rules

    def rules(self, table: KernelTable, chain: str) -> list[bytes]:
        self.asked.append(("rules", chain))
        return self._rules[table.family, table.name, chain]

    def set(self, table: KernelTable, name: str) -> KernelSet | None:
        self.asked.append(("set", name))
        found = self._sets.get((table.family, table.name, name))
        return (
            KernelSet(*found["header"][:-1], bytes.fromhex(found["header"][-1])) if found else None
        )

    def elements(self, table: KernelTable, name: str) -> list[bytes]:
        self.asked.append(("elements", name))
        found = self._sets[table.family, table.name, name]["elements"]
        return [bytes.fromhex(element) for element in found]

    def element(self, table: KernelTable, name: str, key: bytes) -> bytes | None:
        found = self.elements(table, name)
        self.asked[-1] = ("element", name)
        catch_all = None
        for element in found:
            parts = attributes(element)
            if 1 not in parts:
                catch_all = element
            elif bytes(attributes(parts[1])[1]) == key:
                return element
        return catch_all

    # What nft prints.

    def run(self, argv: Sequence[str]) -> str:
        """Print chains without rules, or everything where one thing is wanted."""
        self.ran.append(" ".join(argv))
        return json.dumps(self._data["chains" if argv[-1] == "chains" else "ruleset"])
