"""Text and JSON of one ruleset are read into the same model, and cited in the same words."""

from __future__ import annotations

import pytest

from tests.unit.diagnostics.nftables.rulesets import (
    BOTH_FORMS,
    LISTINGS,
    content,
    from_json,
    from_text,
    opaque,
    texts,
)


def test_all_recorded_rulesets_are_found() -> None:
    assert len(BOTH_FORMS) >= 7
    assert len(LISTINGS) >= 11


@pytest.mark.parametrize("listing", LISTINGS)
def test_a_listing_with_handles_or_numbers_is_the_same_ruleset_as_json(listing: str) -> None:
    text, json = from_text(listing), from_json(listing.split(".")[0])
    assert text.gaps == json.gaps == ()
    assert content(text) == content(json)


@pytest.mark.parametrize("name", BOTH_FORMS)
def test_a_rule_and_an_element_from_json_are_cited_as_nft_lists_them(name: str) -> None:
    assert texts(from_json(name)) == texts(from_text(f"{name}.txt"))


@pytest.mark.parametrize("listing", LISTINGS)
def test_nothing_of_these_rulesets_is_opaque(listing: str) -> None:
    assert opaque(from_text(listing)) == []
    assert opaque(from_json(listing.split(".")[0])) == []


def test_handles_are_the_same_in_both_forms() -> None:
    def handles(ruleset):
        return {
            (key, chain.name): [rule.handle for rule in chain.rules]
            for key, table in ruleset.tables.items()
            for chain in table.chains.values()
        }

    json = handles(from_json("kpctl-layout"))
    assert json == handles(from_text("kpctl-layout.handles.txt"))
    assert None not in {handle for found in json.values() for handle in found}


def test_elements_of_all_sets_can_be_looked_up() -> None:
    for name in BOTH_FORMS:
        for table in from_json(name).tables.values():
            for item in table.sets.values():
                assert item.index.opaque == ()
                for element in item.elements:
                    low = [span[0] for span in element.spans or ()]
                    assert item.lookup(low) == element
