"""Cut, mutated and foreign input is read as far as it goes, and never raises."""

from __future__ import annotations

import json
import random

import pytest

from diagnostics.nftables.json_reader import read_json
from diagnostics.nftables.model import NftRuleset
from diagnostics.nftables.rules import read_statements
from diagnostics.nftables.text_reader import read_text
from tests.unit.diagnostics.nftables.rulesets import DATA, content, from_json, opaque, texts

TEXT = (DATA / "third-parties.handles.txt").read_text()
JSON = (DATA / "third-parties.json").read_text()
NOISE = '{}",:. @#-|/\n\\[]()0x\0é'


def walk(ruleset: NftRuleset) -> None:
    """Take everything apart, as a trace would."""
    content(ruleset)
    texts(ruleset)
    for table in ruleset.tables.values():
        for item in table.sets.values():
            item.lookup(["10.0.0.1"] * len(item.key_types))


def mutated(text: str, chance: random.Random) -> str:
    """Delete, double or replace some characters, or cut the end off."""
    for _ in range(chance.randint(1, 6)):
        at, length = chance.randrange(len(text)), chance.randint(0, 12)
        new = chance.choice(["", chance.choice(NOISE), text[at : at + length] * 2])
        text = text[:at] + new + text[at + length :]
    return text[: chance.randrange(len(text))] if chance.random() < 0.3 else text


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_listing_never_raises(seed: int) -> None:
    walk(read_text(mutated(TEXT, random.Random(seed))))


@pytest.mark.parametrize("seed", range(60))
def test_damaged_json_never_raises(seed: int) -> None:
    walk(read_json(mutated(JSON, random.Random(seed))))


@pytest.mark.parametrize("seed", range(60))
def test_json_with_wrong_types_inside_never_raises(seed: int) -> None:
    chance = random.Random(seed)
    walk(read_json(json.dumps(_retyped(json.loads(JSON), chance))))


def _retyped(value: object, chance: random.Random) -> object:
    if chance.random() < 0.01:
        return chance.choice([None, 7, -1, "x", "", [], {}, [[]], {"a": 1}, True, 1.5, 1 << 70])
    if isinstance(value, dict):
        return {key: _retyped(part, chance) for key, part in value.items()}
    if isinstance(value, list):
        return [_retyped(part, chance) for part in value]
    return value


def test_whole_objects_of_a_cut_dump_are_kept_and_the_gap_is_named() -> None:
    whole, cut = content(from_json("third-parties")), read_json(JSON[: len(JSON) // 2])
    found = content(cut)
    assert len(found) > len(whole) // 4
    assert cut.gaps
    assert all(whole[key] == value for key, value in found.items() if key[1] != "chain")


def test_output_around_json_is_no_obstacle() -> None:
    noisy = read_json(b"warning: x\n" + JSON.encode() + b"\xff\n" + JSON.encode())
    assert content(noisy).keys() >= content(from_json("third-parties")).keys()


def test_something_else_is_an_empty_ruleset_with_a_gap() -> None:
    assert read_json("*nat\nCOMMIT") == NftRuleset({}, ("this is no output of nft -j",))
    assert read_text("*nat") == NftRuleset({}, ("line 1 is not understood: *nat",))


def test_a_listing_that_ends_inside_a_table_says_so() -> None:
    ruleset = read_text("table ip t {\n\tchain c {\n\t\taccept\n\t\tdrop")
    assert [rule.text for rule in ruleset.tables["ip", "t"].chains["c"].rules] == ["accept", "drop"]
    assert ruleset.gaps == ("the listing ends inside a table",)


def test_unknown_words_are_kept_as_text_and_what_follows_is_still_read() -> None:
    found = read_statements(
        "ip saddr 10.0.0.1 osf name { a, b } counter packets 1 bytes 2 drop", "ip"
    )
    assert [next(iter(one)) for one in found] == ["match", "opaque", "counter", "drop"]
    assert found[1] == {"opaque": "osf name { a, b }"}


def test_deep_nesting_is_opaque() -> None:
    deep = "(" * 20_000 + "x"
    assert all("opaque" in one for one in read_statements(f"meta mark & {deep}", "ip"))
    nested: object = 1
    for _ in range(300):
        nested = {"&": [nested, 1]}
    walk(read_json(json.dumps({"nftables": [_rule([{"match": nested}])]})))


def _rule(statements: list[object]) -> dict[str, object]:
    return {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": statements}}


def test_xtables_extensions_are_opaque_in_json_and_read_in_text() -> None:
    found = opaque(read_json((DATA / "iptables-nft.json").read_bytes()))
    assert '{"opaque": "xt match addrtype"}' in found
    text = read_text((DATA / "iptables-nft.txt").read_text())
    assert opaque(text) == []
    assert text.gaps == ()
    mark = text.tables["ip", "filter"].chains["FORWARD"].rules[1].expressions[-1]
    assert mark == {
        "mangle": {
            "key": {"meta": {"key": "mark"}},
            "value": {"|": [{"meta": {"key": "mark"}}, 0x4000]},
        }
    }
