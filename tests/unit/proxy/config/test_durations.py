"""Go duration strings."""

import pytest

from proxy.config.durations import format_duration, parse_duration

CANONICAL = {
    "0s": 0.0,
    "1ns": 1e-9,
    "2.5µs": 2.5e-6,
    "300ms": 0.3,
    "1.5s": 1.5,
    "1m0s": 60.0,
    "15m0s": 900.0,
    "24h0m0s": 86400.0,
    "1h2m3.004s": 3723.004,
    "-5s": -5.0,
}


@pytest.mark.parametrize(("text", "seconds"), CANONICAL.items())
def test_canonical_texts_are_read_and_written(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("-0", 0.0), ("+3s", 3.0), (".5s", 0.5), ("1.s", 1.0), ("1s1h", 3601.0)],
)
def test_other_spellings_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["1us", "1\u00b5s", "1\u03bcs"])
def test_microseconds_have_three_spellings(text: str) -> None:
    assert parse_duration(text) == 1e-6


@pytest.mark.parametrize(
    "text", ["", "-", "30", "s", "1", "1 s", "1d", "--1s", ".s", "1s ", "1e3s", "300000000h"]
)
def test_what_is_no_duration_is_none(text: str) -> None:
    assert parse_duration(text) is None


def test_an_absurdly_long_text_is_refused_without_arithmetic() -> None:
    assert parse_duration("9" * 100_000 + "s") is None
