"""YAML and JSON texts, with lines and duplicates."""

import pytest

from proxy.config.problems import InvalidConfiguration
from proxy.config.text import Mapping, parse_documents


def only(text: str) -> Mapping:
    (document,) = parse_documents(text)
    assert isinstance(document, Mapping)
    return document


def test_keys_remember_their_lines() -> None:
    document = only("a: 1\nb:\n  c: 2\n")
    section = document["b"]
    assert isinstance(section, Mapping)
    assert (document.lines, section.lines) == ({"a": 1, "b": 2}, {"c": 3})


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", '{"a": 1, "b": 2, "a": 3}'])
def test_the_last_of_a_duplicate_key_counts_and_is_noted(text: str) -> None:
    document = only(text)
    assert document == {"a": 3, "b": 2}
    assert document.duplicates == ["a"]


def test_json_may_be_indented_with_tabs() -> None:
    assert only('{\n\t"a": [1, true, null]\n}') == {"a": [1, True, None]}


def test_flow_style_yaml_is_not_mistaken_for_json() -> None:
    assert only("{a: 1}") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),  # no base-60 integers
        ("2001-01-01", "2001-01-01"),  # no dates
        ("1e3", 1000.0),
        ("017", 15),
        ("0o17", 15),
        ("0x10", 16),
        ("1_000", 1000),
        ("-.5", -0.5),
        ("::0", "::0"),
        ("yes", True),
        ("~", None),
        ('"5"', "5"),
    ],
)
def test_scalars_have_the_types_kubernetes_gives_them(text: str, value: object) -> None:
    assert only(f"a: {text}") == {"a": value}


def test_anchors_and_merge_keys_work_and_own_keys_win() -> None:
    document = only("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n")
    assert document["use"] == {"x": 1, "y": 3}
    assert document["use"].duplicates == []  # type: ignore[attr-defined]


def test_keys_that_are_no_text_become_text() -> None:
    assert only("1: a\ntrue: b\n") == {"1": "a", "true": "b"}


def test_empty_documents_are_left_out() -> None:
    assert parse_documents("---\n---\na: 1\n---\n") == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: ::", 2), ("a: b\nthis is prose", 2), ('{"a": 1', 1), ("a: {[x]: 1}", 1)],
)
def test_a_syntax_error_names_its_line(text: str, line: int) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_documents(text)
    (problem,) = caught.value.problems
    assert (problem.kind, problem.line) == ("syntax", line)


@pytest.mark.parametrize("text", ["\x00", "[" * 100_000, "a: !!python/object:os.system {}"])
def test_hostile_text_is_refused_cleanly(text: str) -> None:
    with pytest.raises(InvalidConfiguration):
        parse_documents(text)


def test_lines_can_start_elsewhere_or_be_unknown() -> None:
    (shifted,) = parse_documents("a: 1", first_line=10)
    (unknown,) = parse_documents("a: 1", first_line=None)
    assert shifted.lines == {"a": 10}  # type: ignore[attr-defined]
    assert unknown.lines == {}  # type: ignore[attr-defined]
