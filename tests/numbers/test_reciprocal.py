"""Reciprocals of 31 bits, and quotients with one rounding, against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from qir.errors import QirError
from qir.numbers.reciprocal import multiplier, quotient, ratio_significand, reciprocal

EDGES = [1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 2**16 - 1, 2**30, 2**30 + 1, 2**31 - 1]


@pytest.mark.parametrize("divisor", EDGES)
def test_a_reciprocal_is_the_floor_of_the_exact_one(divisor: int) -> None:
    significand, exponent = reciprocal(np.asarray(divisor))
    assert 2**30 <= significand < 2**31
    assert int(significand) == 2 ** int(exponent) // divisor


@pytest.mark.parametrize("divisor", [0, -1, 2**31])
def test_a_divisor_out_of_range_is_refused(divisor: int) -> None:
    with pytest.raises(QirError, match=r"expected an integer in \[1, 2\^31\), got"):
        reciprocal(np.asarray([3, divisor]))


@pytest.mark.parametrize("ratio", [1.0, 1 / 3, 255.0, 2.0**-40, 2.0**40, np.nextafter(2.0, 1)])
def test_a_ratio_has_31_bits(ratio: float) -> None:
    value, places = ratio_significand(ratio, 1.0)
    assert 2**30 <= value < 2**31
    exact = Fraction(ratio) * Fraction(2) ** int(places)
    assert abs(int(value) - exact) <= Fraction(1, 2)


def test_quotients_are_within_2_to_the_minus_20_of_the_real_ones_before_rounding() -> None:
    rng = np.random.default_rng(0)
    divisors = np.concatenate([EDGES, rng.integers(1, 2**31, 2000) >> rng.integers(0, 31, 2000)])
    divisors = np.maximum(divisors, 1) * rng.choice([-1, 1], divisors.size)
    dividends = rng.integers(-(2**31) + 1, 2**31, divisors.size) >> rng.integers(0, 31)
    for scale in (1.0, 1 / 3, 2.0**-20, 2.0**20):
        found = quotient(dividends, divisors, scale, 1.0)
        for x, y, rounded in zip(
            dividends.tolist(), divisors.tolist(), found.tolist(), strict=True
        ):
            exact = Fraction(x, y) * Fraction(scale)
            if abs(exact) <= 256:
                assert abs(rounded - exact) <= Fraction(1, 2) + Fraction(1, 2**20)
            else:
                # What is clamped to any code of 8 bits is at the same bound.
                assert (rounded > 255) == (exact > 0) or abs(rounded) >= 255


def test_halves_go_up_where_the_divisor_is_a_power_of_two() -> None:
    found = quotient(np.array([1, -1, 3, -3]), np.array([2]), 1.0, 1.0)
    assert found.tolist() == [1, 0, 2, -1]
    assert [floor(x / 2 + 0.5) for x in (1, -1, 3, -3)] == found.tolist()


def test_shifts_stay_inside_of_those_that_machines_have() -> None:
    _, places = multiplier(np.array([1, 2**31 - 1]), 2.0**60, 1.0)
    assert places.tolist() == [1, 1]
    value, places = multiplier(np.array([1, 2**31 - 1]), 2.0**-60, 1.0)
    assert (value.tolist(), places.tolist()) == ([0, 0], [62, 62])
