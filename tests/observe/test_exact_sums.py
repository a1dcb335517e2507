"""Sums without rounding are the sums of fractions, in whichever order they are merged."""

from fractions import Fraction
from functools import reduce
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qir.errors import QirError
from qir.observe.exact_sums import ExactSums

Floats = NDArray[np.float64]

parts = st.floats(-2, 2, allow_subnormal=False).filter(lambda part: not 0 < abs(part) < 0.5)
numbers = st.builds(lambda part, exponent: part * 2.0**exponent, parts, st.integers(-300, 250))
"""What squares of float32 numbers and their sums may be."""
terms = st.lists(
    hnp.arrays(np.float64, 3, elements=numbers),
    min_size=1,
    max_size=8,
)


def merged(parts: list[ExactSums]) -> ExactSums:
    return reduce(ExactSums.merge, parts)


def fraction(sums: ExactSums, index: int) -> Fraction:
    words = [int(word) for word in sums.words[:, index]]
    total = sum(word << (32 * place) for place, word in enumerate(words))
    if words and words[-1] >> 31:
        total -= 1 << (32 * len(words))
    return Fraction(total) * Fraction(2) ** (32 * sums.low)


def same(one: ExactSums, other: ExactSums) -> bool:
    return one.low == other.low and np.array_equal(one.words, other.words)


@given(terms, st.randoms(use_true_random=False))
def test_merged_sums_are_exact_in_any_order(arrays: list[Floats], random: Random) -> None:
    whole = merged([ExactSums.of(array) for array in arrays])
    for index in range(3):
        exact = sum((Fraction(float(array[index])) for array in arrays), Fraction(0))
        assert fraction(whole, index) == exact
        # From the highest word down, two roundings count; what is below 2^-52 of the sum is gone.
        assert abs(Fraction(float(whole.array[index])) - exact) <= abs(exact) / 2**51
    parts = [ExactSums.of(array) for array in arrays]
    random.shuffle(parts)
    while len(parts) > 1:  # a tree of merges in which neighbours are drawn at random
        place = random.randrange(len(parts) - 1)
        parts[place : place + 2] = [parts[place + 1].merge(parts[place])]
    assert same(parts[0], whole)


@given(terms)
def test_terms_that_cancel_leave_nothing(arrays: list[Floats]) -> None:
    parts = [ExactSums.of(sign * array) for array in arrays for sign in (1, -1)]
    assert same(merged(parts), ExactSums.of(np.zeros(3)))


@given(terms)
def test_some_sums_are_those_of_some_terms(arrays: list[Floats]) -> None:
    chosen = np.array([2, 0])
    whole = merged([ExactSums.of(array) for array in arrays])
    assert same(whole.take(chosen), merged([ExactSums.of(array[chosen]) for array in arrays]))


def test_like_sums_take_few_words() -> None:
    numbers = np.random.default_rng(0).uniform(1, 2, 1000) * np.exp2(np.arange(1000) % 12)
    whole = merged([ExactSums.of(numbers)] * 1000)
    assert len(whole.words) <= 4  # 53 bits, 12 for their sizes and 10 for their number


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(QirError, match="expected finite numbers"):
        ExactSums.of(np.array([1.0, np.inf]))
    with pytest.raises(QirError, match=r"expected \[1\] of them, got \[2\]"):
        ExactSums.of(np.ones(1)).merge(ExactSums.of(np.ones(2)))
