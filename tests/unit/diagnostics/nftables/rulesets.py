"""The recorded rulesets, and what two of them must have in common to be the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diagnostics.nftables.json_reader import read_json
from diagnostics.nftables.model import NftRuleset
from diagnostics.nftables.text_reader import read_text

DATA = Path(__file__).parents[3] / "data" / "nft"
NAMES = sorted(path.stem for path in DATA.glob("*.json"))
BOTH_FORMS = [name for name in NAMES if name != "iptables-nft"]
LISTINGS = sorted(path.name for path in DATA.glob("*.txt") if path.stem != "iptables-nft")

Content = dict[tuple[Any, ...], Any]


def from_json(name: str) -> NftRuleset:
    return read_json((DATA / f"{name}.json").read_bytes())


def from_text(file_name: str) -> NftRuleset:
    return read_text((DATA / file_name).read_text())


def content(ruleset: NftRuleset) -> Content:
    """All that JSON of nft 1.0.6 tells too: no handles, no comments of tables and chains."""
    found: Content = {}
    for key, table in ruleset.tables.items():
        for chain in table.chains.values():
            base = (chain.hook, chain.type, chain.priority, chain.policy)
            found[(key, "chain", chain.name)] = base
            for rule in chain.rules:
                place = (key, "rule", chain.name, rule.number)
                found[place] = (rule.expressions, rule.comment)
        for item in table.sets.values():
            found[(key, "set", item.name)] = (
                item.kind,
                item.key_types,
                item.data_types,
                item.flags - {"dynamic"},
                item.timeout,
                item.size,
                item.comment,
                [(e.spans, e.key, e.data, e.comment, e.timeout, e.expires) for e in item.elements],
            )
    return found


def texts(ruleset: NftRuleset) -> dict[tuple[Any, ...], str]:
    """The text of every rule and element, for citing."""
    found = {}
    for key, table in ruleset.tables.items():
        for chain in table.chains.values():
            found |= {(key, chain.name, rule.number): rule.text for rule in chain.rules}
        for item in table.sets.values():
            found |= {(key, item.name, e.spans): e.text for e in item.elements}
    return found


def opaque(ruleset: NftRuleset) -> list[str]:
    """Statements with something in them that was not understood."""
    every = [
        statement
        for table in ruleset.tables.values()
        for chain in table.chains.values()
        for rule in chain.rules
        for statement in rule.expressions
    ]
    return [text for text in map(json.dumps, every) if "opaque" in text]
