"""Probabilities are the kernel's, and are recognised as the shares that were meant."""

from __future__ import annotations

from fractions import Fraction

import pytest

from diagnostics.iptables.numbers import intended_probability, read_probability


def test_a_probability_is_a_multiple_of_the_kernels_step() -> None:
    assert read_probability("0.33333333349") == Fraction(715827883, 2**31)


@pytest.mark.parametrize("n", [*range(1, 300), 1000, 5000])
def test_a_share_written_with_ten_digits_and_printed_by_the_kernel_is_recognised(n: int) -> None:
    kernel = read_probability(f"{1 / n:.10f}")
    printed = f"{float(kernel):.11f}"
    assert read_probability(printed) == kernel
    assert intended_probability(kernel) == Fraction(1, n)


@pytest.mark.parametrize("n", range(1, 200))
def test_a_share_of_an_old_version_with_five_digits_is_recognised(n: int) -> None:
    assert intended_probability(read_probability(f"{1 / n:.5f}")) == Fraction(1, n)


@pytest.mark.parametrize("text", ["0", "0.3", "0.75", "0.33343"])
def test_a_probability_that_is_no_share_stays(text: str) -> None:
    probability = read_probability(text)
    assert intended_probability(probability) == probability


@pytest.mark.parametrize("text", ["1.5", "-0.1", "often", ""])
def test_a_wrong_probability_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_probability(text)
